"""Properties of networks: read, attacked, proved by the cheapest bound that will, or by branch and bound."""

from certnas.verify.property import Box, Clause, Constraint, Property
from certnas.verify.tightening import tighten
from certnas.verify.verdict import Counterexample, Step, Verdict
from certnas.verify.verification import network_of, verify
from certnas.verify.vnnlib import parse_vnnlib, read_vnnlib

__all__ = [
    "Box",
    "Clause",
    "Constraint",
    "Counterexample",
    "Property",
    "Step",
    "Verdict",
    "network_of",
    "parse_vnnlib",
    "read_vnnlib",
    "tighten",
    "verify",
]
