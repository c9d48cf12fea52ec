"""Branch and bound step by step: which unit is split, what is kept, when it ends."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from property_networks import ball, below, dense
from torch import Tensor, nn

import bounds
from bounds.chunking import MemoryBudget
from bounds.state import BoundState
from certnas.verifier import Clause, Property, network_of
from certnas.verifier.branch import CANDIDATES, Branching, Domain, State, Tree, _bends
from certnas.verifier.deadline import Deadline, OutOfTime
from certnas.verifier.problem import Problem, problem_of
from certnas.verifier.relaxed import Bounded, UnitSplit

DOUBLE = torch.float64


def problem(act: type[nn.Module] = nn.ReLU) -> Problem:
    """Two clauses of one row each in one box."""
    box = ball(torch.full((3,), 0.5), 1.0)
    row = torch.tensor([1.0, -1.0], dtype=DOUBLE)
    clauses = tuple(Clause(box, (below(row * sign, -0.25),)) for sign in (1, -1))
    return problem_of(network_of(dense(0, 3, 8, 8, 2, act=act), (3,)), Property(3, 2, clauses))


def branching(given: Problem, memory: int = 1 << 26) -> tuple[Branching, list[Any]]:
    root = BoundState(given.network, given.region, MemoryBudget(1 << 20), bounds.Slope.ADAPTIVE)
    with torch.no_grad():
        bounds.Crown().lower(root, given.rows)
    noted: list[Any] = []
    return Branching(given, root, memory, lambda *told: noted.append(told)), noted


@pytest.fixture(scope="module")
def relu() -> Problem:
    return problem()


def test_memory_decides_the_batch_and_what_is_kept(relu: Problem) -> None:
    units = 8 + 8 + 8 + 8 + 2
    for rows, given in ((1, relu), (3, replace(relu, coef=relu.coef.repeat(1, 2, 1)))):
        for memory, batch in ((48 * rows * units * 5 + 1, 5), (48 * rows * units * 999, 64), (0, 1)):
            made, _ = branching(given, memory)
            assert (made.batch, made.kept) == (batch, memory // (4 * rows * units))
    assert len(branching(relu)[0].nodes) == 2 and CANDIDATES == 12


def seen_by(made: Branching, domain: Domain) -> tuple[Any, Any, dict[str, list[Tensor]], Tensor]:
    batch, _ = made._of([domain])
    choice, seen = batch.start([domain.choice]), dict[str, list[Tensor]]()
    with torch.no_grad():
        row = batch.bound(choice, batch.region, seen).argmax(1)
    return batch, choice, seen, row


def test_the_units_whose_planes_cost_most_come_first(relu: Problem) -> None:
    """On [l, u] the chord is −l·u / (u − l) too high at 0; the lower plane misses the end of the shorter side."""
    made, _ = branching(relu)
    domain, expected = Domain(1, (), -9.0, None), []
    batch, choice, seen, row = seen_by(made, domain)
    for name in made.nodes:
        x = batch.state.intervals[relu.network.graph.nodes[name].operands[0]]
        low, high, own = x.lower[0], x.upper[0], seen[name][-1][0, 0]
        above, misses = -low * high / (high - low), torch.minimum(high, -low)
        cost = torch.where((low < 0) & (high > 0), torch.where(own > 0, own * misses, -own * above), 0)
        with torch.no_grad():
            score, point = made._gap(batch, name, choice, seen[name][-1], row)
        torch.testing.assert_close(score[0], cost, rtol=1e-9, atol=1e-12)
        assert not bool(point[0][(low < 0) & (high > 0)].any())
        expected += [(float(c), UnitSplit(name, unit, 0.0, 1)) for unit, c in enumerate(cost) if c > 0]
    first, second = made._candidates([domain, domain])
    assert first == second == [split for _, split in sorted(expected, key=lambda pair: -pair[0])[:12]]
    assert len(expected) > 4


def test_curves_are_split_in_the_middle() -> None:
    given = problem(nn.Tanh)
    made, _ = branching(given)
    batch, choice, seen, row = seen_by(made, Domain(0, (), -9.0, None))
    name = made.nodes[0]
    x = batch.state.intervals[given.network.graph.nodes[name].operands[0]]
    with torch.no_grad():
        score, point = made._gap(batch, name, choice, seen[name][-1], row)
        torch.testing.assert_close(point, (x.lower + x.upper) / 2)
        planes = batch.state.relaxation_at(name, choice.node_alphas[name])
        most = [torch.zeros(8, dtype=DOUBLE)] * 2
        for z in (x.lower, point, x.upper):
            high, low = (p.map.apply(z.unsqueeze(1)) + p.bias for p in (planes.upper, planes.lower))
            gaps = (high[0, 0] - z[0].tanh(), z[0].tanh() - low[0, 0])
            most = [torch.maximum(old, new) for old, new in zip(most, gaps, strict=True)]
    own = seen[name][-1][0, 0]
    torch.testing.assert_close(score[0], torch.where(own > 0, own * most[1], -own * most[0]))
    ops = (
        "relu.default",
        "leaky_relu.default",
        "prelu.default",
        "abs.default",
        "tanh.default",
        "sigmoid.default",
    )
    assert [_bends(f"aten.{op}") for op in ops] == [True] * 4 + [False] * 2


def test_both_halves_of_the_best_split_are_children(relu: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = branching(relu)
    parents = [Domain(0, (), -0.125, None), Domain(1, (), -9.0, None)]
    names = [UnitSplit(made.nodes[0], unit, 0.0, 1) for unit in range(4)]
    monkeypatch.setattr(made, "_candidates", lambda given: [names, []] if given == parents else None)
    for batch in (64, 4):
        made.batch = batch
        children, ends = made._children(parents)
        scores = []
        for split in names:
            pair = [Domain(0, (replace(split, side=side),), 0.0, None) for side in (1, -1)]
            own, _ = made._of(pair)
            with torch.no_grad():
                found = made._best(Bounded(own.bound(own.start([None, None]), own.region), own.region.x, []))
            scores.append(((min(found), max(found)), pair, found))
        (_, pair, found) = max(scores, key=lambda entry: entry[0])
        assert [child.splits for child in children] == [domain.splits for domain in pair]
        assert [child.lower for child in children] == pytest.approx([max(-0.125, bound) for bound in found])
        assert ends == parents[1:] and {child.clause for child in children} == {0}


def bounded(*lower: list[float]) -> Bounded:
    return Bounded(
        torch.tensor(lower, dtype=DOUBLE),
        torch.zeros(len(lower), 3),
        [f"choice {k}" for k in range(len(lower))],
    )  # type: ignore[misc]


def test_what_is_not_proved_is_kept(relu: Problem) -> None:
    made, noted = branching(relu)
    needed = float(relu.needed[0])
    domains = [Domain(0, (UnitSplit("a", k, 0.0, 1),), -1.0, None) for k in range(5)]
    found = bounded([needed * 2, -9], [needed, -9], [-3, math.nan], [math.inf, -0.5], [-math.inf, math.nan])
    judged: list[Any] = []
    tree = Tree()
    assert made._grow(tree, domains, found, lambda points: judged.append(points) or True)  # type: ignore[func-returns-value]
    assert judged[0] is found.worst and noted == [(0, domains[0].splits, "choice 0")]
    kept = {d.splits[0].unit: (d.lower, d.choice) for _, _, d in tree.heap}
    assert kept == {1: (needed, "choice 1"), 2: (-1, "choice 2"), 3: (-0.5, "choice 3"), 4: (-1, "choice 4")}
    made.kept = 3
    for count, choice in ((3, "choice 0"), (4, None)):
        full = Tree()
        for domain in domains[:count]:
            full.push(replace(domain, lower=-99.0))
        assert not made._grow(full, domains[:1], bounded([0.0, 0.0]), lambda points: False)
        assert [d.choice for _, _, d in full.heap if d.lower > -99] == [choice]


def test_what_cannot_be_split_is_optimised_longer(relu: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    made, noted = branching(relu)
    asked: list[Any] = []
    found = bounded([9.0], [-2.0], [-0.5])
    monkeypatch.setattr(made, "_bounded", lambda domains, iterations: asked.append(iterations) or found)  # type: ignore[func-returns-value]
    ends = [Domain(1, (), -1.0, "old") for _ in range(3)]  # type: ignore[arg-type]
    tree = Tree()
    assert not made._close(tree, ends, lambda points: False)
    assert asked == [200] and noted == [(1, (), "choice 0")]
    assert [(d.lower, d.choice) for d in tree.stuck] == [(-1.0, "old"), (-0.5, "old")]


def test_a_search_goes_on_until_nothing_is_open(relu: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = branching(relu)
    made.batch = 4
    seen: list[Any] = []

    def grow(tree: Tree, domains: Any, found: Any, judge: Any) -> bool:
        seen.append(("grow", [d.clause for d in domains], found))
        if found == "bounded 1":
            for domain in domains:
                tree.push(replace(domain, lower=-1.0 - domain.clause))
        return False

    def children(parents: Any) -> Any:
        seen.append(("children", [p.clause for p in parents]))
        return [Domain(0, (), 9.0, None), Domain(0, (), -0.5, None)], parents[:1]

    monkeypatch.setattr(made, "_grow", grow)
    monkeypatch.setattr(made, "_children", children)
    monkeypatch.setattr(made, "_close", lambda tree, ends, judge: seen.append(("close", len(ends))))
    counts = iter(range(1, 9))
    monkeypatch.setattr(
        made, "_bounded", lambda domains, iterations: f"bounded {next(counts)}" if iterations == 10 else None
    )
    state, told = State({c: -9.0 for c in range(6)}), []
    made.problem = SimpleNamespace(needed=torch.zeros(6))  # type: ignore[assignment]
    made.search(
        [None] * 6, Deadline(None), state, lambda: told.append((state.done, state.open)), lambda points: False
    )
    assert seen[:2] == [("grow", [0, 1, 2, 3], "bounded 1"), ("grow", [4, 5], "bounded 2")]
    assert seen[2:5] == [("children", [3, 2]), ("close", 1), ("grow", [0], "bounded 3")]
    assert seen[5:] == [("children", [1, 0]), ("close", 1), ("grow", [0], "bounded 4")]
    assert told == [(0, 4), (2, 2), (4, 0)] and state.left == 0
    with pytest.raises(OutOfTime):
        made.search([None], Deadline(0.0), State({0: -1.0}), lambda: None, lambda points: False)
