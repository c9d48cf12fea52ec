"""An independent check of certificates: numpy, integers and nothing of the bound engine."""

from certnas.checker.certificate import Certificate, Part, Plane, Planes, Refutation, Split, Step
from certnas.checker.check import Known, Rejected, check
from certnas.checker.network import Network, Node, Unsupported, evaluate

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
