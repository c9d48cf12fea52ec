"""Batch normalisation folded into the convolution or linear layer before it: one operator instead of two."""

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
"""Operators into which a batch normalisation is folded."""


def folded(network: Network) -> Network:
    """Return the same function with batch normalisations folded.  It is differentiable in the parameters.

    All other nodes keep their names and values.  The weights are multiplied at each call, which costs less than
    evaluating one image, so parameters may change between calls.
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
    """Return the folded graph, and for each removed batch normalisation the node that it is folded into."""
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
        and _can_absorb(graph.nodes.get(node.operands[0]))
    }
    absorbing = set(pairs.values())
    nodes = {}
    for name, node in graph.nodes.items():
        if name in pairs:
            before = graph.nodes[pairs[name]]
            arguments = {**before.arguments, "weight": Ref(f"{name}.weight"), "bias": Ref(f"{name}.bias")}
            nodes[name] = replace(before, name=name, arguments=arguments)
        elif name not in absorbing:
            nodes[name] = node
    return (replace(graph, nodes=nodes) if pairs else graph), pairs


def _can_absorb(node: Node | None) -> bool:
    """Return whether an operator has constant weights, and one channel for each channel of the normalisation."""
    if node is None or node.target not in FOLDED_INTO or len(node.operands) > 1:
        return False
    return node.target is not aten.linear.default or len(node.shape) == 1
