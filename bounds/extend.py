"""What is built on the engine itself imports from here: methods, proofs, branch and bound, differentiable metrics.

A user of bounds needs `bounds` alone.  A new operator is a record (`bounds.Affine` or `bounds.Nonlinear`) given to
`bounds.register_operator`; a new method is a subclass of `bounds.Method` whose `lower` works on a `BoundState`.
"""

from bounds.chunking import MemoryBudget, budget, free_memory
from bounds.graph import Call, Ref
from bounds.graph.canonical import COMPOSED
from bounds.memory_format import fastest_last
from bounds.methods.alpha_crown import TargetAlphas
from bounds.operators import REGISTERED, RULES, rule_for
from bounds.operators.curve import Curve
from bounds.operators.curve import rule as curve_rule
from bounds.operators.movement import IDENTITIES, RESHAPES, SELECTIONS
from bounds.operators.rule import Alphas
from bounds.passes.crown import lower_bound
from bounds.passes.ibp import interval_bounds
from bounds.passes.zonotope import AffineForm, ZonotopePass
from bounds.patch import ELEMENTWISE, PatchRule
from bounds.relaxation import EVERYTHING, Diagonal, LinearMap, Plane, Relaxation, Windowed
from bounds.rows import NodeAlphas
from bounds.state import BoundState, Meet

__all__ = [
    "COMPOSED",
    "ELEMENTWISE",
    "EVERYTHING",
    "IDENTITIES",
    "REGISTERED",
    "RESHAPES",
    "RULES",
    "SELECTIONS",
    "AffineForm",
    "Alphas",
    "BoundState",
    "Call",
    "Curve",
    "Diagonal",
    "LinearMap",
    "Meet",
    "MemoryBudget",
    "NodeAlphas",
    "PatchRule",
    "Plane",
    "Ref",
    "Relaxation",
    "TargetAlphas",
    "Windowed",
    "ZonotopePass",
    "budget",
    "curve_rule",
    "fastest_last",
    "free_memory",
    "interval_bounds",
    "lower_bound",
    "rule_for",
]
