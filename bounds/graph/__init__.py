"""The network as a value: `Graph`, its nodes, and how a module becomes one.

`trace` reads a module, `functionalise` and `canonical` rewrite what it reads, `purity` refuses what is no
function of one image.  `folding` and `batch_norm` hold the formulas of batch normalisation, `facts` what can be read
off a graph once.
"""

from .graph import Call, Graph, Network
from .node import FLOATS, Node, Ref, execute, resolve

__all__ = ["FLOATS", "Call", "Graph", "Network", "Node", "Ref", "execute", "resolve"]
