"""The bound methods.  Each is a value that composes the passes; `METHODS` names them."""

from ..errors import InvalidInput
from .alpha_crown import AlphaCrown, CrownAtAlphas
from .crown import Crown
from .ibp import IBP, CrownIBP
from .method import Method, lower_bounds, output_bounds
from .zonotope import Zonotope, ZonotopeCrown

METHODS: dict[str, Method] = {
    "ibp": IBP(),
    "crown-ibp": CrownIBP(),
    "zonotope": Zonotope(),
    "zonotope+crown": ZonotopeCrown(),
    "crown": Crown(),
    "alpha-crown": AlphaCrown(),
}
"""Every method by its name.  `register_method` adds one."""


def register_method(name: str, method: Method) -> Method:
    """Register a method under a name, so that options and commands accept it.

    name: the key in `METHODS`.  method: an instance of a subclass of `Method`.
    Returns the method.
    Raises InvalidInput for a name that is already registered.

    >>> import bounds
    >>> bounds.register_method("fast-lin", bounds.Crown(slope=bounds.Slope.PARALLEL)).slope
    <Slope.PARALLEL: 'parallel'>
    """
    if name in METHODS:
        raise InvalidInput(f"register_method: there is a method '{name}' already")
    METHODS[name] = method
    return method


__all__ = [
    "IBP",
    "METHODS",
    "AlphaCrown",
    "Crown",
    "CrownAtAlphas",
    "CrownIBP",
    "Method",
    "Zonotope",
    "ZonotopeCrown",
    "lower_bounds",
    "output_bounds",
    "register_method",
]
