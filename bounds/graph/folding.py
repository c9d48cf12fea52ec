"""Batch normalisation multiplied into the convolution or linear layer before it: one operator instead of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch

from ..operators.affine import norm_scale
from . import Graph, Network
from .node import Node, Ref

aten = torch.ops.aten
FOLDED_INTO = (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.linear.default)


def folded(network: Network) -> Network:
    """The same function; every other node keeps its name and its values.  Differentiable in the parameters.

    Weights are multiplied at each call, which costs less than a look at one image: so they may change in between.
    """
    graph, pairs = _folded(network.graph)
    if not pairs:
        return network
    values = dict(network.values)
    for norm, before in pairs.items():
        scale, shift = norm_scale(network.call(network.graph.nodes[norm]))
        call = network.call(network.graph.nodes[before])
        weight, bias = call["weight"], call["bias"]
        values[f"{norm}.weight"] = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        values[f"{norm}.bias"] = shift.flatten() if bias is None else shift.flatten() + bias * scale.flatten()
    return replace(network, graph=graph, values=values)


@lru_cache(maxsize=64)
def _folded(graph: Graph) -> tuple[Graph, Mapping[str, str]]:
    """The graph without them, and for each batch normalisation that is gone the node that took it in."""
    reads: dict[str, int] = {graph.output: 1}
    for node in graph.nodes.values():
        for operand in node.operands:
            reads[operand] = reads.get(operand, 0) + 1
    pairs = {
        node.name: node.operands[0]
        for node in graph.nodes.values()
        if node.target is aten.batch_norm.default
        and not node.arguments["training"]
        and len(node.operands) == 1
        and reads[node.operands[0]] == 1
        and _takes_in(graph.nodes.get(node.operands[0]))
    }
    gone = set(pairs.values())
    nodes = {}
    for name, node in graph.nodes.items():
        if name in pairs:
            before = graph.nodes[pairs[name]]
            arguments = {**before.arguments, "weight": Ref(f"{name}.weight"), "bias": Ref(f"{name}.bias")}
            nodes[name] = replace(before, name=name, arguments=arguments)
        elif name not in gone:
            nodes[name] = node
    return (replace(graph, nodes=nodes) if pairs else graph), pairs


def _takes_in(node: Node | None) -> bool:
    """Whether an operator has constant weights, and a channel for each of the normalisation's."""
    if node is None or node.target not in FOLDED_INTO or len(node.operands) > 1:
        return False
    return node.target is not aten.linear.default or len(node.shape) == 1
