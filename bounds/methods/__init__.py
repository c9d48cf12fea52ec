"""Bound methods: each a value, each a composition of the passes.  `METHODS` names them."""

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


def register_method(name: str, method: Method) -> Method:
    """Give a method a name, from outside of this package: options and commands then accept it.

    Raises InvalidInput for a name that is taken.
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
