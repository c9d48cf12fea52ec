"""Relaxations pull rows as their definition says: positive coefficients by the lower plane, negative by the upper."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor

from bounds import relaxation
from bounds.memory_format import channels_last
from bounds.relaxation import (
    Diagonal,
    Plane,
    Relaxation,
    Window,
    Windowed,
    ignoring_unused_infinities,
    pick,
    sandwich,
    sum_to,
)

SHAPE = (3, 4, 2)
NEVER = 10**18


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def last(coef: Tensor) -> Tensor:
    """The same rows with the channels last in memory."""
    return coef.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def definition(planes: Relaxation, coef: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    up, down = coef.clamp(min=0), coef.clamp(max=0)
    pulled = zip(planes.lower.map.transpose(up), planes.upper.map.transpose(down), strict=True)
    const = (up * planes.lower.bias + down * planes.upper.bias).flatten(2).sum(2)
    return tuple(a + b for a, b in pulled), const


def line(n: int, s: int, seed: int) -> Plane:
    return Plane(Diagonal((draw(n, s, *SHAPE, seed=seed),), (SHAPE,)), draw(n, s, *SHAPE, seed=seed + 1))


@pytest.mark.parametrize("large", [0, NEVER])
@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("apart", ["everywhere", "rarely", "nowhere", "bias below", "bias above", "one map"])
def test_planes_of_all_rows(
    large: int, order: str, images: int, apart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaxation, "SPARSE_COEFFICIENTS", large)
    coef = draw(2, 5, *SHAPE)
    coef = last(coef) if order == "last" else coef
    assert channels_last(coef) == (order == "last")
    a, b, low, high = (draw(images, 1, *SHAPE, seed=i) for i in range(4))
    few = torch.zeros(SHAPE, dtype=torch.bool)
    few[1, 2, 1] = few[0, 0, 1] = True
    if apart != "everywhere":
        few = few if apart == "rarely" else torch.zeros_like(few)
        b, low, high = torch.where(few, b, a), torch.where(few, low, 0.0), torch.where(few, high, 0.0)
    if apart.startswith("bias"):
        place = torch.zeros(SHAPE, dtype=torch.float64)
        place[2, 3, 0] = 1.5
        low, high = (low - place, high) if apart == "bias below" else (low, high + place)
    planes = sandwich(a, low, a if apart == "one map" else b, high)
    assert (planes.lower.map is planes.upper.map) == (apart == "one map")
    loose = planes._few_unstable(coef)
    assert (loose is not None) == (large == 0 and apart != "everywhere")
    if loose is not None:
        assert len(loose) == {"rarely": 2, "nowhere": 0, "one map": 0}.get(apart, 1)
    (pulled,), const = planes.pull(coef)
    (expected,), constant = definition(planes, coef)
    same(pulled, expected)
    same(const, constant)
    assert pulled.shape == coef.shape


def test_rare_means_a_part_of_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "SPARSE_COEFFICIENTS", 60)
    monkeypatch.setattr(relaxation, "SPARSE_SHARE", 0.25)
    a = draw(1, 1, *SHAPE)

    def found(count: int, coef: Tensor) -> bool:
        b = a.flatten().clone()
        b[:count] += 1
        zero = torch.zeros_like(a)
        return sandwich(a, zero, b.reshape(a.shape), zero)._few_unstable(coef) is not None

    coef = draw(1, 3, *SHAPE)
    assert found(6, coef) and not found(7, coef)
    assert not found(1, draw(1, 2, *SHAPE)), "too few coefficients"
    assert sandwich(*(draw(1, 3, *SHAPE, seed=i) for i in range(4)))._few_unstable(coef) is None
    assert sandwich(*(draw(1, 1, 1, 4, 2, seed=i) for i in range(4)))._few_unstable(coef) is None


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_planes_of_each_row(kinds: int) -> None:
    """Each of four units has k kinds of rows, and all kinds share the unit's planes."""
    planes = Relaxation(line(2, 4, 0), line(2, 4, 5))
    assert planes.rows == 4
    coef = draw(2, 4 * kinds, *SHAPE)
    (pulled,), const = planes.pull(coef)
    for k in range(kinds):
        part = slice(4 * k, 4 * k + 4)
        (expected,), constant = definition(planes, coef[:, part])
        same(pulled[:, part], expected)
        same(const[:, part], constant)


def test_operands_that_are_broadcast() -> None:
    shapes = ((1, 4, 2), (3, 1, 1))
    slopes = [tuple(draw(2, 1, *SHAPE, seed=i + k) for i in range(2)) for k in (0, 5)]
    planes = Relaxation(
        *(Plane(Diagonal(s, shapes), draw(2, 1, *SHAPE, seed=9 + i)) for i, s in enumerate(slopes))
    )
    coef, x = draw(2, 3, *SHAPE), [draw(2, 3, *shape) for shape in shapes]
    pulled, const = planes.pull(coef)
    expected, constant = definition(planes, coef)
    for found, e, shape in zip(pulled, expected, shapes, strict=True):
        assert found.shape == (2, 3, *shape)
        same(found, e)
    same(const, constant)
    for plane in (planes.lower, planes.upper):
        m = plane.map
        assert isinstance(m, Diagonal)
        same(m.apply(*x), m.slopes[0] * x[0] + m.slopes[1] * x[1])
        same(m.apply(None, x[1]), m.slopes[1] * x[1])
        same(m.magnitude().apply(*x), m.slopes[0].abs() * x[0] + m.slopes[1].abs() * x[1])
        dots = sum((t * y).flatten(2).sum(2) for t, y in zip(m.transpose(coef), x, strict=True))
        same(dots, (coef * m.apply(*x)).flatten(2).sum(2))  # type: ignore[arg-type]
    one = planes.at(torch.tensor([1]))
    assert one.lower.map is not one.upper.map
    same(one.pull(coef[1:])[1], const[1:])


def test_some_of_the_images() -> None:
    a, low, high = (draw(2, 1, *SHAPE, seed=i) for i in range(3))
    one = sandwich(a, low, a, high).at(slice(1, 2))
    assert one.lower.map is one.upper.map and torch.equal(one.upper.bias, high[1:])
    assert torch.equal(pick(a, slice(0, 1)), a[:1]) and pick(a[:1], slice(1, 2)).shape[0] == 1


def test_sums_down_to_a_shape() -> None:
    coef = draw(2, 3, 4, 5)
    assert sum_to(coef, (4, 5)) is coef
    same(sum_to(coef, (1, 5)), coef.sum(2, keepdim=True))
    same(sum_to(coef, (1, 1)), coef.sum((2, 3), keepdim=True))
    same(sum_to(coef, (3, 1, 5)), coef.sum(2, keepdim=True))


def test_an_infinite_plane_counts_where_it_is_asked_for() -> None:
    """0·∞ is 0; a bound that needs the missing side is −∞."""
    coef = torch.tensor([[[1.0, 0.0], [-2.0, 0.0], [1.0, -1.0]]])
    low, high = torch.tensor([[[2.0, -inf]]]), torch.tensor([[[3.0, inf]]])
    found = ignoring_unused_infinities(torch.full((1, 3), torch.nan), coef, low, high)
    assert found.tolist() == [[2.0, -6.0, -inf]]
    finite = torch.tensor([[1.0, 2.0, 3.0]])
    assert ignoring_unused_infinities(finite, coef, low, high) is finite
    planes = sandwich(torch.zeros(1, 1, 2), low, torch.zeros(1, 1, 2), high)
    assert planes.pull(coef)[1].tolist() == [[2.0, -6.0, -inf]]


@pytest.mark.parametrize("large", [0, NEVER])
def test_an_infinite_plane_of_few_units(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "SPARSE_COEFFICIENTS", large)
    a, zero = torch.ones(1, 1, 20), torch.zeros(1, 1, 20)
    low = zero.clone()
    low[..., 3] = -inf
    coef = torch.ones(1, 3, 20)
    coef[0, :, 3] = torch.tensor([0.0, -1.0, 2.0])
    planes = sandwich(a, low, a.clone(), zero)
    assert planes.pull(coef)[1].tolist() == [[0.0, 0.0, -inf]]


WINDOWS = {
    "plain": Window((2, 2), (2, 1), (0, 0, 0, 0), (1, 1), (5, 4), (2, 3)),
    "padded": Window((3, 2), (1, 2), (1, 2, 0, 1), (1, 1), (4, 5), (5, 3)),
    "dilated": Window((2, 3), (2, 1), (0, 1, 1, 0), (3, 2), (6, 5), (2, 2)),
    "rest": Window((2, 2), (3, 3), (0, 0, 0, 0), (1, 1), (6, 7), (2, 2)),
}


def taps(window: Window, x: Tensor, fill: float) -> Tensor:
    """Place by place: [C, H, W] -> [C, k, oh·ow]."""
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    top, _, left, _ = window.padding
    found = torch.full((x.shape[0], kh * kw, window.output[0] * window.output[1]), fill, dtype=x.dtype)
    for k in range(kh * kw):
        for place in range(found.shape[2]):
            i, j = divmod(place, window.output[1])
            y, z = i * sh - top + k // kw * dh, j * sw - left + k % kw * dw
            if 0 <= y < window.size[0] and 0 <= z < window.size[1]:
                found[:, k, place] = x[:, y, z]
    return found


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str) -> None:
    window = WINDOWS[name]
    x = draw(2, 3, *window.size)
    for fill in (0.0, -inf):
        assert torch.equal(window.gather(x, fill), torch.stack([taps(window, one, fill) for one in x]))
    columns = draw(2, 3, window.kernel[0] * window.kernel[1], window.output[0] * window.output[1])
    back = window.scatter(columns)
    assert back.shape == x.shape
    same((back * x).sum(), (columns * window.gather(x, 0.0)).sum())
    weights = columns[:, None]
    shape = (3, *window.size)
    both = Windowed(weights, window, shape, (3, *window.output))
    assert both.rows == 1
    rows = x[:, None].expand(2, 4, *shape)
    same(both.apply(rows)[:, 2], (columns * window.gather(x, 0.0)).sum(-2).reshape(2, 3, *window.output))
    coef = draw(2, 4, 3, *window.output)
    for given in (coef, last(coef)):
        (pulled,) = both.transpose(given)
        same((pulled * rows).flatten(2).sum(2), (coef * both.apply(rows)).flatten(2).sum(2))
    same(both.magnitude().weights, weights.abs())
    same(both.at(slice(1, 2)).apply(rows[1:]), both.apply(rows)[1:])
    wide = (window.size[0] + 9, window.size[1] + 9)
    spread = window.spread(coef, [torch.ones(1, 1, dtype=torch.float64)] * weights.shape[3], wide)
    assert spread.shape == (2, 4, 3, *wide)
    same(spread.sum((3, 4)), coef.sum((3, 4)) * weights.shape[3])


def test_planes_of_windows_pull_by_definition() -> None:
    window = WINDOWS["padded"]
    shape, output = (3, *window.size), (3, *window.output)
    planes = Relaxation(*(
        Plane(Windowed(draw(2, 1, 3, 6, 15, seed=i), window, shape, output), draw(2, 1, *output, seed=i + 3))
        for i in range(2)
    ))  # fmt: skip
    coef = draw(2, 4, *output)
    (pulled,), const = planes.pull(coef)
    (expected,), constant = definition(planes, coef)
    same(pulled, expected)
    same(const, constant)
