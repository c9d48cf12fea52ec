"""Zonotope bounds of sections of a network, each from its own clean input."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from certnas.bounds import Affine, Interval, InvalidInput, Linf, Network, Slope
from certnas.bounds.extend import AffineForm, BoundState, ZonotopePass, budget, rule_for

Generators = Callable[[str, Tensor], Tensor]
"""(node name, clean value [N, *shape]) -> generators [N, r, *shape] of the zonotope that starts at the
node.
"""


@dataclass(frozen=True)
class Arrival:
    """The zonotope at the end of a section. All fields are [N, *shape].

    |unit − center| ≤ radius for every input in the section's zonotope.
    """

    value: Tensor
    """The clean value."""
    center: Tensor
    """The centre of the zonotope."""
    radius: Tensor
    """The largest distance of each unit from the centre."""


def sections(
    network: Network, x: Tensor, ends: Collection[str], generators: Generators, *, errors: int | None = 0
) -> dict[str, Arrival]:
    """Split the network at the nodes `ends`; returns for each the zonotope that reaches it from the
    previous ends.

    At each end, propagation restarts from {value + Σ_k t_k·g_k : |t_k| ≤ 1}, where value is the clean one
    and g [N, r, *shape] = generators(node, value). r is the same for all ends, and all ends share the t_k.
    Before the first end nothing is perturbed, so the first end has radius 0. `errors` is the number of
    error symbols, as in `Zonotope`.

    The result is differentiable in the network's parameters and in the generators. The cost is 1 + r
    evaluations of the network, plus one for the errors. Raises InvalidInput for a node that the network
    does not have, and UnsupportedOp for an operator without a rule.
    """
    unknown = sorted(set(ends) - set(network.graph.nodes))
    if unknown:
        raise InvalidInput(f"sections: the network has no node {unknown[0]!r}")
    return _Sections(network, x.to(network.dtype), ends, generators, errors).walk()


class _Sections(ZonotopePass):
    """A zonotope pass over the generators' t_k instead of the network's input; it also propagates clean
    values.
    """

    def __init__(
        self, network: Network, x: Tensor, ends: Collection[str], generators: Generators, errors: int | None
    ) -> None:
        memory = budget(None, network.dtype, network.device)
        super().__init__(BoundState(network, Linf(x, 0.0), memory, Slope.PARALLEL), errors)
        self.ends = frozenset(ends)
        self.generators = generators
        nodes = network.graph.nodes.values()
        self.read = {o for node in nodes if not isinstance(rule_for(node), Affine) for o in node.operands}
        self.clean = {network.graph.input: x}
        self._put(network.graph.input, AffineForm(None, {}, x, None))

    def walk(self) -> dict[str, Arrival]:
        network, nodes = self.state.network, self.state.network.graph.nodes
        last_use = {operand: name for name, node in nodes.items() for operand in node.operands}
        arrivals: dict[str, Arrival] = {}
        for name, node in nodes.items():
            rule, call = rule_for(node), network.call(node)
            operands = [self.forms[operand] for operand in node.operands]
            form = (
                self._affine(rule, call, operands)
                if isinstance(rule, Affine)
                else self._relaxed(rule, call, operands)
            )
            value = self.clean[name] = call.apply(*(self.clean[operand] for operand in node.operands))
            if name in self.ends:
                arrivals[name] = Arrival(value, form.center, _radius(form))
                form = AffineForm(self.generators(name, value), {}, value, None)
            self._put(name, form)
            for operand in node.operands:
                if last_use[operand] == name:
                    del self.forms[operand], self.clean[operand]
        return arrivals

    def _put(self, name: str, form: AffineForm) -> None:
        self.forms[name] = form
        if name in self.read:
            radius = _radius(form)
            self.state.hold(
                {name: Interval(form.center - radius, form.center + radius).overflow_as_infinite()}
            )


def _radius(form: AffineForm) -> Tensor:
    """The largest distance of each unit from the form's centre. [N, *shape]"""
    blocks = [block.abs().sum(1) for block in (form.linear, *form.symbols.values()) if block is not None]
    return sum(blocks, start=torch.zeros_like(form.center) if form.box is None else form.box)
