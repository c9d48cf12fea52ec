"""The oracles of the tests, which share nothing with the bound engine: sampled points, and exact minima."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from oracles import Norm, descend_region, exact_minimum, sample_region

__all__ = ["Norm", "descend_region", "exact_minimum", "sample_region"]
