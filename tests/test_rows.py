"""Rows, their layout in memory, blocks of them, and intervals: small exact cases."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from torch import Tensor

import bounds
from bounds import chunking as memory
from bounds.chunking import MemoryBudget, budget, recomputed
from bounds.interval import Interval
from bounds.memory_format import channels_last, fastest_last, flat, like, vectors


def test_margins_targets_and_logits() -> None:
    labels = torch.tensor([1, 0])
    assert bounds.margins(labels, 3).tolist() == [[[-1, 1, 0], [0, 1, -1]], [[1, -1, 0], [1, 0, -1]]]
    assert bounds.targeted(labels, torch.tensor([2, 1]), 3).tolist() == [[[0, 1, -1]], [[1, -1, 0]]]
    assert bounds.logits(2, 2).tolist() == [[[1, 0], [0, 1]]] * 2
    for made in (bounds.margins(labels, 3, dtype=torch.float64), bounds.logits(1, 2, dtype=torch.float64)):
        assert made.dtype is torch.float64
    assert bounds.margins(labels, 3).dtype is bounds.logits(1, 2).dtype is torch.float32
    assert bounds.targeted(labels, labels, 3, dtype=torch.float64).dtype is torch.float64
    assert bounds.margins(torch.zeros(0), 3).shape == (0, 2, 3)
    assert bounds.margins(torch.tensor([2, 0]), 3).shape == (2, 2, 3)


@pytest.mark.parametrize("labels", [[-1], [3], [0, 3], [[0]]])
def test_labels_that_are_none(labels: list[int]) -> None:
    for work in (lambda t: bounds.margins(t, 3), lambda t: bounds.targeted(t, torch.zeros(len(labels)), 3)):
        with pytest.raises(bounds.InvalidInput, match=r"rows: labels must be \[N\] of numbers in \[0, 3\)"):
            work(torch.tensor(labels))
    with pytest.raises(bounds.InvalidInput, match="rows: targets must be"):
        bounds.targeted(torch.zeros(len(labels)), torch.tensor(labels), 3)


def moved(x: Tensor) -> Tensor:
    """[N, S, C, H, W] with its channels last."""
    return x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def test_rows_in_memory() -> None:
    rows = torch.arange(2 * 3 * 2 * 2 * 3.0).reshape(2, 3, 2, 2, 3)
    last = moved(rows)
    assert channels_last(last) and not channels_last(rows)
    assert not channels_last(moved(rows[:, :, :1])) and not channels_last(last[:, :, 0])
    image = rows[:, :1]
    assert like(rows, image) is image and like(last, image[:, 0]).dim() == 4
    turned = like(last, image)
    assert torch.equal(turned, image) and turned.stride(2) == 1
    assert like(last, turned) is turned
    assert flat(rows, 2).shape == (2, 3, 12) and flat(rows[:, 0, 0, 0, 0], 1).shape == (2, 1)
    one, other = vectors(last, image)
    assert torch.equal(one, rows.permute(0, 1, 3, 4, 2).flatten(2))
    assert torch.equal(other, image.permute(0, 1, 3, 4, 2).flatten(2))
    one, other = vectors(rows, image)
    assert torch.equal(one, rows.flatten(2)) and torch.equal(other, image.flatten(2))
    assert fastest_last(torch.zeros(1)) and not fastest_last(torch.zeros(1).double())
    assert not fastest_last(torch.zeros(1, device="meta"))


def cut(
    coefficients: int, counts: list[int], cost: int, held: int | None = None
) -> list[tuple[list[int], int, int]]:
    room = MemoryBudget(coefficients)
    room.fitting = held
    return [(images, rows.start, rows.stop) for images, rows in room.chunks(counts, cost)]


def test_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PADDING_COEFFICIENTS", 20)
    assert cut(60, [3, 3, 3], 10) == [([0, 1], 0, 3), ([2], 0, 3)]
    assert cut(100, [1, 3, 2], 10) == [([1, 2, 0][:2], 0, 3), ([0], 0, 1)]
    assert cut(1000, [1, 3, 2], 10) == [([1, 2], 0, 3), ([0], 0, 1)], "three idle rows would cost thirty"
    assert cut(1000, [2, 3, 2], 10) == [([1, 0, 2], 0, 3)]
    assert cut(20, [5], 10) == [([0], 0, 2), ([0], 2, 4), ([0], 4, 5)]
    assert cut(1000, [5], 10, held=39) == [([0], 0, 3), ([0], 3, 5)]
    assert cut(20, [3], 10, held=1000) == [([0], 0, 2), ([0], 2, 3)]
    assert cut(1000, [2], 10, held=5) == [([0], 0, 1), ([0], 1, 2)]
    assert cut(10, [1, 1], 10) == [([0], 0, 1), ([1], 0, 1)]
    assert cut(1000, [0, 0], 10) == [] == cut(1000, [], 10)
    with pytest.raises(
        bounds.InvalidInput, match=r"memory: one row needs 0\.5 MiB and the budget holds less"
    ):
        cut(10_922, [1], 10_923)


def test_budgets() -> None:
    cpu = torch.device("cpu")
    assert budget(48_000, torch.float64, cpu).coefficients == 1000
    assert budget(48_000, torch.float32, cpu).coefficients == 2000
    assert budget(1, torch.float64, cpu).coefficients == 0
    assert budget(2**40, torch.float64, cpu).coefficients == memory.CACHE_COEFFICIENTS == 4_000_000
    assert budget(2**40, torch.float64, torch.device("cuda")).coefficients == 256_000_000
    for none in (0, -1):
        with pytest.raises(bounds.InvalidInput, match="memory: must be positive"):
            budget(none, torch.float64, cpu)
    pages = memory.os.sysconf("SC_PAGE_SIZE")
    assert memory.free_memory(cpu) > 2**20 > pages


@pytest.mark.parametrize(("free", "expected"), [(96_000_000, 1_000_000), (0, 1 << 16), (2**50, 4_000_000)])
def test_the_budget_by_default_is_half_of_what_is_free(free: int, expected: int, monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    assert budget(None, torch.float64, torch.device("cpu")).coefficients == expected


def test_running_out_of_memory_halves_the_blocks() -> None:
    room, seen = MemoryBudget(80), []

    def work(blocks: memory.Blocks) -> Tensor:
        seen.append([rows.stop - rows.start for _, rows in blocks])
        if max(seen[-1]) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return torch.ones(1)

    with pytest.warns(bounds.MemoryWarning, match="out of memory: going on with smaller blocks") as said:
        assert room.fitted([8], 10, work).item() == 1
    assert seen == [[8], [4, 4], [2, 2, 2, 2]] and room.fitting == 20 and len(said) == 1
    with pytest.raises(RuntimeError, match="else"):
        room.fitted([8], 10, lambda _: (_ for _ in ()).throw(RuntimeError("something else")))
    room = MemoryBudget(20)
    with (
        pytest.warns(bounds.MemoryWarning),
        pytest.raises(bounds.OutOfMemory, match=r"one row needs about 48\.0 MiB"),
    ):
        room = MemoryBudget(2**21)
        room.fitted([2], 2**20, lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))


@pytest.mark.parametrize("several", [False, True])
def test_blocks_are_computed_again_in_the_backward_pass(several: bool) -> None:
    calls: list[int] = []

    def block(x: Tensor) -> Tensor:
        calls.append(1)
        return x.exp().square()

    x = torch.tensor(0.3, requires_grad=True)
    y = recomputed(several, block, x)
    y.backward()
    y = y.detach()
    assert len(calls) == 1 + several
    assert float(x.grad) == pytest.approx(2 * float(y))  # type: ignore[arg-type]
    with torch.no_grad():
        recomputed(True, block, x)
    assert len(calls) == 2 + several


# Intervals


def ends(interval: Interval) -> tuple[list[float], list[float]]:
    return interval.lower.tolist(), interval.upper.tolist()


def test_ends_centres_and_radii() -> None:
    one = Interval(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 4.0]))
    assert one.center.tolist() == [1.5, 1.0] and one.radius.tolist() == [0.5, 3.0] and not one.is_ball
    ball = Interval.around(torch.tensor([1.5, 1.0]), torch.tensor([0.5, 3.0]))
    assert ball.is_ball and ends(ball) == ends(one)
    both = Interval(*one, center=torch.tensor([7.0, 7.0]), radius=torch.tensor([8.0, 8.0]))
    assert (
        both.is_ball
        and ends(both) == ends(one)
        and both.center.tolist() == [7, 7]
        and both.radius.tolist() == [8, 8]
    )
    assert not Interval(*one, center=one.center).is_ball and not Interval(*one, radius=one.radius).is_ball
    assert ends(one.at(slice(1, 2))) == ([-2.0], [4.0]) and one.unsqueeze(0).lower.shape == (1, 2)
    with pytest.raises(bounds.InvalidInput, match=r"lower has shape \[2\], upper \[1\]"):
        Interval(one.lower, one.upper[:1])


def test_what_is_known_after_an_overflow() -> None:
    given = Interval(torch.tensor([nan, inf, -inf, 1.0, 0.0]), torch.tensor([nan, inf, -inf, nan, 2.0]))
    assert ends(given.overflow_as_infinite()) == ([-inf, -inf, -inf, 1.0, 0.0], [inf, inf, inf, inf, 2.0])
    plain = Interval(torch.tensor([1.0]), torch.tensor([2.0]))
    assert plain.overflow_as_infinite() is plain
    below = Interval(torch.tensor([nan, 1.0]), torch.tensor([1.0, 2.0]))
    assert ends(below.overflow_as_infinite()) == ([-inf, 1.0], [1.0, 2.0])
    ball = Interval.around(torch.tensor([nan, inf, 1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, nan, inf, 1.0]))
    known = ball.overflow_as_infinite()
    assert known.center.tolist() == [0.0, 0.0, 0.0, 2.0, 3.0] and known.radius.tolist() == [
        inf,
        inf,
        inf,
        inf,
        1.0,
    ]
    fine = Interval.around(torch.tensor([1.0]), torch.tensor([2.0]))
    assert fine.overflow_as_infinite() is fine
    huge = torch.tensor([3e38, 3e38])
    assert ends(Interval(-huge, huge).overflow_as_infinite()) == ends(Interval(-huge, huge)), (
        "their sum alone overflows"
    )


def test_two_sides_that_cross() -> None:
    one = Interval(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    other = Interval(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 2.0]))
    assert ends(one.intersect(other)) == ([1.0, 1.0], [2.0, 2.0])
    # √ε of single precision is 2⁻¹¹·√2, times 1 + the largest side
    limit = torch.finfo(torch.float32).eps ** 0.5
    for sides, scale in ((1.0, 2.0), (3.0, 4.0)):
        lower = torch.tensor([sides, 0.0])
        inside, outside = (
            torch.tensor([sides - 0.99 * limit * scale, inf]),
            torch.tensor([sides - 1.01 * limit * scale, inf]),
        )
        met = Interval.between(lower, inside)
        assert ends(met) == ([float(inside[0]), 0.0], [sides, inf])
        with pytest.raises(
            bounds.BoundsError, match=f"exceeds the upper bound by {float(lower[0] - outside[0]):g};"
        ):
            Interval.between(lower, outside)
    with pytest.raises(bounds.BoundsError, match="exceeds the upper bound by inf"):
        Interval.between(torch.tensor([inf]), torch.tensor([0.0]))


def test_an_interval_in_order() -> None:
    fine = Interval(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
    assert fine.ordered("here") is fine
    point = Interval.around(torch.tensor([1.0]), torch.tensor([0.0]))
    assert point.ordered("here") is point
    with pytest.raises(bounds.BoundsError, match=r"^here: the lower bound exceeds the upper bound by 0\.5;"):
        Interval(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0])).ordered("here")
    with pytest.raises(bounds.BoundsError, match=r"^there: the lower bound exceeds the upper bound by 2;"):
        Interval.around(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, 1.0])).ordered("there")
