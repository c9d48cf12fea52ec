"""Each step by which units of known sign are let go: what is counted, looked at, kept and moved together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor

import bounds
from bounds.interval import Interval
from bounds.memory_format import channels_last
from bounds.one_sided import OneSided, _signs, _with_side, signs_alone
from bounds.passes import early_stop
from bounds.passes.early_stop import EarlyStop
from bounds.patch import Grid, Patch

X = torch.tensor([[0.5, 0.25, 0.0], [1.0, -1.0, 0.5]], dtype=torch.float64)
REGION = bounds.Linf(X, 0.1)
UNITS = 20


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


class Named(Mapping[str, Interval]):
    """Intervals by a function of their names, None for those that there are not."""

    def __init__(self, box: Callable[[str], Interval | None]) -> None:
        self.box = box

    def __getitem__(self, name: str) -> Interval:
        found = self.box(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


def made(
    box: Callable[[str], Interval | None], units: int = UNITS, sides: int = 2
) -> tuple[EarlyStop, Tensor]:
    rows = draw(2, sides * units, 4)
    return EarlyStop("x", REGION, Named(box), slice(None), rows, frozenset(), sides), rows


def nothing(_: str) -> Interval:
    """A box that is a point at zero, so that the constants alone decide."""
    return Interval(torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64))


def test_a_look_is_due_when_as_much_was_passed() -> None:
    one, rows = made(nothing)
    pending = {"h": rows}
    assert not one.is_due("h", pending)
    one.count_coefficients([rows, rows], relaxed=False)
    assert not one.is_due("h", pending), "before the first relaxation intervals know as much"
    one.count_coefficients([rows[:, :, :3]], relaxed=True)
    assert not one.is_due("h", pending)
    one.count_coefficients([rows[:, :, :1]], relaxed=False)
    assert one.is_due("h", pending) and not one.is_due("h", {"h": rows, "g": rows[:, :1]})
    one.unproductive = frozenset({"h"})
    assert not one.is_due("h", pending) and one.is_due("g", pending)


def test_looks() -> None:
    """One unit in twenty each: hardly worth it. Then a quarter: the rows that are left move together."""
    one, rows = made(nothing)
    one.count_coefficients([rows], relaxed=True)
    total = torch.full((2, 2, UNITS), -1.0, dtype=torch.float64) - torch.arange(UNITS) / 100
    first = total.clone()
    first[0, 0, 3], first[1, 1, 5] = 0.5, 0.0
    pending, after = one.check_signs("a", {"h": rows}, first.flatten(1))
    assert pending["h"] is rows and torch.equal(after, first.flatten(1)) and one.unproductive == {"a"}
    assert not one.is_due("b", {"h": rows}), "a look begins to count anew"
    second = total.clone() - 1
    second[0, 1, [0, 1, 3, 19]], second[1, 0, [2, 5, 6]] = 0.25, 2.0
    pending, after = one.check_signs("b", {"h": rows}, second.flatten(1))
    assert one.unproductive == {"a"}
    gone = [{0, 1, 3, 19}, {2, 5, 6}]
    left = [[u for u in range(UNITS) if u not in g] for g in gone]
    most = max(map(len, left))
    assert pending["h"].shape == (2, 2 * most, 4) and after.shape == (2, 2 * most)
    for n, units in enumerate(left):
        for side in range(2):
            places = slice(side * most, side * most + len(units))
            assert torch.equal(pending["h"][n, places], rows[n, [side * UNITS + u for u in units]])
            assert torch.equal(after[n, places], second[n, side, units])
    final = draw(2, 2, most, seed=9)
    found = one.close(final.flatten(1)).reshape(2, 2, UNITS)
    for n, units in enumerate(left):
        assert torch.equal(found[n][:, units], final[n][:, : len(units)])
    assert torch.equal(found[0][:, 3], first[0][:, 3]) and torch.equal(found[1][:, 5], first[1][:, 5])
    assert torch.equal(found[0][:, [0, 1, 19]], second[0][:, [0, 1, 19]])
    assert torch.equal(found[1][:, [2, 6]], second[1][:, [2, 6]])


@pytest.mark.parametrize(("settled", "idle", "moved"), [(1, True, False), (2, False, True)])
def test_how_many_units_a_look_is_worth(settled: int, idle: bool, moved: bool) -> None:
    """One of twenty units is 5 %, and eighteen are 90 %."""
    one, rows = made(nothing)
    total = torch.full((2, 2, UNITS), -1.0, dtype=torch.float64)
    total[:, 0, :settled] = 1.0
    pending, _ = one.check_signs("a", {"h": rows}, total.flatten(1))
    assert (one.unproductive == {"a"}) == idle
    assert (pending["h"] is not rows) == moved


def test_where_no_unit_stays_open_no_row_does() -> None:
    one, rows = made(nothing, sides=1)
    total = torch.arange(2.0 * UNITS, dtype=torch.float64).reshape(2, UNITS)
    pending, after = one.check_signs("a", {"h": rows}, total)
    assert pending == {} and torch.equal(after, total)
    assert torch.equal(one.close(None), total)


def test_without_a_box_nothing_is_known() -> None:
    one, rows = made(lambda name: nothing(name) if name == "h" else None)
    total = torch.ones(2, 2 * UNITS, dtype=torch.float64)
    pending, after = one.check_signs("a", {"h": rows, "g": rows}, total)
    assert pending["g"] is rows and torch.equal(after, total)
    assert not one.close(total * 0).any() and one.unproductive == frozenset()


def test_a_look_adds_up_boxes_and_the_region() -> None:
    middle, radius = draw(2, 4, seed=2), draw(2, 4, seed=3).abs()
    one, rows = made(lambda _: Interval(middle - radius, middle + radius), units=1, sides=1)
    onto_x = draw(2, 1, 3)
    value = (
        (rows * middle.unsqueeze(1)).sum(2)
        - (rows.abs() * radius.unsqueeze(1)).sum(2)
        + REGION.minimum(onto_x)
    )
    for lift, open_ in ((1e-9, False), (-1e-9, True)):
        one, _ = made(lambda _: Interval(middle - radius, middle + radius), units=1, sides=1)
        one.check_signs("a", {"x": onto_x, "h": rows}, -value + lift)
        assert bool(one._undecided.any()) == open_


def patch_rows() -> tuple[Patch, Interval]:
    top, left = torch.tensor([[0, 1, 2], [2, 0, 1]]), torch.tensor([[1, 0, 2], [0, 2, 1]])
    p = Patch(draw(2, 6, 2, 2, 3), top, left, Grid((1, 1), (-1, 0), (2, 3)), (2, 4, 4))
    middle = draw(2, 2, 4, 4, seed=5)
    return p, Interval(middle - 0.5, middle + 0.25)


def test_windows_are_looked_at_and_chosen_like_rows() -> None:
    p, box = patch_rows()
    torch.testing.assert_close(
        early_stop._minimum_in_interval(p, box),
        early_stop._minimum_in_interval(p.dense(), box),
        rtol=0,
        atol=1e-12,
    )
    index = torch.tensor([[2, 0], [1, 2]])
    both = torch.cat([index, index + 3], 1)
    some = early_stop._select_units(p, index, both)
    assert isinstance(some, Patch) and torch.equal(some.top, p.top.gather(1, index))
    expected = torch.stack([p.dense()[n, both[n]] for n in range(2)])
    assert torch.equal(some.dense(), expected)
    assert torch.equal(early_stop._select_units(p.dense(), index, both), expected)  # type: ignore[arg-type]
    last = p.dense().permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    taken = early_stop._select(last, both)
    assert torch.equal(taken, expected) and channels_last(taken)
    flat = draw(2, 5, 3)
    assert torch.equal(early_stop._select(flat, index), torch.stack([flat[n, index[n]] for n in range(2)]))


# The likelier side first


def interval(*pairs: tuple[float, float]) -> Interval:
    low, high = torch.tensor(pairs, dtype=torch.float64).T
    return Interval(low, high)


def pairs(x: Interval) -> list[tuple[float, float]]:
    return list(zip(x.lower.tolist(), x.upper.tolist(), strict=True))


def test_what_a_sign_leaves_of_an_interval() -> None:
    known = interval((-2, 3), (-2, 3), (-2, 3), (1, 3), (-3, -1), (-2, 3), (-2, 3))
    found = interval((0.5, 2), (-1, -0.5), (-1, 2), (2, 2.5), (-2, -1.5), (0, 2), (-1, 0))
    assert pairs(signs_alone(known, found)) == [(0, 3), (-2, 0), (-1, 2), (1, 3), (-3, -1), (0, 3), (-2, 0)]
    assert pairs(signs_alone(known, interval(*[(0, 0)] * 7)))[0] == (0, 0)


def test_the_side_that_was_asked_for() -> None:
    known = interval((-2, 3), (-2, 3))
    above = torch.tensor([True, False])
    assert pairs(_with_side(known, above, torch.tensor([0.5, 1.5]).double())) == [(0.5, 3), (-2, -1.5)]
    signs = _signs(above, known)
    assert signs.tolist() == [1.0, -1.0] and signs.dtype is torch.float64


def test_a_side_that_was_not_asked_for_is_mirrored() -> None:
    """A side lies as far from the value at the centre as the other, unless it is known to be nearer."""
    one = OneSided(None, None)  # type: ignore[arg-type]
    one._centre["h"] = torch.tensor([2.0, -2.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    found = interval((1, 9), (-9, -1), (1, 2.5), (-1, 7), (0, 7))
    assert pairs(one.mirrored("h", found)) == [(1, 3), (-3, -1), (1, 2.5), (-1, 7), (0, 7)]
    assert one.worthwhile
    one._undecided_share = 0.5
    assert one.worthwhile
    one._undecided_share = 0.51
    assert not one.worthwhile


class Asked:
    """Answers with the bounds that it is given, and remembers what it was asked."""

    def __init__(self, *answers: Tensor) -> None:
        self.answers, self.calls = list(answers), []

    def __call__(self, units: Tensor, signs: Tensor, counts: Sequence[int], early_stop: bool) -> Tensor:
        self.calls.append((units.tolist(), signs.tolist(), list(counts), early_stop))
        return self.answers.pop(0)


def test_the_other_side_is_asked_where_the_first_leaves_it_open() -> None:
    """The images ask for four and three of five units; the sign at the centre says which side comes first."""
    known = Interval(torch.full((2, 4), -9.0).double(), torch.full((2, 4), 9.0).double())
    units = torch.tensor([[0, 1, 3, 4], [2, 4, 0, 1]])
    centre = torch.tensor([[1.0, -1.0, 0.0, 0.0, -2.0], [0.0, 0.0, -3.0, 1.0, 5.0]]).double()
    first = torch.tensor([[0.5, -1.0, -2.0, 0.0], [-0.5, 3.0, -4.0, -6.0]]).double()
    second = torch.tensor([[-5.0, -7.0], [-8.0, -1.5]]).double()
    asked = Asked(first, second)
    one = OneSided(None, None)  # type: ignore[arg-type]
    one._centre["h"] = centre
    found = one.bounds("h", units, known, [4, 3], asked)
    # of the second image unit 4 is settled, the last is none of its own
    assert asked.calls == [
        (units.tolist(), [[1, -1, 1, -1], [-1, 1, 1, 1]], [4, 3], True),
        ([[1, 3], [2, 0]], [[1, -1], [1, -1]], [2, 2], False),
    ]
    assert one._undecided_share == 4 / 7 and not one.worthwhile
    assert found.lower.tolist() == [[0.5, -5.0, -2.0, -9.0], [-8.0, 3.0, -4.0, -6.0]]
    assert found.upper.tolist() == [[9.0, 1.0, 7.0, -0.0], [0.5, 9.0, 1.5, 9.0]]
    again = OneSided(None, None)  # type: ignore[arg-type]
    again._centre["h"] = centre
    settled = again.bounds("h", units, known, [4, 3], Asked(first.abs()))
    assert (
        again.worthwhile
        and again._undecided_share == 0
        and settled.lower.tolist()[0] == [0.5, -9.0, 2.0, -9.0]
    )
