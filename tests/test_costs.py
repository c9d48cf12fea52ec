"""Costs of rows, estimates of methods and plans of small networks, counted by hand."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from calls import Open, call_of
from torch import Tensor, nn

import bounds
from bounds.cost_model import row_cost, row_work
from bounds.graph.facts import Reader, facts_of
from bounds.operators import rule_for

aten = torch.ops.aten
NUMBERS = [
    (call_of(aten.relu.default, Open((3,))), 1),
    (call_of(aten.linear.default, Open((3,)), torch.ones(5, 3).double()), 3),
    (call_of(aten.conv2d.default, Open((4, 5, 5)), torch.ones(6, 2, 3, 2).double(), groups=2), 12),
    (call_of(aten.matmul.default, Open((2, 3)), torch.ones(3, 5).double()), 3),
    (call_of(aten.matmul.default, Open((2, 3)), torch.ones(3).double()), 3),
    (call_of(aten.matmul.default, torch.ones(5, 2).double(), Open((2, 3))), 5),
    (call_of(aten.mm.default, Open((3,)), torch.ones(3, 7).double()), 3),
    (call_of(aten.matmul.default, Open((2, 3)), Open((3, 4))), 1),
    (call_of(aten.add.Tensor, Open((3,)), torch.ones(3).double()), 1),
]


@pytest.mark.parametrize(
    ("call", "expected"), NUMBERS, ids=lambda v: getattr(getattr(v, "node", None), "op", v)
)
def test_multiplications_of_a_unit(call, expected: int) -> None:
    assert rule_for(call.node).work(call) == expected


def vectors() -> bounds.Network:
    """3 → 4, relu, 4 → 5, relu, 5 → 2."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)
    )  # fmt: skip
    return bounds.trace(model, torch.rand(1, 3)).bind()


def images() -> bounds.Network:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, (1, 3), padding=(0, 1)), nn.ReLU(),
        nn.Flatten(), nn.Linear(192, 2),
    )  # fmt: skip
    return bounds.trace(model, torch.rand(1, 1, 8, 8)).bind()


def test_rows_of_vectors() -> None:
    """The widest place has 5 + 5 numbers, a node's and its operand's; a layer costs outputs times inputs.

    A ReLU costs 1.
    """
    network = vectors()
    first, _, second, _, third = network.graph.nodes
    assert row_cost(network, first, unit=False) == 4 + 3
    assert row_cost(network, second, unit=True) == 5 + 4
    assert row_cost(network, third, unit=False) == 5 + 5
    assert row_work(network, first, unit=False) == 4 * 3
    assert row_work(network, second, unit=True) == 5 * 4 + 4 + 4 * 3
    assert row_work(network, third, unit=False) == 2 * 5 + 5 + 5 * 4 + 4 + 4 * 3


def test_rows_of_images() -> None:
    """A unit of the second convolution reads 1 by 3 places of two channels, and these 3 by 5 of the image."""
    network = images()
    one, relu, two, last, _, head = network.graph.nodes
    assert row_cost(network, one, unit=True) == 2 + 9
    assert row_cost(network, one, unit=False) == 128 + 64
    assert row_cost(network, two, unit=True) == 6 + 15
    assert row_work(network, two, unit=True) == 3 * 6 + 6 + 6 * 9
    assert row_work(network, two, unit=False) == 192 * 6 + 128 + 128 * 9
    assert row_cost(network, head, unit=False) == 192 + 192
    assert row_cost(network, relu, unit=True) == 2 + 9 and row_cost(network, last, unit=True) == 6 + 15


def test_rows_of_branches() -> None:
    """A tensor that two branches read is counted once it has its coefficients, as a window where both have one."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)
            self.two = nn.Conv2d(1, 1, (1, 3), padding=(0, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).relu()
            return self.one(y) + self.two(y)

    network = bounds.trace(Branches(), torch.rand(1, 1, 9, 9)).bind()
    assert row_cost(network, network.graph.output, unit=True) == 9 + 9
    # the sum, both convolutions, then relu and stem
    assert row_work(network, network.graph.output, unit=True) == 1 + 9 + 3 + 9 + 9


def test_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs of three rows of the network of vectors follow from the numbers that are counted above."""
    monkeypatch.setattr(import_module("bounds.estimation"), "CACHE_COEFFICIENTS", 40)
    network = vectors()
    found = bounds.estimates(network, 3, iterations=10)
    total = 4 * 3 + 4 + 5 * 4 + 5 + 2 * 5
    last, backward = 3 * 51, 2 * 5 * 36
    boxes = 2 * 8 * (3 + 4 + 4 + 5 + 5 + 2)
    # generators 3, then one more for each of 4 and 5 units
    forward = 3 * (12 + 4) + 7 * (20 + 5) + 12 * 10
    kept = 2 * 8 * 7 * 5
    few, many = 6 * 8 * 30, 6 * 8 * 40
    crown = (2 * total + backward + last, backward, 2 * 5 + 3, boxes + many)
    expected = {
        "ibp": (2 * total, 0, 5, boxes),
        "crown-ibp": (2 * total + last, 0, 10, boxes + few),
        "zonotope": (forward, 0, 5, boxes + kept),
        "zonotope+crown": (forward + last, 0, 10, boxes + kept + few),
        "crown": crown,
        "alpha-crown": (2 * total + 32 * (backward + last), 32 * backward, 32 * 13, 2 * crown[3]),
    }
    for name, (multiplications, per_unstable, visits, memory) in expected.items():
        assert found[name] == bounds.Estimate(multiplications, per_unstable, visits, memory), name
    alone = bounds.trace(nn.Linear(3, 2), torch.rand(1, 3)).bind()
    assert bounds.estimates(alone, 1)["crown"].memory == 16 * 5 + 6 * 8 * 5
    assert bounds.estimates(alone, 1)["alpha-crown"].multiplications == 12 + 62 * 6


class Cell(nn.Module):
    """A join that a ReLU reads, a product, a sum, a flattening, and an affine end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(4, 4, 1), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        z = torch.cat([y, torch.tanh(y)], 1).relu()
        w = self.side(z)
        return self.head(torch.sigmoid((w + z * w.exp()).flatten(1)) + 1)


def test_a_plan() -> None:
    graph = bounds.trace(Cell(), torch.rand(1, 1, 2, 4)).bind().graph
    facts = facts_of(graph)
    names = (
        "conv2d",
        "tanh",
        "cat",
        "relu",
        "conv2d_1",
        "exp",
        "mul",
        "add",
        "flatten",
        "sigmoid",
        "add_1",
        "linear",
    )
    assert tuple(graph.nodes) == names and facts.order == ("x", *names)
    assert facts.prefix == {"x", "conv2d"} == facts.plain
    assert facts.readers == {
        "conv2d": (Reader("tanh", 0, True), Reader("relu", 0, False)),
        "tanh": (Reader("relu", 0, False),),
        "relu": (Reader("mul", 0, True),),
        "conv2d_1": (Reader("exp", 0, True),),
        "exp": (Reader("mul", 1, True),),
        "add": (Reader("sigmoid", 0, False),),
    }
    assert list(facts.readers) == ["conv2d", "tanh", "relu", "conv2d_1", "exp", "add"]
    assert facts.linear_tail == {"linear", "add_1"}
    assert facts.tail_ends == ("sigmoid",)
    assert facts.children == {
        "x": ("conv2d",), "conv2d": ("tanh", "cat"), "tanh": ("cat",), "cat": ("relu",), "relu": ("conv2d_1", "mul"),
        "conv2d_1": ("exp", "add"), "exp": ("mul",), "mul": ("add",), "add": ("flatten",), "flatten": ("sigmoid",),
        "sigmoid": ("add_1",), "add_1": ("linear",),
    }  # fmt: skip


class Straight(nn.Module):
    """Affine from end to end, but for what is asked at last."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(2 * x)
        both, joined = x + y, torch.cat([x, y], 1)
        return (self.two(y) + both + self.three(joined)).relu()


def test_what_a_box_bounds_exactly() -> None:
    """Up to one mixing operator on the way; a sum of two ways counts as two, a join does not."""
    facts = facts_of(bounds.trace(Straight(), torch.rand(1, 4)).bind().graph)
    assert facts.prefix == {"x", "mul", "linear", "add", "cat", "linear_1", "add_1", "linear_2", "add_2"}
    assert facts.plain == {"x", "mul", "linear", "cat"}
    assert facts.linear_tail == frozenset() and facts.tail_ends == ("relu",)
    assert facts.readers == {"add_2": (Reader("relu", 0, True),)}
    identity = facts_of(bounds.trace(nn.Identity(), torch.rand(1, 4)).bind().graph)
    assert (
        identity.tail_ends == ()
        and identity.linear_tail == frozenset()
        and identity.prefix == {identity.order[0]}
    )
