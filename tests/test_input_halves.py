"""Boxes that are halved: which input, which halves, what is kept, proved and noted."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from property_networks import ball, below, dense
from torch import Tensor

import bounds
from certnas.verifier import Clause, Property, network_of
from certnas.verifier.branch import State
from certnas.verifier.deadline import Deadline, OutOfTime
from certnas.verifier.input_split import FEW_INPUTS, InputBox, InputSplitting, free_inputs, mixture
from certnas.verifier.problem import Problem, problem_of
from certnas.verifier.relaxed import UnitSplit

DOUBLE = torch.float64


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def test_a_box_is_halved_at_the_middle_of_its_axis() -> None:
    part = InputBox(3, tensor([0.0, -1, 5]), tensor([1.0, 3, 9]), -0.5, 1, (UnitSplit("a", 0, 0.25, 1),))
    below_, above = part.halves("x")
    assert (below_.lower.tolist(), below_.upper.tolist()) == ([0, -1, 5], [1, 1, 9])
    assert (above.lower.tolist(), above.upper.tolist()) == ([0, 1, 5], [1, 3, 9])
    assert below_.splits == (*part.splits, UnitSplit("x", 1, 1.0, -1)) and above.splits[-1] == UnitSplit(
        "x", 1, 1.0, 1
    )
    for half in (below_, above):
        assert (half.clause, half.bound, half.axis) == (3, -0.5, 1)
    assert part.lower.tolist() == [0, -1, 5] and part.upper.tolist() == [1, 3, 9]
    assert InputBox(0, part.lower, part.upper, 0.0) == replace(part, clause=0, bound=0.0, axis=0, splits=())
    huge = InputBox(0, tensor([1.0e308]), tensor([1.7e308]), 0.0).halves("x")[0]
    assert float(huge.upper[0]) == pytest.approx(1.35e308)


@pytest.fixture(scope="module")
def given() -> Problem:
    """Two boxes, the third input of which is fixed; two clauses in the first, one in the second."""
    row = tensor([1.0, -1.0])
    first, second = ball(tensor([0.5, 0.5, 0.5]), 1.0), ball(tensor([0.0, 0.25, 0.5]), 0.25)
    boxes = [replace(b, sides=(*b.sides[:2], (b.sides[2][0],) * 2)) for b in (first, second)]
    clauses = [Clause(b, (below(row * s, bound),)) for b, s, bound in
               ((boxes[0], 1, -0.5), (boxes[1], 1, -5.0), (boxes[0], -1, -0.5))]  # fmt: skip
    return problem_of(network_of(dense(0, 3, 8, 8, 2), (3,)), Property(3, 2, tuple(clauses)))


def splitting(given: Problem, memory: int = 1 << 26, settled: Any = None) -> tuple[InputSplitting, list[Any]]:
    noted: list[Any] = []
    made = InputSplitting(given, memory, lambda *told: noted.append(told), settled or (lambda *box: False))
    return made, noted


def test_fixed_inputs_are_not_counted(given: Problem) -> None:
    assert free_inputs(given) == 2 and FEW_INPUTS == 24
    assert splitting(given, 1096 * 5 + 1095)[0].most == 5, "32 bytes an input and 1000 a box"


def test_the_axis_is_where_the_bound_loses_most(given: Problem) -> None:
    made, _ = splitting(given)
    radius = tensor([[1.0, 0.25, 4.0]])
    # losses 1 · 1 · √(1/4), s · ¼ · √(1/16), 0
    for slope, axis in (
        ([1.0, 7.9, 0], 0),
        ([1.0, 8.1, 0], 1),
        ([1.0, 8.1, 0.13], 2),
        ([0.0, 0, 0], 2),
        ([0, 1e-9, 0], 1),
    ):
        assert made._axis(tensor([slope]), radius).tolist() == [axis]
    both = made._axis(tensor([[1.0, 7.9, 0], [0.0, 0, 0]]), radius.repeat(2, 1))
    assert both.tolist() == [0, 2]


def test_whole_boxes_come_first(given: Problem) -> None:
    made, _ = splitting(given)
    part = made._whole(1, -7.0)
    box = given.region.box()
    assert torch.equal(part.lower, box.lower[1]) and torch.equal(part.upper, box.upper[1])
    assert (part.clause, part.bound, part.axis, part.splits) == (1, -7.0, 0, ())


@pytest.mark.parametrize("settles", [True, False])
def test_what_bounds_do_not_prove_is_kept(
    settles: bool, given: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five parts are proved, not finite, NaN, at what is needed, and bounded by less than their parent was."""
    needed = float(given.needed[0])
    lower = [needed * 1.001, math.inf, math.nan, needed, -3.0]
    slope = tensor([[1.0, -2, 0]] * 5)
    seen: list[Any] = []

    def bounded(region: bounds.Linf, coef: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((region, coef, offset))
        return torch.stack([tensor(lower), tensor([-9.0] * 5)], 1), slope

    asked: list[Any] = []

    def settled(clause: int, low: Tensor, high: Tensor, bound: float) -> bool:
        asked.append((clause, low.tolist(), high.tolist(), bound))
        return settles and bound == needed

    made, noted = splitting(given, settled=settled)
    monkeypatch.setattr(made, "_bounded", bounded)
    side = UnitSplit("x", 0, 0.5, 1)
    wave = [InputBox(0, tensor([0.0, k, 0]), tensor([1.0, k + 2, 0]), -1.0, 0, (side,) * k) for k in range(5)]
    points = made._grow(wave)
    region, coef, offset = seen[0]
    assert torch.equal(coef, given.coef[[0] * 5]) and torch.equal(offset, given.offset[[0] * 5])
    assert region.x.tolist() == [[0.5, k + 1, 0] for k in range(5)]
    torch.testing.assert_close(points, tensor([[0.0, k + 2, 0] for k in range(5)]))
    kept = sorted((part.splits.__len__(), bound, part.bound, part.axis) for bound, _, part in made.heap)
    expected = [(1, -1.0, -1.0, 1), (2, -1.0, -1.0, 1), (3, needed, needed, 1), (4, -1.0, -1.0, 1)]
    proved = [(0, (), None)]
    # an infinite bound proves nothing; -9 is the best that is finite
    if settles:
        expected.remove((3, needed, needed, 1))
        proved.append((0, (side,) * 3, None))
    assert kept == expected and noted == proved
    assert [bound for *_, bound in asked] == [-9.0, -9.0, needed, -3.0]
    assert asked[0][:3] == (0, [0, 1, 0], [1, 3, 0])


def test_a_search_goes_on_with_the_least_bounds(given: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    waves: list[list[InputBox]] = []
    scripted = iter([{0: -3.0, 1: -2.0, 2: -1.0}, None, None])

    made, _ = splitting(given)
    monkeypatch.setattr("certnas.verifier.input_split.LARGEST_BATCH", 4)

    def grow(wave: list[InputBox]) -> str:
        waves.append(list(wave))
        lower = next(scripted, None)
        for part in wave:
            if lower is not None:
                made.heap.append(
                    (lower[part.clause], next(made.count), replace(part, bound=lower[part.clause]))
                )
        made.heap.sort()
        return f"points {len(waves)}"

    monkeypatch.setattr(made, "_grow", grow)
    state, told, judged = State({0: -9.0, 1: -8.0, 2: -7.0}), [], []
    made.search(
        Deadline(None),
        state,
        lambda: told.append((dict(state.lower), state.open, state.done)),
        lambda points: judged.append(points) or False,
    )  # type: ignore[func-returns-value]
    assert [[(p.clause, p.bound) for p in wave] for wave in waves] == [
        [(0, -9.0), (1, -8.0), (2, -7.0)],
        [(0, -3.0), (0, -3.0), (1, -2.0), (1, -2.0)],
        [(2, -1.0), (2, -1.0)],
    ]  # fmt: skip
    none = math.inf
    assert told == [
        ({0: -3.0, 1: -2.0, 2: -1.0}, 3, 3),
        ({0: none, 1: none, 2: -1.0}, 1, 7),
        ({0: none, 1: none, 2: none}, 0, 9),
    ]
    assert judged == ["points 1", "points 2", "points 3"] and state.left == 0


def test_a_search_ends_at_a_point_in_time_or_in_memory(
    given: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = splitting(given)
    state = State(dict.fromkeys(range(3), -math.inf))
    made.search(Deadline(None), state, lambda: None, lambda points: True)
    assert state.done == 0 and state.lower[0] == -math.inf
    with pytest.raises(OutOfTime):
        splitting(given)[0].search(Deadline(0.0), state, lambda: None, lambda points: False)
    for most, ends in ((1, MemoryError), (2, InterruptedError)):
        made, _ = splitting(given)
        made.most = most
        parts = [replace(made._whole(c, 0.0), bound=-1.0 - c) for c in (0, 2)]

        def grow(wave: list[InputBox], made: InputSplitting = made, parts: list[InputBox] = parts) -> None:
            made.heap = [(part.bound, next(made.count), part) for part in parts[::-1]]

        monkeypatch.setattr(made, "_grow", grow)
        state, told = State(dict.fromkeys(range(3), -math.inf)), []

        def tell(told: list[int] = told, state: State = state) -> None:
            told.append(state.open)
            if len(told) > 1:
                raise InterruptedError

        with pytest.raises(ends):
            made.search(Deadline(None), state, tell, lambda points: False)
        assert told[0] == 2 and state.lower == {0: -1.0, 1: math.inf, 2: -3.0}


def mixed(least: np.ndarray, slopes: np.ndarray, radius: np.ndarray) -> tuple[float, np.ndarray]:
    """Exponentiated supergradients in plain numbers: 40 steps of 2 / √step, the best weights."""
    count = len(least)
    centre, weight = least + np.abs(slopes) @ radius, np.full(count, 1 / count)
    best, form = -np.inf, slopes[0]
    for step in range(1, 41):
        rows = weight @ slopes
        bound = weight @ centre - np.abs(rows) @ radius
        if bound > best:
            best, form = bound, rows
        ascent = centre - slopes @ (np.sign(rows) * radius)
        scale = np.abs(ascent).max()
        ascent = ascent - ascent.max()
        weight = weight * np.exp(2 * ascent / max(scale, 1e-30) / step**0.5)
        weight = weight / weight.sum()
    return best, form


def test_a_mixture_is_that_of_plain_numbers() -> None:
    drawn = torch.Generator().manual_seed(0)
    slopes = torch.randn(6, 3, 4, generator=drawn, dtype=DOUBLE)
    least = -torch.rand(6, 3, generator=drawn, dtype=DOUBLE)
    radius = torch.rand(6, 4, generator=drawn, dtype=DOUBLE)
    bound, form = mixture(least, slopes, radius)
    for b in range(6):
        expected, rows = mixed(least[b].numpy(), slopes[b].numpy(), radius[b].numpy())
        assert float(bound[b]) == pytest.approx(expected, rel=1e-9)
        assert form[b].tolist() == pytest.approx(rows.tolist(), rel=1e-9)
        assert float(bound[b]) >= float(least[b].mean()) - 1e-12
    same = mixture(least[:, :1], slopes[:, :1], radius)
    torch.testing.assert_close(same[0], least[:, 0])


def test_bounds_of_a_box_and_their_form(given: Problem) -> None:
    """The least of crown and intervals, less the offset, and the form that gives it at the points of the box."""
    made, _ = splitting(given)
    excess, slope = made._bounded(given.region, given.coef[:2], given.offset[:2])
    with torch.no_grad():
        crown, boxed = (
            bounds.lower_bounds(given.network, given.region, given.coef[:2], method)
            for method in (bounds.Crown(bounds.Slope.ADAPTIVE), bounds.IBP())
        )
        assert bool((excess >= torch.maximum(crown, boxed) - given.offset[:2] - 1e-9).all())
        points = given.region.x + given.region.radii * (2 * torch.rand(500, 1, 3, dtype=DOUBLE) - 1)
        values = torch.einsum(
            "bk,mbk->mb", given.coef[:2, 0], given.network(points.flatten(0, 1)).reshape(500, 2, 2)
        )
    assert (
        bool((values - given.offset[:2, 0] >= excess[:, 0] - 1e-9).all())
        and slope.shape == given.region.x.shape
    )
    assert not excess.requires_grad and not slope.requires_grad
