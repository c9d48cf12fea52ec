"""Forecasts on bounds that are straight lines in ε: what is kept, where the root is foretold, to the digit."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import bounds
from certnas.certifier import forecast
from certnas.certifier.forecast import Forecast, _Noting, _on_line, _Point, _Recalling
from certnas.certifier.radius import Radii

DOUBLE = torch.float64
CENTRE, SLOPE = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE), torch.tensor([2.0, 2.0, 2.0], dtype=DOUBLE)
ROOT = CENTRE / SLOPE


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def interval(lower: Tensor) -> dict[str, bounds.Interval]:
    return {"a": bounds.Interval(lower.float().unsqueeze(1), lower.float().unsqueeze(1) + 1)}


@dataclass(frozen=True)
class Lines:
    """Margins CENTRE − SLOPE · ε, each also the interval that it came from; from given ones it reads them off."""

    method: bounds.Method = field(default_factory=bounds.Crown)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def lower_margin(self, eps: Tensor, image: Tensor, dtype: torch.dtype) -> Tensor:
        assert dtype == torch.float32
        if isinstance(self.method, _Recalling):
            self.asked.append(("recalled", eps.tolist(), image.tolist(), self.method.slope))
            given = self.method.intervals["a"]
            assert bool((given.upper >= given.lower).all())
            return given.lower[:, 0]
        assert isinstance(self.method, _Noting) and self.method.method == bounds.Crown()
        margin = CENTRE[image] - SLOPE[image] * eps
        self.method.intervals = interval(margin)
        self.asked.append(("bounded", eps.tolist(), image.tolist(), self.method.slope))
        return margin


def told(tol: float = 1e-3, end: float = math.inf) -> Forecast:
    """A forecast that has seen ε = 0 alone."""
    made = Forecast.__new__(Forecast)
    made.part, made.centre, made.tol, made.rounds = Lines(), CENTRE, tol, 0  # type: ignore[assignment]
    made.end = torch.full_like(CENTRE, end)
    made.other = made.last = _Point(torch.zeros_like(CENTRE), CENTRE, interval(CENTRE))
    return made


EVERY = torch.arange(3)


def test_the_later_two_are_kept_unless_an_earlier_one_holds_the_root() -> None:
    made = told()
    near = made.lower_margin(0.9 * ROOT, EVERY)
    assert near.tolist() == pytest.approx((0.1 * CENTRE).tolist()) and made.rounds == 1
    assert made.last.eps.tolist() == (0.9 * ROOT).tolist() and made.other.eps.tolist() == [0, 0, 0]
    made.lower_margin(1.2 * ROOT[1:], EVERY[1:])
    assert made.last.eps.tolist() == pytest.approx([0.45, 1.2, 1.8])
    assert made.other.eps.tolist() == pytest.approx([0, 0.9, 1.35]) and made.rounds == 2
    # a third below zero: the second says nothing of the root that the first, above it and near, does not
    made.lower_margin(1.1 * ROOT[1:], EVERY[1:])
    assert made.other.eps.tolist() == pytest.approx([0, 0.9, 1.35])
    assert made.last.eps.tolist() == pytest.approx([0.45, 1.1, 1.65])
    assert made.last.margin.tolist() == pytest.approx([0.1, -0.2, -0.3])
    assert made.last.intervals["a"].lower[:, 0].tolist() == pytest.approx([0.1, -0.2, -0.3])
    assert made.last.intervals["a"].upper[:, 0].tolist() == pytest.approx([1.1, 0.8, 0.7])
    # above zero again: the last two have the root between them
    made.lower_margin(0.95 * ROOT[1:], EVERY[1:])
    assert made.other.eps.tolist() == pytest.approx([0, 1.1, 1.65])


@pytest.mark.parametrize(("first", "stays"), [(0.61, True), (0.6, False), (0.5, False)])
def test_what_lies_on_the_other_side_is_kept_up_to_a_factor_of_two(first: float, stays: bool) -> None:
    """A root at 1, three evaluations of image 1: the first above zero, then 1.5 and 1.2 below it."""
    made, one = told(), torch.tensor([1])
    for eps in (first, 1.5, 1.2):
        made.lower_margin(tensor(eps), one)
    assert float(made.other.eps[1]) == (first if stays else 1.5)


def test_the_same_side_all_along_keeps_the_later_two() -> None:
    for all_of_them in ((0.6, 0.7, 0.8), (1.8, 1.7, 1.6)):
        made, one = told(), torch.tensor([1])
        for eps in all_of_them:
            made.lower_margin(tensor(eps), one)
        assert float(made.other.eps[1]) == all_of_them[1] and float(made.last.eps[1]) == all_of_them[2]


def test_a_margin_of_zero_is_not_proved() -> None:
    assert _Point(tensor(1, 1, 1), tensor(1e-9, 0, -1), {}).proved.tolist() == [True, False, False]


def test_margins_between_and_beyond_are_on_the_line() -> None:
    made = told()
    made.lower_margin(0.8 * ROOT, EVERY)
    image = torch.tensor([2, 0])
    for share in (0.4, 0.9, 1.6):
        found = made._margin(share * ROOT[image], image)
        assert found.tolist() == pytest.approx(((1 - share) * CENTRE[image]).tolist(), rel=1e-6)
    assert made.part.asked[-1][2:] == ([2, 0], bounds.Slope.ADAPTIVE)
    made.lower_margin(0.4 * ROOT, EVERY)
    found = made._margin(0.5 * ROOT[image], image)
    assert found.tolist() == pytest.approx((0.5 * CENTRE[image]).tolist(), rel=1e-6)


def test_lines_through_two_intervals() -> None:
    for shape in ((2, 3), (2, 1, 3, 1)):
        low, high = torch.zeros(shape), torch.ones(shape)
        one, other = bounds.Interval(low, high), bounds.Interval(low - 2, high + 4)
        line = _on_line(one, other, torch.tensor([0.5, -0.125]))
        assert line.lower.flatten(1)[:, 0].tolist() == [-1.0, 0.25] and line.lower.shape == torch.Size(shape)
        assert line.upper.flatten(1)[:, 0].tolist() == [3.0, 0.5]
        crossed = _on_line(one, other, torch.tensor([0.0, -1.0]))
        assert (
            crossed.lower.flatten(1)[:, 2].tolist() == crossed.lower.flatten(1)[:, 0].tolist() == [0.0, 2.0]
        )
        assert crossed.upper.flatten(1)[:, 0].tolist() == [1.0, 2.0], "never below the lower end"


def test_a_radius_near_enough_below_the_root_is_the_forecast() -> None:
    """Proved at 0.9995 of the root, twice: by a tolerance of 1e-3 the search is over, by 1e-4 it is not."""
    for tol, near in ((1e-3, True), (1e-4, False)):
        made = told(tol)
        made.lower_margin(0.9 * ROOT, EVERY)
        made.lower_margin(0.9995 * ROOT, EVERY)
        before = len(made.part.asked)
        root = made.root(EVERY)
        if near:
            assert root.tolist() == (made.last.eps * (1 + tol)).tolist()
            assert len(made.part.asked) == before + 1
        else:
            assert len(made.part.asked) > before + 1
            assert root.tolist() == pytest.approx(ROOT.tolist(), rel=1e-4) and bool(
                (root >= ROOT * 0.99999).all()
            )


def test_after_one_evaluation_the_root_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = told(1e-2, end=1.25), []

    def search(margin, centre, start, upper, *, tol, known):
        seen.append(
            (centre.tolist(), start.tolist(), upper.tolist(), tol, [[t.tolist() for t in k] for k in known])
        )
        if len(seen) < 3:  # on the lines, whose roots are half of the centre's margins
            assert margin(centre[:1] / 2, torch.tensor([0])).tolist() == pytest.approx([0.0], abs=1e-6)
        radius = tensor(0.0, 1.0)
        return Radii(radius, tensor(0.5, 0.6 * 1.5), radius.long(), radius > 0, radius > 9)

    monkeypatch.setattr(forecast, "search_radii", search)
    image = torch.tensor([1, 2])
    made.lower_margin(0.9 * ROOT, EVERY)
    root = made.root(image)
    centre, start, upper, tol, (zero, last) = seen[0]
    assert (centre, start, tol) == ([2, 3], (0.9 * ROOT[1:]).tolist(), 0.02)
    assert upper == [1.25, 1.25] and zero == [[], [], []], "at ε = 0 the margin is the centre's"
    assert last[0] == (0.9 * ROOT[1:]).tolist() and last[1] == [0, 1]
    assert last[2] == pytest.approx((0.1 * CENTRE[1:]).tolist(), rel=1e-5)
    assert math.isnan(root[0]) and float(root[1]) == 0.6 * 1.5
    made.rounds, made.end = 2, torch.full_like(CENTRE, 100.0)
    made.root(torch.tensor([2, 1]))
    assert seen[1][3] == pytest.approx(0.2 * 1e-2)
    made.last = made.last.put(image, _Point(tensor(0.5, 0.25), tensor(-1, -1), interval(tensor(-1, -1))))
    made.root(image)
    assert seen[2][2] == [2.0, 1.0] and seen[2][1] == [0.5, 0.25], "at most four times as far"


@pytest.mark.parametrize(
    ("found", "told_root"), [(1.6, 1.6), (1.5, 1.5), (0.7, 0.7), (2.0, 2.0**1.3), (3.0, 3.0**1.3)]
)
def test_far_roots_are_put_farther(found: float, told_root: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(margin, centre, start, upper, **more):
        return Radii(tensor(1e-9), tensor(0.5 * found), start.long(), start > 0, start < 0)

    monkeypatch.setattr(forecast, "search_radii", search)
    made, one = told(), torch.tensor([0])
    made.lower_margin(tensor(0.5), one)
    assert float(made.root(one)) == pytest.approx(0.5 * told_root, rel=1e-12)


def test_what_is_below_zero_has_its_root_below() -> None:
    made = told()
    for eps in (1.5 * ROOT, 1.25 * ROOT):
        made.lower_margin(eps, EVERY)
    root = made.root(EVERY)
    assert bool((root >= ROOT * (1 - 1e-6)).all()) and bool((root <= ROOT * (1 + 3e-4)).all())
    one = told()
    one.lower_margin(1.5 * ROOT[:1], EVERY[:1])
    assert float(one.root(EVERY[:1])) == pytest.approx(float(ROOT[0]), rel=0.02)


def test_points_are_taken_and_put() -> None:
    point = _Point(tensor(1, 2, 3), tensor(4, 5, 6), interval(tensor(7, 8, 9)))
    some = point.at(torch.tensor([2, 0]))
    assert (some.eps.tolist(), some.margin.tolist()) == ([3, 1], [6, 4])
    assert some.intervals["a"].lower[:, 0].tolist() == [9, 7]
    back = point.put(torch.tensor([1, 2]), some)
    assert (back.eps.tolist(), back.margin.tolist()) == ([1, 3, 1], [4, 6, 4])
    assert back.intervals["a"].lower[:, 0].tolist() == [7, 9, 7]
    assert back.intervals["a"].upper[:, 0].tolist() == [8, 10, 8]


def test_methods_note_and_recall() -> None:
    one = bounds.Slope.ONE
    noting = _Noting(bounds.Crown(one))
    assert (noting.slope, noting.intervals, _Recalling({}, one).slope) == (one, {}, one)


@dataclass(frozen=True)
class Asked:
    """What a forecast reads of a prover before the first evaluation."""

    single: str
    x: Tensor
    rows: Tensor
    memory: int


def test_at_the_beginning_the_values_themselves_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def lower_bounds(network: Any, region: bounds.Region, rows: Tensor, method: Any, *, memory: int) -> None:
        assert isinstance(method, _Noting) and method.method == bounds.IBP() and not torch.is_grad_enabled()
        method.intervals = interval(CENTRE)
        seen.append((network, type(region), region.x, region.eps, rows, memory))

    monkeypatch.setattr(bounds, "lower_bounds", lower_bounds)
    x, rows = torch.rand(3, 2, dtype=DOUBLE), torch.rand(3, 1, 2, dtype=DOUBLE)
    made = Forecast(Asked("single", x, rows, 77), CENTRE, 9 * CENTRE, 0.25)  # type: ignore[arg-type]
    ((network, kind, centre, eps, given, memory),) = seen
    assert (network, kind, eps, memory) == ("single", bounds.Linf, 0.0, 77)
    assert torch.equal(centre, x.float()) and torch.equal(given, rows.float())
    assert made.other is made.last and made.last.eps.tolist() == [0, 0, 0] and made.last.margin is CENTRE
    assert (made.rounds, made.tol) == (0, 0.25) and torch.equal(made.end, 9 * CENTRE)
    assert torch.equal(made.last.intervals["a"].lower, CENTRE.float().unsqueeze(1))
