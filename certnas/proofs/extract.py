"""Translates a traced network into the checker's network of plain arrays and a few operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from certnas import bounds
from certnas.checker import CheckedNetwork, Unsupported
from certnas.errors import UserError
from certnas.proofs import linear, movement, nonlinear, windows
from certnas.proofs.reading import Reading, Rule

RULES: dict[Any, Rule] = linear.RULES | windows.RULES | movement.RULES | nonlinear.RULES


@dataclass(frozen=True)
class Plain:
    """The checker's network of a traced network."""

    network: CheckedNetwork
    """The checker's network."""
    ids: Mapping[str, str]
    """The id of every traced node in it."""


def plain(network: bounds.Network) -> Plain:
    """Translates a traced network into the checker's, in float64. Raises UserError for an operator that the checker
    lacks.
    """
    network = network.to(torch.float64)
    graph = network.graph
    made = CheckedNetwork(graph.input_shape)
    ids = {graph.input: made.input}
    for node in graph.nodes.values():
        call = network.call(node)
        rule = RULES.get(node.target)
        if rule is None:
            raise UserError(f"no certificate can be written or checked: the checker knows no {node.where()}")
        try:
            reading = Reading(made, call, tuple(ids[name] for name in node.operands))
            ids[node.name] = rule(reading)
        except Unsupported as error:
            raise UserError(
                f"no certificate can be written or checked for {node.where()}: {error}"
            ) from error
    made.output = ids[graph.output]
    return Plain(made, ids)
