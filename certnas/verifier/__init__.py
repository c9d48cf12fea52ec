"""Verifies properties of networks by attacks, by bounds from the cheapest on, and by branch and bound."""

from certnas.verifier.property import Box, Clause, Constraint, Property
from certnas.verifier.tightening import tighten
from certnas.verifier.verdict import Counterexample, Verdict, VerificationProgress
from certnas.verifier.verification import network_of, verify
from certnas.verifier.vnnlib import parse_vnnlib, read_vnnlib

__all__ = [
    "Box",
    "Clause",
    "Constraint",
    "Counterexample",
    "Property",
    "Verdict",
    "VerificationProgress",
    "network_of",
    "parse_vnnlib",
    "read_vnnlib",
    "tighten",
    "verify",
]
