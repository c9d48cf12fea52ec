"""An independent check of certificates: numpy, integers and nothing of the bound engine."""

from certnas.checker.certificate import Certificate, Part, Plane, Planes, Refutation, Split, Step
from certnas.checker.check import check
from certnas.checker.known import Known
from certnas.checker.network import Network, Node, Unsupported, evaluate
from certnas.checker.rejected import Rejected

__all__ = [
    "Certificate",
    "Known",
    "Network",
    "Node",
    "Part",
    "Plane",
    "Planes",
    "Refutation",
    "Rejected",
    "Split",
    "Step",
    "Unsupported",
    "check",
    "evaluate",
]
