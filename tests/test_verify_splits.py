"""Splits, multipliers and searches that stay sound, whatever they are given."""

import contextlib
import math

import pytest
import torch
from oracles import exact_minimum
from property_networks import ball, below, dense
from torch import nn

import bounds
from bounds.chunking import MemoryBudget
from bounds.state import BoundState
from certnas.verifier import Clause, Property, network_of, search
from certnas.verifier.deadline import Deadline, OutOfTime
from certnas.verifier.input_split import InputSplitting
from certnas.verifier.problem import problem_of
from certnas.verifier.relaxed import SubproblemBatch, UnitSplit
from certnas.verifier.search import Search


@pytest.mark.parametrize("few", [0, 24], ids=["activations", "inputs"])
@pytest.mark.parametrize("seed", range(2))
def test_a_search_that_sees_no_points_never_proves_what_is_false(
    seed: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no attack, and its points are ignored: only the bounds are left to keep it from `unsat`."""
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    network = dense(seed, 3, 8, 8, 2)
    x, row = torch.full((3,), 0.5, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    exact = exact_minimum(network, row, x, 1.0)
    bound = exact.value + 1e-3 * (1 + abs(exact.value))
    prop = Property(3, 2, (Clause(ball(x, 1.0), (below(row, bound),)),))
    traced = network_of(network, (3,))
    found = Search(
        problem_of(traced, prop), Deadline(4), 1 << 26, lambda points: False, lambda p, name: False
    )
    with contextlib.suppress(OutOfTime):
        found.go()
    assert found.stage in ("branch and bound", "input splitting")
    assert found.state.done > 10
    assert found.state.left == 1
    assert found.state.bound <= exact.value - bound + 1e-6


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_any_multipliers_and_slopes_are_sound_for_any_splits(act: type[nn.Module]) -> None:
    network = dense(1, 2, 6, 6, 2, act=act)
    region = bounds.Linf(torch.tensor([[0.1, -0.2]], dtype=torch.float64), eps=1.0)
    net = bounds.trace(network, region.x).bind()
    root = BoundState(net, region, MemoryBudget(1 << 20), bounds.Slope.ADAPTIVE)
    rows = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    bounds.Crown().lower(root, rows)
    nodes = root.relaxed_before(net.graph.output)
    points = region.x + 2 * torch.rand(4000, 2, dtype=torch.float64) - 1
    values = {}
    current = points
    for layer in network:
        values[layer] = current = layer(current).detach()
    activations = [layer for layer in network if isinstance(layer, act)]
    linears = [network[list(network).index(layer) - 1] for layer in activations]
    generator = torch.Generator().manual_seed(0)
    checked = 0
    for trial in range(12):
        splits, keep = [], torch.ones(len(points), dtype=torch.bool)
        for node, linear in zip(reversed(nodes), linears, strict=True):
            x = root.interval(net.graph.nodes[node].operands[0])
            unit = int(torch.randint(6, (1,), generator=generator))
            low, high = float(x.lower[0, unit]), float(x.upper[0, unit])
            point = 0.0 if act is nn.ReLU else low + 0.4 * (high - low)
            if not low < point < high:
                continue
            side = 1 if trial % 2 else -1
            splits.append(UnitSplit(node, unit, point, side))
            keep &= side * (values[linear][:, unit] - point) >= 0
        if not keep.any():
            continue
        batch = SubproblemBatch(
            root, torch.tensor([0]), rows, torch.zeros(1, 2, dtype=torch.float64), [splits]
        )
        plain = batch.start([None])
        drawn = plain.rebuilt([torch.rand(t.shape, generator=generator).double() for t in plain.tensors()])
        for (
            multiplier
        ) in drawn.multipliers.values():  # of any value: those of the wrong sign count for nothing
            multiplier.mul_(4).sub_(2)
        mixed = current[keep] @ drawn.mix.softmax(1).T
        least_seen = torch.cat([current[keep], mixed], 1).amin(0)
        assert (batch.bound(drawn, batch.region)[0] <= least_seen + 1e-9).all()
        best = batch.optimise([None], 8, torch.tensor([math.inf]))
        assert (best.lower >= batch.bound(plain, batch.region) - 1e-9).all()
        assert (best.lower[0, :2] <= least_seen[:2] + 1e-9).all()
        checked += bool(splits)
    assert checked > 5


def test_multipliers_close_the_gap_that_splits_leave() -> None:
    """max(z, 0) + max(−z, 0) ≥ z where z ≥ 1/2 is known: only the multiplier carries that to the input."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double().requires_grad_(False)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[0.0, 1.0]]))
        network[2].bias.zero_()
    region = bounds.Linf(torch.zeros(1, 2, dtype=torch.float64), eps=1.0)
    net = bounds.trace(network, region.x).bind()
    root = BoundState(net, region, MemoryBudget(1 << 20), bounds.Slope.ADAPTIVE)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    bounds.Crown().lower(root, one)
    (node,) = root.relaxed_before(net.graph.output)
    # x0 + x1 ≥ 1 and x0 − x1 ≤ −1 leave x0 + x1 ≤ 1: row −relu(x0 − x1)·1 with unit 1 off is 0; unit 0 tells nothing
    splits = [[UnitSplit(node, 0, 1.0, 1), UnitSplit(node, 1, 0.5, 1)]]
    batch = SubproblemBatch(root, torch.tensor([0]), one, torch.zeros(1, 1, dtype=torch.float64), splits)
    assert float(batch.bound(batch.start([None]), batch.region)) == pytest.approx(-2)
    assert float(batch.optimise([None], 200, torch.tensor([math.inf])).lower) == pytest.approx(0.5, abs=0.02)


def test_multipliers_of_the_wrong_sign_count_for_nothing() -> None:
    """A multiplier below 0 would reward leaving the half that the split keeps: the bound would be above the minimum."""
    batch = split_in_two(torch.zeros(1, 2, dtype=torch.float64))
    plain = batch.start([None])
    wrong = plain.rebuilt([t.clone() for t in plain.tensors()])
    for multiplier in wrong.multipliers.values():
        multiplier.fill_(-3.0)
    assert torch.equal(batch.bound(wrong, batch.region), batch.bound(plain, batch.region))


def test_the_offset_of_every_row_is_subtracted_also_of_the_mixed_one() -> None:
    offset = torch.tensor([[0.7, -1.9]], dtype=torch.float64)
    without, with_offset = split_in_two(torch.zeros_like(offset)), split_in_two(offset)
    choice = without.start([None])
    choice.mix.copy_(torch.tensor([[0.4, -0.8]]))
    share = choice.mix.softmax(1)
    expected = torch.cat([offset, (share * offset).sum(1, keepdim=True)], 1)
    difference = without.bound(choice, without.region) - with_offset.bound(choice, with_offset.region)
    torch.testing.assert_close(difference, expected, rtol=0, atol=1e-12)


def split_in_two(offset: torch.Tensor) -> SubproblemBatch:
    """One subproblem of a small network with the rows of both outputs, a unit of its first activation split."""
    network = dense(1, 2, 6, 6, 2)
    region = bounds.Linf(torch.tensor([[0.1, -0.2]], dtype=torch.float64), eps=1.0)
    net = bounds.trace(network, region.x).bind()
    root = BoundState(net, region, MemoryBudget(1 << 20), bounds.Slope.ADAPTIVE)
    rows = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    bounds.Crown().lower(root, rows)
    node = root.relaxed_before(net.graph.output)[-1]
    x = root.interval(net.graph.nodes[node].operands[0])
    unit = int(((x.lower[0] < 0) & (x.upper[0] > 0)).nonzero()[0])
    return SubproblemBatch(root, torch.tensor([0]), rows, offset, [[UnitSplit(node, unit, 0.0, 1)]])


@pytest.mark.parametrize("eps", [0.2, 5.0])
def test_parts_of_the_input_have_the_better_of_crown_and_intervals(eps: float) -> None:
    x, row = torch.full((3,), 0.5, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    problem = problem_of(
        network_of(dense(0, 3, 8, 8, 2), (3,)), Property(3, 2, (Clause(ball(x, eps), (below(row, 0.0),)),))
    )
    splitting = InputSplitting(problem, 1 << 26, lambda *proved: None, lambda *box: False)
    with torch.no_grad():
        crown, boxed = (
            bounds.lower_bounds(problem.network, problem.region, problem.coef, method)
            for method in (bounds.Crown(bounds.Slope.ADAPTIVE), bounds.IBP())
        )
    assert (crown - boxed).abs().min() > 1e-3, "the two do not differ: the test would see nothing"
    found, _ = splitting._bounded(problem.region, problem.coef, problem.offset)
    assert (found >= torch.maximum(crown, boxed) - problem.offset - 1e-9).all()
