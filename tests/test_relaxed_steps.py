"""Bounds of subproblems: what a restriction adds, how the optimiser steps, what it keeps."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from property_networks import dense
from torch import Tensor

import bounds
from bounds.chunking import MemoryBudget
from bounds.relaxation import Diagonal, Plane, Relaxation
from bounds.state import BoundState
from certnas.verifier.relaxed import Choice, Pushed, SubproblemBatch, UnitSplit, splittable

DOUBLE = torch.float64
INF = torch.tensor([math.inf], dtype=DOUBLE)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


@pytest.fixture(scope="module")
def root() -> BoundState:
    """Crown's bounds of a small network on two boxes."""
    region = bounds.Linf(tensor([[0.1, -0.2], [0.4, 0.3]]), eps=1.0)
    made = BoundState(
        bounds.trace(dense(1, 2, 6, 6, 2), region.x).bind(),
        region,
        MemoryBudget(1 << 20),
        bounds.Slope.ADAPTIVE,
    )
    with torch.no_grad():
        bounds.Crown().lower(made, torch.eye(2, dtype=DOUBLE).repeat(2, 1, 1))
    return made


def unstable(root: BoundState, node: str, box: int) -> list[int]:
    x = root.interval(root.network.graph.nodes[node].operands[0])
    return ((x.lower[box] < 0) & (x.upper[box] > 0)).nonzero().flatten().tolist()


def batch(
    root: BoundState, splits: list[list[UnitSplit]], rows: int = 2, group: list[int] | None = None
) -> SubproblemBatch:
    group = [0] * len(splits) if group is None else group
    coef = torch.eye(2, dtype=DOUBLE)[:rows].repeat(len(splits), 1, 1)
    return SubproblemBatch(
        root, torch.tensor(group), coef, tensor([[0.5, -0.25][:rows]] * len(splits)), splits
    )


def operand(made: SubproblemBatch, node: str) -> bounds.Interval:
    return made.state.intervals[made.network.graph.nodes[node].operands[0]]


def test_what_a_restriction_adds() -> None:
    zeros = torch.zeros(1, 3, dtype=DOUBLE)
    lower, upper = (
        Plane(Diagonal(((zeros + slope).unsqueeze(1),), ((3,),)), zeros.unsqueeze(1) + bias)
        for slope, bias in ((2, 0), (3, 1))
    )
    coef = tensor([[[1.0, -1, 0]]])
    noted: list[Tensor] = []
    plain = Relaxation(lower, upper).pull(coef)
    pushed = Pushed(lower, upper, tensor([[[10.0, 20, 30]]]), tensor([[0.5]]), noted).pull(coef)
    assert torch.equal(pushed[0][0], plain[0][0] + tensor([[[10.0, 20, 30]]]))
    assert torch.equal(pushed[1], plain[1] + 0.5) and noted[0] is coef
    bare = Pushed(lower, upper, None, None, noted).pull(coef)
    assert torch.equal(bare[0][0], plain[0][0]) and torch.equal(bare[1], plain[1]) and len(noted) == 2


def test_intervals_are_met_with_their_splits(root: BoundState) -> None:
    """The tightest of several from above and from below, each subproblem with its own."""
    node = root.relaxed_before(root.network.graph.output)[0]
    one, two = unstable(root, node, 0)[:2]
    splits = [
        [UnitSplit(node, one, 0.125, 1), UnitSplit(node, one, 0.0, 1), UnitSplit(node, two, -0.0625, -1)],
        [UnitSplit(node, two, 0.03125, -1), UnitSplit(node, two, 0.0625, -1), UnitSplit(node, two, -99.0, 1)],
        [],
    ]
    made, x = batch(root, splits), root.interval(root.network.graph.nodes[node].operands[0])
    found, low, high = operand(made, node), x.lower[0].repeat(3, 1), x.upper[0].repeat(3, 1)
    low[0, one], high[0, two], high[1, two] = 0.125, -0.0625, 0.03125
    assert torch.equal(found.lower, low) and torch.equal(found.upper, high)
    sign = torch.zeros(3, 6, dtype=DOUBLE)
    sign[0, one], sign[0, two], sign[1, two] = 1, -1, -1
    assert torch.equal(made.signs[node], sign) and list(made.signs) == [node]
    other = batch(root, [[], []], group=[1, 0])
    assert torch.equal(operand(other, node).lower, x.lower[[1, 0]]) and other.signs == {}


def test_multipliers_pay_at_the_edge_that_a_split_leaves(root: BoundState) -> None:
    node = root.relaxed_before(root.network.graph.output)[0]
    one, two = unstable(root, node, 0)[:2]
    made = batch(root, [[UnitSplit(node, one, 0.125, 1), UnitSplit(node, two, -0.0625, -1)]])
    multiplier = torch.full((1, 3, 6), 2.0, dtype=DOUBLE)
    multiplier[0, 1] = -1.0
    multiplier[0, 2, one] = 0.0
    extra, const = made._lagrange(node, multiplier)
    expected = torch.zeros(1, 3, 6, dtype=DOUBLE)
    expected[0, 0, one], expected[0, 0, two], expected[0, 2, two] = -2, 2, 2
    assert torch.equal(extra, expected)
    assert const.tolist() == [[2 * 0.125 + 2 * 0.0625, 0, 2 * 0.0625]]


def test_what_a_batch_begins_with(root: BoundState) -> None:
    node = root.relaxed_before(root.network.graph.output)[0]
    one = unstable(root, node, 0)[0]
    made = batch(root, [[UnitSplit(node, one, 0.125, 1)], []])
    start = made.start([None, None])
    assert start.mix is not None and start.mix.tolist() == [[0, 0], [0, 0]]
    assert start.multipliers[node].shape == (2, 3, 6) and not bool(start.multipliers[node].any())
    for name in made.nodes:
        for given, default in zip(start.node_alphas[name], made.state.default_alphas(name), strict=True):
            assert torch.equal(given, default.expand(2, 3, *default.shape[2:]))
    tensors = [t[0].float() + 0.25 for t in start.tensors()]
    choice = Choice(start.node_alphas, start.multipliers, start.mix).rebuilt(tensors)
    again = made.start([None, choice])
    for name in made.nodes:
        for given, plain in zip(again.node_alphas[name], start.node_alphas[name], strict=True):
            assert torch.equal(given[0], plain[0]) and torch.allclose(given[1], plain[0] + 0.25)
            assert given.dtype == DOUBLE
    assert again.mix is not None and again.mix.tolist() == [[0, 0], [0.25, 0.25]]
    assert again.multipliers[node][1].unique().tolist() == [0.25] and not bool(
        again.multipliers[node][0].any()
    )
    alone = batch(root, [[]], rows=1).start([None])
    assert alone.mix is None and all(t.shape[1] == 1 for ts in alone.node_alphas.values() for t in ts)
    assert len(list(start.tensors())) == len(list(alone.tensors())) + 2


def counted(made: SubproblemBatch, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every bound that is computed for an optimiser, in order."""
    found: list[Tensor] = []
    honest = made.bound

    def bound(*given: Any) -> Tensor:
        found.append(honest(*given))
        return found[-1]

    monkeypatch.setattr(made, "bound", bound)
    return found


def test_the_optimiser_steps_as_often_as_it_is_told(
    root: BoundState, monkeypatch: pytest.MonkeyPatch
) -> None:
    for iterations in (0, 1, 4):
        made = batch(root, [[]])
        found = counted(made, monkeypatch)
        best = made.optimise([None], iterations, INF)
        assert len(found) == iterations + 1
        every = torch.stack([bound.detach() for bound in found])
        assert torch.equal(best.lower, every.amax(0)) and torch.equal(
            every[0], made.bound(made.start([None]), made.region)
        )
        assert not best.lower.requires_grad and best.worst.shape == made.region.x.shape
        # what is kept gives the bound that is told, in single precision
        again = made.bound(made.start(best.choices), made.region)
        torch.testing.assert_close(again, best.lower, rtol=1e-5, atol=1e-5)
        assert {t.dtype for t in best.choices[0].tensors()} == {torch.float32}


def test_the_optimiser_stops_where_every_subproblem_is_proved(
    root: BoundState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subproblem counts by its best row; one of two that is not proved keeps both going."""
    made = batch(root, [[], []])
    plain = made.bound(made.start([None, None]), made.region)[0]
    best, worst = float(plain.max()), float(plain.min())
    assert worst < best
    for needed, stops in (
        ([best - 1e-9] * 2, True), ([best, best - 1e-9], False), ([worst - 1e-9, math.inf], False)
    ):  # fmt: skip
        made = batch(root, [[], []])
        found = counted(made, monkeypatch)
        made.optimise([None, None], 3, tensor(needed))
        assert (len(found) == 1) == stops


def test_the_steps_shrink_to_a_twentieth(root: BoundState, monkeypatch: pytest.MonkeyPatch) -> None:
    node = root.relaxed_before(root.network.graph.output)[0]
    made = batch(root, [[UnitSplit(node, unstable(root, node, 0)[0], 0.0, 1)]])
    made_of: list[torch.optim.Adam] = []
    rates: list[list[float]] = []

    class Adam(torch.optim.Adam):
        def __init__(self, groups: Any) -> None:
            super().__init__(groups)
            made_of.append(self)

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append([group["lr"] for group in self.param_groups])
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    made.optimise([None], 5, INF, step=0.25)
    seen: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        made.bound(made.start([None]), made.region, seen)
    scale = float(seen[node][-1].abs().mean())
    first = [0.25, 0.25 * scale, 1.25]
    for step, rate in enumerate(rates):
        assert rate == pytest.approx([r * 0.05 ** (step / 5) for r in first])
    assert len(rates) == 5 and len(made_of) == 1
    slopes, multipliers = made_of[0].param_groups[0]["params"], made_of[0].param_groups[1]["params"]
    assert all(bool(((t >= 0) & (t <= 1)).all()) for t in slopes) and all(
        bool((t >= 0).all()) for t in multipliers
    )
    batch(root, [[]]).optimise([None], 1, INF)
    assert [group["lr"] for group in made_of[1].param_groups] == pytest.approx([0.1 * 0.05, 0.5 * 0.05])


def test_rows_are_kept_one_by_one() -> None:
    """Two subproblems have three rows; the mix goes with the last row."""
    made = SubproblemBatch.__new__(SubproblemBatch)
    slope, mix = torch.full((2, 3, 4), 9.0), torch.full((2, 2), 7.0)
    choice = Choice({"a": (slope,)}, {}, mix)
    kept = [torch.zeros(2, 3, 4), torch.zeros(2, 2)]
    better = torch.tensor([[True, False, False], [False, False, True]])
    made._keep(choice, [slope, mix], kept, better)
    assert kept[0][:, :, 0].tolist() == [[9, 0, 0], [0, 0, 9]] and kept[1].tolist() == [[0, 0], [7, 7]]


def test_the_worst_point_is_where_the_form_is_least(root: BoundState) -> None:
    made = batch(root, [[], []], group=[1, 0])
    found = made._least(tensor([[2.0, -1], [0, 3]]))
    assert found.tolist() == [[0.4 - 1, 0.3 + 1], [0.1, pytest.approx(-1.2)]]
    one = batch(root, [[]], rows=1)
    x = one.region.x.detach().requires_grad_(True)
    bound = one.bound(one.start([None]), replace(one.region, x=x))
    (slope,) = torch.autograd.grad(bound.sum(), x)
    assert torch.equal(one.optimise([None], 0, INF).worst, one._least(slope))


def test_which_nodes_are_split() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Sigmoid(),
        torch.nn.Flatten(),
    ).double()
    network = bounds.trace(net.eval(), torch.rand(1, 1, 5, 5, dtype=DOUBLE)).bind()
    found = [splittable(network, name) for name in network.graph.nodes]
    assert found == [False, True, False, True, False]
