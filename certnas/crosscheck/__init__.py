"""Other tools' bounds for the same network, region and rows, to compare with ours."""

from certnas.crosscheck.auto_lirpa import (
    LirpaBounds,
    Method,
    Norm,
    OracleUnusable,
    auto_lirpa_bounds,
    lirpa_version,
)
from certnas.crosscheck.comparison import METHODS, TOLERANCE, Comparison, compare

__all__ = [
    "METHODS",
    "TOLERANCE",
    "Comparison",
    "LirpaBounds",
    "Method",
    "Norm",
    "OracleUnusable",
    "auto_lirpa_bounds",
    "compare",
    "lirpa_version",
]
