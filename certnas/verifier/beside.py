"""Extends a network by its input, for properties that relate outputs to inputs."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch

from certnas import bounds
from certnas.bounds import Node
from certnas.bounds.extend import Ref

aten = torch.ops.aten


def beside_input(network: bounds.Network) -> bounds.Network:
    """Returns the network x [N, *in] -> (f(x), x) [N, m + n], both parts flat.

    A linear form of outputs and inputs is then one row of its output.
    """
    graph = network.graph
    m, n = prod(graph.output_shape), prod(graph.input_shape)
    parts = [_flat(f"beside.{kind}", name, size) for kind, name, size in
             (("output", graph.output, m), ("input", graph.input, n))]  # fmt: skip
    names = tuple(part.name for part in parts)
    arguments = {"tensors": [Ref(name) for name in names], "dim": 1}
    whole = Node("beside", aten.cat.default, arguments, names, (m + n,))
    nodes = {**graph.nodes, **{node.name: node for node in (*parts, whole)}}
    return replace(network, graph=replace(graph, nodes=nodes, output=whole.name))


def _flat(name: str, source: str, size: int) -> Node:
    arguments = {"self": Ref(source), "start_dim": 1, "end_dim": -1}
    return Node(name, aten.flatten.using_ints, arguments, (source,), (size,))
