"""Every option of every operator: the values tried, each by every method against the operator itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from effort import examples, in_turn
from operator_options import FREE, KNOWN, TABLE, Of, Refused, Row, tensor
from torch import Tensor, nn

import bounds
from bounds.graph.canonical import COMPOSED

METHODS = {**bounds.METHODS, "alpha-crown": bounds.AlphaCrown(iterations=1)}


class Net(nn.Module):
    """The operator, once for each set of arguments, between nonlinear functions that mix signs.

    Its interval, planes and transpose all matter.
    """

    def __init__(self, target: Any, row: Row, calls: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.target, self.row = target, row
        self.calls = list(calls)
        for i, arguments in enumerate(calls):
            for name, value in arguments.items():
                if isinstance(value, Tensor):
                    self.register_buffer(f"constant_{i}_{name}", value.clone())

    def option(self, i: int, name: str, h: Tensor) -> Any:
        value = getattr(self, f"constant_{i}_{name}", self.calls[i].get(name))
        if isinstance(value, list):
            return [part.function(h) if isinstance(part, Of) else part for part in value]
        return value.function(h) if isinstance(value, Of) else value

    def distinct(self) -> int:
        """How many nodes the calls are: those that have the same numbers and no tensors are one."""
        defaults = {a.name: a.default_value for a in self.target._schema.arguments if a.has_default_value()}
        plain = (call for call in self.calls if not any(isinstance(v, Tensor) for v in call.values()))
        fixed = [repr(sorted({**defaults, **call}.items())) for call in plain]
        return len(set(fixed)) + len(self.calls) - len(fixed)

    def forward(self, x: Tensor) -> Tensor:
        """The values of every call, one after the other.  [N, units]"""
        return torch.cat([self.called(i, x) for i in range(len(self.calls))], 1)

    def called(self, i: int, x: Tensor) -> Tensor:
        h = 2 * x - F.relu(x)
        h = h if self.row.domain is None else self.row.domain(h)
        positional, named = [], {}
        for argument in self.target._schema.arguments:
            if argument.name in ("self", "input"):
                positional.append(h)
            elif argument.name == "tensors" and "tensors" not in self.calls[i]:
                positional.append([h, F.relu(h), -h])
            elif argument.name not in self.calls[i]:
                assert argument.has_default_value(), argument.name
                if not argument.kwarg_only:
                    positional.append(argument.default_value)
            elif argument.kwarg_only:
                named[argument.name] = self.option(i, argument.name, h)
            else:
                positional.append(self.option(i, argument.name, h))
        y = self.target(*positional, **named)
        y = (
            y.flatten(1)
            if isinstance(y, Tensor)
            else torch.cat([t.flatten(1) for t in y[: self.row.outputs]], 1)
        )
        return torch.cat([F.relu(y + 0.1), -y], 1)


def tried(row: Row, refused: bool) -> dict[str, dict[str, Any]]:
    """What a row calls its operator with, by a name: the row as it is, or each value of each option."""
    if not row.options:
        return {} if refused else {"as it is": row.always}
    return {
        f"{option} {v}": {**row.always, option: value.value if isinstance(value, Refused) else value}
        for option, values in row.options.items()
        for v, value in enumerate(values)
        if isinstance(value, Refused) == refused
    }


def tried_as(row: Row, name: str) -> Any:
    """The entry of a row that `tried` gave a name."""
    option, _, place = name.rpartition(" ")
    return row.options[option][int(place)] if option in row.options else None


def cases(refused: bool) -> Iterator[Any]:
    """Each row that has something to call, or to refuse."""
    for target, rows in TABLE.items():
        for r, row in enumerate(rows):
            if tried(row, refused):
                yield pytest.param(target, row, id=f"{target} {r}")


def argument_names(target: Any) -> set[str]:
    return {argument.name for argument in target._schema.arguments} - FREE


def test_the_table_has_no_other_operator() -> None:
    assert set(TABLE) == set(KNOWN)


@pytest.mark.parametrize("target", KNOWN, ids=str)
def test_the_table_names_every_option(target: Any) -> None:
    """An operator that is added needs a row, and values for each argument of its schema."""
    assert target in TABLE, f"{target} has bounds and no row in TABLE"
    named = {name for row in TABLE[target] for name in (row.options or {})}
    assert argument_names(target) <= named | FREE
    assert all(row.options.get(name) for row in TABLE[target] for name in row.options)


@pytest.mark.parametrize(("target", "row"), list(cases(refused=True)))
def test_a_value_that_cannot_be_bounded_is_refused_by_name(target: Any, row: Row) -> None:
    """The trace refuses it, or every method does."""
    x = tensor(2, *row.shape, scale=0.6, seed=1)
    for name, arguments in tried(row, refused=True).items():
        said = tried_as(row, name).named or str(row.read_as or target).split(".")[1]
        try:
            network = bounds.trace(Net(target, row, [arguments]).double().eval(), x).bind(dtype=torch.float64)
        except (bounds.UnsupportedOp, bounds.InvalidInput) as error:
            assert re.search(said, str(error)), name
            continue
        for method in METHODS.values():
            with pytest.raises(bounds.UnsupportedOp, match=said):
                bounds.output_bounds(network, bounds.Linf(x, 0.4), method)
                pytest.fail(f"{name} has bounds")


TOGETHER = 500
"""How many outputs a network has at most, but for one call alone: every row passes all calls."""


def parts(target: Any, row: Row, x: Tensor) -> Iterator[dict[str, dict[str, Any]]]:
    """The calls of a row, as many at a time as one network holds."""
    part: dict[str, dict[str, Any]] = {}
    held = 0
    for name, arguments in tried(row, refused=False).items():
        size = Net(target, row, [arguments]).double()(x).shape[1]
        if part and held + size > TOGETHER:
            yield part
            part, held = {}, 0
        part[name] = arguments
        held += size
    yield part


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("target", "row"), list(cases(refused=False)))
def test_the_options_of_an_operator(target: Any, row: Row) -> None:
    """No sampled point and no corner leaves the bounds, whatever the value of an option."""
    x = tensor(2, *row.shape, scale=0.6, seed=1)
    for calls in parts(target, row, x):
        check(target, row, calls, x)


def check(target: Any, row: Row, calls: dict[str, dict[str, Any]], x: Tensor) -> None:
    """Some calls of a row in one network, by two methods in turn beside CROWN."""
    model = Net(target, row, list(calls.values())).double().eval()
    network = bounds.trace(model, x).bind(dtype=torch.float64)
    read_as = row.read_as or target
    least = 1 if target in COMPOSED else model.distinct()  # what is composed shares its parts
    assert sum(node.target is read_as for node in network.graph.nodes.values()) >= least
    region, count = bounds.Linf(x, 0.4), examples(60, 200)
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(count, *x.shape, generator=generator, dtype=x.dtype) * 2 - 1
    points = x + 0.4 * torch.cat([noise, noise.sign(), torch.zeros_like(noise[:1])])
    with torch.no_grad():
        outputs = network(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        for which in (0, count, 2 * count):
            torch.testing.assert_close(outputs[which], model(points[which]), rtol=1e-9, atol=1e-9)
        sizes = [model.called(i, x).shape[1] for i in range(len(calls))]
    scale = 1 + outputs.abs().amax(0)
    others = [name for name in METHODS if name != "crown"]
    for method_name in ("crown", *in_turn(others, f"{target} {list(calls)}")):
        found = bounds.output_bounds(network, region, METHODS[method_name]).detach()
        width = ((found.upper - found.lower) / scale).split(sizes, 1)
        below = ((outputs - found.lower) / scale).split(sizes, 2)
        above = ((found.upper - outputs) / scale).split(sizes, 2)
        for name, *gaps in zip(calls, width, below, above, strict=True):
            for gap in gaps:
                assert torch.isfinite(gap).all() and gap.min() >= -1e-9, (name, method_name)
