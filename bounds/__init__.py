"""Certified linear bounds of neural networks over perturbation regions.

    graph = bounds.trace(model, example)
    region = bounds.Linf(x, eps=8 / 255, lower=0.0, upper=1.0)
    lower = bounds.lower_bounds(graph.bind(), region, bounds.margins(labels, classes), bounds.Crown())

`lower > 0` proves that every image of the region keeps its label.
"""

from bounds.errors import BoundsError, ConstantOutput, InvalidInput, MemoryWarning, OutOfMemory, UnsupportedOp
from bounds.estimates import Estimate, estimates
from bounds.graph import Graph, Network, Node
from bounds.graph.trace import program_of, trace
from bounds.interval import Interval
from bounds.methods import (
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
from bounds.operators import Affine, Nonlinear, check, register_operator
from bounds.region import L1, L2, NORMS, Linf, Region, register_norm
from bounds.relaxation import SLOPES, Slope
from bounds.specification import logits, margins, targeted

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
