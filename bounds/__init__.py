"""Certified linear bounds of neural networks over perturbation regions.

    graph = bounds.trace(model, example)
    region = bounds.Linf(x, eps=8 / 255, lower=0.0, upper=1.0)
    lower = bounds.lower_bounds(graph.bind(), region, bounds.margins(labels, classes), bounds.Crown())

`lower > 0` proves that every image of the region keeps its label.
"""

import certnas as _certnas  # noqa: F401  which makes this package `certnas.bounds` as well

from .errors import BoundsError, ConstantOutput, InvalidInput, MemoryWarning, OutOfMemory, UnsupportedOp
from .estimation import Estimate, estimates
from .graph import Graph, Network, Node
from .graph.trace import program_of, trace
from .interval import Interval
from .methods import (
    IBP,
    METHODS,
    AlphaCrown,
    Crown,
    CrownAtAlphas,
    CrownIBP,
    Method,
    Zonotope,
    ZonotopeCrown,
    lower_bounds,
    output_bounds,
    register_method,
)
from .operators import Affine, Nonlinear, check, register_operator
from .region import L1, L2, NORMS, Linf, Region, register_norm
from .relaxation import SLOPES, Slope
from .specification import logits, margins, targeted

__all__ = [
    "IBP",
    "L1",
    "L2",
    "METHODS",
    "NORMS",
    "SLOPES",
    "Affine",
    "AlphaCrown",
    "BoundsError",
    "ConstantOutput",
    "Crown",
    "CrownAtAlphas",
    "CrownIBP",
    "Estimate",
    "Graph",
    "Interval",
    "InvalidInput",
    "Linf",
    "MemoryWarning",
    "Method",
    "Network",
    "Node",
    "Nonlinear",
    "OutOfMemory",
    "Region",
    "Slope",
    "UnsupportedOp",
    "Zonotope",
    "ZonotopeCrown",
    "check",
    "estimates",
    "logits",
    "lower_bounds",
    "margins",
    "output_bounds",
    "program_of",
    "register_method",
    "register_norm",
    "register_operator",
    "targeted",
    "trace",
]
