"""Oracles that use nothing of `bounds`: exact optima by other people's solvers, and points of a region."""

from oracles.linear import linear_minimum
from oracles.milp import Optimum, exact_minimum
from oracles.points import Box, Norm, descend_region, sample_region

__all__ = ["Box", "Norm", "Optimum", "descend_region", "exact_minimum", "linear_minimum", "sample_region"]
