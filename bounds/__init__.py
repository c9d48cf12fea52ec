"""Certified linear bounds of neural networks over perturbation regions.

    graph = bounds.trace(model, example)
    region = bounds.Linf(x, eps=8 / 255, lower=0.0, upper=1.0)
    lower = bounds.lower_bounds(graph.bind(), region, bounds.margins(labels, classes), bounds.Crown())

`lower > 0` proves that every image of the region keeps its label.
"""

from bounds.alpha import AlphaCrown, TunedCrown
from bounds.errors import BoundsError, ConstantOutput, InvalidInput, MemoryWarning, OutOfMemory, UnsupportedOp
from bounds.estimates import Estimate, estimates
from bounds.graph import Graph, Network, Node
from bounds.interval import Interval
from bounds.methods import IBP, Crown, CrownIBP, Method, Zonotope, ZonotopeCrown, lower_bounds, output_bounds
from bounds.ops import check
from bounds.region import L1, L2, NORMS, Linf, Region
from bounds.relaxation import SLOPES, Slope
from bounds.rows import logits, margins, targeted
from bounds.trace import program_of, trace

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
    "L1",
    "L2",
    "METHODS",
    "NORMS",
    "SLOPES",
    "AlphaCrown",
    "BoundsError",
    "ConstantOutput",
    "Crown",
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
    "OutOfMemory",
    "Region",
    "Slope",
    "TunedCrown",
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
    "targeted",
    "trace",
]
