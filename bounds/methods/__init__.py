"""Bound methods: each a value, each a composition of the passes.  `METHODS` names them."""

from bounds.methods.alpha_crown import AlphaCrown, CrownAtAlphas
from bounds.methods.crown import Crown
from bounds.methods.ibp import IBP, CrownIBP
from bounds.methods.method import Method, lower_bounds, output_bounds
from bounds.methods.zonotope import Zonotope, ZonotopeCrown

METHODS: dict[str, Method] = {
    "ibp": IBP(),
    "crown-ibp": CrownIBP(),
    "zonotope": Zonotope(),
    "zonotope+crown": ZonotopeCrown(),
    "crown": Crown(),
    "alpha-crown": AlphaCrown(),
}

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
]
