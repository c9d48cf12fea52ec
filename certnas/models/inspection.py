"""Inspection of an opened network: its operators, their support, and the cost of each bound method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from certnas import bounds
from certnas.bounds import BoundsError, Graph, Node, Nonlinear
from certnas.bounds.extend import rule_for
from certnas.models.normalize import Normalize
from certnas.models.opened import OpenedModel


@dataclass(frozen=True)
class Operator:
    """An operator of the network."""

    name: str
    """Name of the operator, such as `conv2d`."""
    count: int
    """Number of occurrences."""
    units: int
    """Number of output units of all occurrences, per image."""
    nonlinear: bool
    """True if some occurrence is nonlinear in the perturbed input."""
    supported: bool
    """True if every occurrence has a rule."""


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`."""

    parameters: int
    """Number of scalar parameters."""
    operators: tuple[Operator, ...]
    """The operators of the traced graph."""
    neurons: int
    """Number of units of all nonlinear operators."""
    relus: int
    """Number of units of all ReLUs."""
    unsupported: tuple[str, ...]
    """One line per operator without a rule, with its location."""
    normalisation: str
    """A line about the network's input normalisation."""
    costs: Mapping[str, bounds.Estimate]
    """Method name -> estimated cost; empty if an operator has no rule."""


def inspect(opened: OpenedModel) -> Inspection:
    """Inspect a network without computing bounds."""
    parameters = sum(p.numel() for p in opened.module.parameters())
    layer = next((m for m in opened.module.modules() if isinstance(m, Normalize)), None)
    try:
        graph = bounds.trace(opened.module, torch.zeros(2, *opened.input_shape))
    except BoundsError as error:
        return Inspection(parameters, (), 0, 0, (str(error),), _normalisation(layer, None), {})
    refused = {node.name: line for node in graph.nodes.values() if (line := _refusal(node)) is not None}
    nonlinear = {
        node.name: prod(node.shape)
        for node in graph.nodes.values()
        if node.name not in refused and isinstance(rule_for(node), Nonlinear)
    }
    return Inspection(
        parameters=parameters,
        operators=_operators(graph, set(nonlinear), set(refused)),
        neurons=sum(nonlinear.values()),
        relus=sum(units for name, units in nonlinear.items() if graph.nodes[name].op == "aten.relu.default"),
        unsupported=tuple(refused.values()),
        normalisation=_normalisation(layer, graph),
        costs={} if refused else bounds.estimates(graph.bind(), opened.classes - 1),
    )


def _refusal(node: Node) -> str | None:
    """The location of an operator without a rule; None for one with a rule."""
    try:
        rule_for(node)
    except BoundsError:
        return f"no rule for {node.where()}"
    return None


def _operators(graph: Graph, nonlinear: set[str], refused: set[str]) -> tuple[Operator, ...]:
    counts, units = Counter[str](), Counter[str]()
    kinds: dict[str, tuple[bool, bool]] = {}
    for node in graph.nodes.values():
        name = node.op.removeprefix("aten.").partition(".")[0]
        counts[name] += 1
        units[name] += prod(node.shape)
        before = kinds.get(name, (False, True))
        kinds[name] = (before[0] or node.name in nonlinear, before[1] and node.name not in refused)
    return tuple(Operator(name, counts[name], units[name], *kinds[name]) for name in counts)


def _normalisation(layer: nn.Module | None, graph: Graph | None) -> str:
    """A description of the network's Normalize layer, or of the affine operators at the start of the graph."""
    if isinstance(layer, Normalize):
        mean, std = (
            ", ".join(f"{v:.4g}" for v in values.flatten().tolist()) for values in (layer.mean, layer.std)
        )
        return f"(x − mean) / std with mean {mean} and std {std}"
    found, here = [], graph.input if graph is not None else ""
    for node in graph.nodes.values() if graph is not None else ():
        if node.operands != (here,) or node.op.split(".")[1] not in (
            "sub",
            "add",
            "mul",
            "div",
            "batch_norm",
        ):
            break
        found.append(node.op.split(".")[1])
        here = node.name
    return (
        f"in the graph: {', '.join(found)}"
        if found
        else "none found: the network reads [0, 1] pixels as they are"
    )
