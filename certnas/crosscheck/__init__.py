"""Comparison with auto_LiRPA's bounds for the same network, region and specification."""

from certnas.crosscheck.auto_lirpa import (
    Ascent,
    Converted,
    LirpaBounds,
    Method,
    OracleUnusable,
    auto_lirpa_bounds,
)
from certnas.crosscheck.comparison import METHODS, TOLERANCE, Comparison, compare
from certnas.crosscheck.lirpa_library import lirpa_version
from certnas.crosscheck.sharding import Crosscheck, Part, joined, parts

__all__ = [
    "METHODS",
    "TOLERANCE",
    "Ascent",
    "Comparison",
    "Converted",
    "Crosscheck",
    "LirpaBounds",
    "Method",
    "OracleUnusable",
    "Part",
    "auto_lirpa_bounds",
    "compare",
    "joined",
    "lirpa_version",
    "parts",
]
