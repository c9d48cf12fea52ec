"""The interface for code that is built on the engine: methods, proofs, branch and bound, differentiable metrics.

`bounds` alone is enough to compute bounds.  A new operator is a record (`bounds.Affine` or `bounds.Nonlinear`) that is
given to `bounds.register_operator`; the functions that it consists of have the signatures `LinearRule`,
`IntervalRule`, `RelaxRule` and so on.  A new method is a subclass of `bounds.Method`, whose `lower` works on a
`BoundState`.
"""

from .chunking import MemoryBudget, budget, free_memory
from .graph import Call, Ref
from .graph.canonical import COMPOSED
from .memory_format import fastest_last
from .methods.alpha_crown import TargetAlphas
from .operators import REGISTERED, RULES, rule_for
from .operators.curve import Curve
from .operators.curve import rule as curve_rule
from .operators.movement import IDENTITIES, RESHAPES, SELECTIONS
from .operators.rule import (
    Alphas,
    AlphasRule,
    BiasRule,
    DomainRule,
    IntervalRule,
    LinearRule,
    RelaxRule,
    TransposeRule,
    UnstableRule,
    WorkRule,
)
from .passes.crown import lower_bound
from .passes.domain import undefined, without
from .passes.ibp import interval_bounds
from .passes.zonotope import AffineForm, ZonotopePass
from .patch import ELEMENTWISE, PatchRule
from .relaxation import EVERYTHING, Diagonal, LinearMap, Plane, Relaxation, Windowed
from .rows import NodeAlphas
from .state import BoundState, Meet

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
    "AlphasRule",
    "BiasRule",
    "BoundState",
    "Call",
    "Curve",
    "Diagonal",
    "DomainRule",
    "IntervalRule",
    "LinearMap",
    "LinearRule",
    "Meet",
    "MemoryBudget",
    "NodeAlphas",
    "PatchRule",
    "Plane",
    "Ref",
    "RelaxRule",
    "Relaxation",
    "TargetAlphas",
    "TransposeRule",
    "UnstableRule",
    "Windowed",
    "WorkRule",
    "ZonotopePass",
    "budget",
    "curve_rule",
    "fastest_last",
    "free_memory",
    "interval_bounds",
    "lower_bound",
    "rule_for",
    "undefined",
    "without",
]
