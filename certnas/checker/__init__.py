"""Checks certificates independently of the bound engine, with numpy and integers."""

from certnas.checker.certificate import (
    Certificate,
    CertificatePart,
    ClaimedPlane,
    IntervalClaim,
    Planes,
    Refutation,
    Split,
)
from certnas.checker.check import check
from certnas.checker.known import Known
from certnas.checker.network import CheckedNetwork, CheckedNode, Unsupported, evaluate
from certnas.checker.rejected import Rejected

__all__ = [
    "Certificate",
    "CertificatePart",
    "CheckedNetwork",
    "CheckedNode",
    "ClaimedPlane",
    "IntervalClaim",
    "Known",
    "Planes",
    "Refutation",
    "Rejected",
    "Split",
    "Unsupported",
    "check",
    "evaluate",
]
