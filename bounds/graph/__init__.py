"""The network as a value: `Graph`, its nodes, and how a module becomes one.

`trace` exports a module and `reader` turns the exported program into a graph.  `functionalise` and `canonical` rewrite
the program, and `purity` refuses a program that is not a function of one image.  `folding` and `batch_norm` hold the
formulas of batch normalisation, `facts` everything that is computed from a graph once.
"""

from .graph import Call, Graph, Network
from .node import FLOATS, Node, Ref, execute, resolve

__all__ = ["FLOATS", "Call", "Graph", "Network", "Node", "Ref", "execute", "resolve"]
