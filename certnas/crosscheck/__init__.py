"""Other tools' bounds for the same network, region and rows, to compare with ours."""

from certnas.crosscheck.auto_lirpa import LirpaBounds, Method, Norm, OracleUnusable, auto_lirpa_bounds

__all__ = ["LirpaBounds", "Method", "Norm", "OracleUnusable", "auto_lirpa_bounds"]
