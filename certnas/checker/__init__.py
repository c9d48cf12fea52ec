"""An independent check of certificates: numpy, integers and nothing of the bound engine."""

from certnas.checker.certificate import Certificate, Plane, Planes, Step
from certnas.checker.check import Checked, Rejected, check, enclosure
from certnas.checker.network import Network, Node, Unsupported

__all__ = [
    "Certificate",
    "Checked",
    "Network",
    "Node",
    "Plane",
    "Planes",
    "Rejected",
    "Step",
    "Unsupported",
    "check",
    "enclosure",
]
