"""The planes of a maximum over a window, by the engine and by `blocks`, against the formulas on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import pytest
import torch
from calls import Open, call_of
from torch import Tensor

from bounds import InvalidInput
from bounds.interval import Interval
from bounds.operators import pool
from bounds.relaxation import Slope, Window, Windowed
from tests import closed_forms as blocks

aten = torch.ops.aten
Planes = tuple[list[float], float]


def family(low: Sequence[float], high: Sequence[float], gamma: float) -> Planes:
    """Σ wᵢ(xᵢ − lᵢ) + γ with wᵢ = max(0, uᵢ − γ)/(uᵢ − lᵢ)."""
    weights = [(u - gamma) / (u - l) if u > gamma else 0.0 for l, u in zip(low, high, strict=True)]  # noqa: E741
    return weights, gamma - sum(w * l for w, l in zip(weights, low, strict=True) if w)  # noqa: E741


def tree(low: Sequence[float], high: Sequence[float]) -> Planes:
    """max(a, b) ≤ a + λ(b − a − l) with λ = u/(u − l), input after input."""
    weights, bias, top_low, top_high = [1.0] + [0.0] * (len(low) - 1), 0.0, low[0], high[0]
    for i in range(1, len(low)):
        l, u = low[i] - top_high, high[i] - top_low  # noqa: E741
        if high[i] == -inf or u <= 0:
            share, lift = 0.0, 0.0
        elif l >= 0:
            share, lift = 1.0, 0.0
        else:
            share, lift = u / (u - l), -u * l / (u - l)
        weights = [w * (1 - share) for w in weights]
        weights[i], bias = share, bias * (1 - share) + lift
        top_low, top_high = max(top_low, low[i]), max(top_high, high[i])
    return weights, bias


def ends(low: Sequence[float], high: Sequence[float]) -> tuple[float, float, float]:
    """max l, max u, and the middle of the second and the third greatest u, neither below max l."""
    floor, ordered = max(low), sorted(high, reverse=True)
    second, third = (max(ordered[i], floor) if i < len(high) else floor for i in (1, 2))
    return floor, ordered[0], (second + third) / 2


def chosen(low: Sequence[float], high: Sequence[float]) -> tuple[Planes, Planes, float]:
    """Lower and upper plane by default, and 1 where the upper one is the tree's."""
    centers = [(l + u) / 2 if u > -inf else -inf for l, u in zip(low, high, strict=True)]  # noqa: E741
    below = one(centers.index(max(centers)), len(low))
    floor, ceiling, gamma = ends(low, high)
    planes = [family(low, high, gamma), tree(low, high)]
    heights = [sum(w * c for w, c in zip(ws, centers, strict=True) if c > -inf) + bias for ws, bias in planes]
    taken = int(heights[1] <= heights[0] + 1e-5 * (ceiling - floor))
    return (below, 0.0), planes[taken], float(taken)


def one(place: int, count: int) -> list[float]:
    return [float(i == place) for i in range(count)]


def dominating(low: Sequence[float], high: Sequence[float]) -> Planes | None:
    best = low.index(max(low))  # type: ignore[attr-defined]
    others = [u for i, u in enumerate(high) if i != best]
    return (one(best, len(low)), 0.0) if low[best] >= max(others, default=-inf) else None


def parallel(low: Sequence[float], high: Sequence[float]) -> tuple[Planes, Planes]:
    """γ by bisection, such that the weights sum to one where any γ from max l to the least u above it does so."""
    floor = max(low)
    ceiling = min((u for u in high if u > floor), default=floor)
    a, b = floor, ceiling
    for _ in range(200):
        middle = (a + b) / 2
        a, b = (middle, b) if sum(family(low, high, middle)[0]) > 1 else (a, middle)
    if sum(family(low, high, floor)[0]) <= 1:
        b = floor
    weights, bias = family(low, high, b)
    rest = 1 - sum(weights)
    return (weights, (floor if rest >= 0 else max(high)) * rest), (weights, bias)


BOX = {
    "kernel 3": dict(kernel_size=[3, 3], stride=[1, 1], padding=[1, 1]),
    "stride, ceil": dict(kernel_size=[2, 3], stride=[2, 3], padding=[0, 1], ceil_mode=True),
    "dilation": dict(kernel_size=[2, 2], stride=[1, 2], padding=[1, 0], dilation=[2, 1]),
    "one": dict(kernel_size=[1, 1], stride=[2, 1]),
    "pairs": dict(kernel_size=[1, 2]),
}


def boxed(spread: float) -> Interval:
    """Images of both signs, one of narrow and one of wide intervals."""
    generator = torch.Generator().manual_seed(int(10 * spread))
    center = torch.randn(3, 2, 5, 4, generator=generator, dtype=torch.float64)
    radius = spread * torch.rand(center.shape, generator=generator, dtype=torch.float64) + 1e-3
    radius[0] *= 0.05
    return Interval(center - radius, center + radius)


def windows(call: Any, x: Interval) -> tuple[list[list[float]], list[list[float]]]:
    """The ends of every window, padding −∞, from the places that torch itself reports for one hot input at a time."""
    (h, w), (oh, ow) = call.shapes[0][1:], call.shape[1:]
    kernel, padding, dilation = call["kernel_size"], call["padding"], call["dilation"]
    stride = call["stride"] or kernel
    padding, dilation = ([v[0], v[-1]] for v in (padding, dilation))
    found: tuple[list[list[float]], list[list[float]]] = ([], [])
    for side, kept in zip(x, found, strict=True):
        for n in range(len(side)):
            for c in range(side.shape[1]):
                for i in range(oh):
                    for j in range(ow):
                        window = []
                        for a in range(kernel[0]):
                            for b in range(kernel[1]):
                                y = i * stride[0] - padding[0] + a * dilation[0]
                                z = j * stride[1] - padding[1] + b * dilation[1]
                                inside = 0 <= y < h and 0 <= z < w
                                window.append(float(side[n, c, y, z]) if inside else -inf)
                        kept.append(window)
    return found


def rows_of(plane: Any) -> list[Planes]:
    """The plane of every window, in the same order."""
    assert isinstance(plane.map, Windowed)
    weights = plane.map.weights.squeeze(1).transpose(2, 3).flatten(0, 2)
    return list(zip(weights.tolist(), plane.bias.flatten().tolist(), strict=True))


def same(found: list[Planes], expected: list[Planes]) -> None:
    for (weights, bias), (w, b) in zip(found, expected, strict=True):
        assert weights == pytest.approx(w, rel=1e-9, abs=1e-9)
        assert bias == pytest.approx(b, rel=1e-9, abs=1e-9)


def subject(name: str, spread: float) -> tuple[Any, Interval, list[tuple[list[float], list[float]]]]:
    call, x = call_of(aten.max_pool2d.default, Open((2, 5, 4)), **BOX[name]), boxed(spread)
    return call, x, list(zip(*windows(call, x), strict=True))


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", BOX)
def test_the_planes_taken(name: str, spread: float) -> None:
    call, x, pairs = subject(name, spread)
    planes = pool._relax(call, Slope.ADAPTIVE, (), x.unsqueeze(1))
    settled = [dominating(*pair) for pair in pairs]
    assert any(settled) and (name == "one" or not all(settled))
    taken = [chosen(*pair) for pair in pairs]
    same(rows_of(planes.lower), [s or below for s, (below, _, _) in zip(settled, taken, strict=True)])
    same(rows_of(planes.upper), [s or above for s, (_, above, _) in zip(settled, taken, strict=True)])
    way, between, share = pool._alphas(call, x.unsqueeze(1))
    count = way.shape[-2]
    starts = way.squeeze(1).transpose(2, 3).reshape(-1, count).tolist()
    assert starts == [below[0] for below, _, _ in taken]
    assert share.flatten().tolist() == [tree for _, _, tree in taken]
    for found, (floor, ceiling, gamma) in zip(
        between.flatten().tolist(), [ends(*p) for p in pairs], strict=True
    ):
        assert found == pytest.approx((gamma - floor) / (ceiling - floor), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", BOX)
def test_the_planes_of_one_slope(name: str, spread: float) -> None:
    call, x, pairs = subject(name, spread)
    planes = pool._relax(call, Slope.PARALLEL, (), x.unsqueeze(1))
    assert planes.lower.map is planes.upper.map
    settled, both = [dominating(*pair) for pair in pairs], [parallel(*pair) for pair in pairs]
    same(rows_of(planes.lower), [s or below for s, (below, _) in zip(settled, both, strict=True)])
    same(rows_of(planes.upper), [s or above for s, (_, above) in zip(settled, both, strict=True)])


@pytest.mark.parametrize("name", BOX)
def test_the_planes_that_a_tuning_chooses(name: str) -> None:
    call, x, pairs = subject(name, 1.0)
    start = pool._alphas(call, x.unsqueeze(1))
    generator = torch.Generator().manual_seed(5)
    alphas = tuple(torch.rand(t.shape, generator=generator, dtype=t.dtype) for t in start)
    alphas[0][0] = 0  # nothing chosen: the mean of the real inputs
    alphas[0][1] -= 0.5  # negative numbers count as none
    planes = pool._relax(call, Slope.ADAPTIVE, alphas, x.unsqueeze(1))
    shares = alphas[0].squeeze(1).transpose(2, 3).flatten(0, 2).tolist()
    below, above = [], []
    for pair, share, t, s in zip(
        pairs, shares, alphas[1].flatten().tolist(), alphas[2].flatten().tolist(), strict=True
    ):
        low, high = pair
        real = [max(0.0, w) if u > -inf else 0.0 for w, u in zip(share, high, strict=True)]
        if not sum(real):
            real = [float(u > -inf) for u in high]
        floor, ceiling, _ = ends(low, high)
        one_, other = family(low, high, floor + (ceiling - floor) * t), tree(low, high)
        mixed = [a * (1 - s) + b * s for a, b in zip(one_[0], other[0], strict=True)]
        settled = dominating(low, high)
        below.append(settled or ([w / sum(real) for w in real], 0.0))
        above.append(settled or (mixed, one_[1] * (1 - s) + other[1] * s))
    same(rows_of(planes.lower), below)
    same(rows_of(planes.upper), above)


@pytest.mark.parametrize("name", BOX)
def test_intervals_and_what_may_win(name: str) -> None:
    call, x, pairs = subject(name, 1.0)
    found = pool._interval(call, x)
    assert found.lower.flatten().tolist() == [max(low) for low, _ in pairs]
    assert found.upper.flatten().tolist() == [max(high) for _, high in pairs]
    ball = Interval.around(x.center, x.radius)
    again = pool._interval(call, ball)
    assert again.is_ball
    torch.testing.assert_close(again.lower, found.lower, rtol=0, atol=1e-12)
    torch.testing.assert_close(again.upper, found.upper, rtol=0, atol=1e-12)
    point = pool._interval(call, Interval.around(x.center, torch.zeros_like(x.center)))
    assert not point.radius.any()
    window, low, high = pool._columns(call, x)
    columns = [t.transpose(2, 3).flatten(0, 2).tolist() for t in (low, high)]
    assert columns == [list(side) for side in zip(*pairs, strict=True)]
    expected = torch.zeros(low.shape, dtype=torch.float64).transpose(2, 3).flatten(0, 2)
    for i, (lows, highs) in enumerate(pairs):
        if dominating(lows, highs) is None:
            expected[i] = torch.tensor([float(u > max(lows)) for u in highs])
    expected = expected.reshape(*low.shape[:2], low.shape[3], low.shape[2]).transpose(2, 3)
    (mask,) = pool._unstable(call, x)
    assert torch.equal(mask, window.scatter(expected) > 0)
    assert mask.any() == (name != "one")


def test_a_radius_below_rounding_is_kept_by_a_pool() -> None:
    call = call_of(aten.max_pool2d.default, Open((1, 1, 3)), kernel_size=[1, 3])
    found = pool._interval(
        call, Interval.around(torch.tensor([[[[1.0, 0.5, 0.0]]]]), torch.full((1, 1, 1, 3), 1e-30))
    )
    assert found.center.item() == 1 and found.radius.item() == pytest.approx(1e-30)


SHAPES = (
    (aten.max_pool1d.default, (2, 6), dict(kernel_size=[3], stride=[2], padding=[1]),
     Window((1, 3), (1, 2), (0, 0, 1, 0), (1, 1), (1, 6), (1, 3))),
    (aten.max_pool1d.default, (2, 7), dict(kernel_size=[2], dilation=[3], ceil_mode=True),
     Window((1, 2), (1, 2), (0, 0, 0, 1), (1, 3), (1, 7), (1, 3))),
    (aten.max_pool2d.default, (2, 5, 4), dict(kernel_size=[3, 2]),
     Window((3, 2), (3, 2), (0, 0, 0, 0), (1, 1), (5, 4), (1, 2))),
    (aten.max_pool2d.default, (2, 5, 4), dict(kernel_size=[3], stride=[2], padding=[1]),
     Window((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (5, 4), (3, 2))),
    (aten.max_pool2d.default, (2, 6, 5), dict(kernel_size=[3, 2], stride=[2, 3], padding=[1, 0], ceil_mode=True),
     Window((3, 2), (2, 3), (1, 2, 0, 0), (1, 1), (6, 5), (4, 2))),
)  # fmt: skip


@pytest.mark.parametrize(("target", "shape", "options", "expected"), SHAPES)
def test_the_geometry_of_a_window(target: Any, shape: Any, options: dict[str, Any], expected: Window) -> None:
    found = pool.window_of(call_of(target, Open(shape), **options))
    assert (found.kernel, found.stride, found.dilation) == (
        expected.kernel,
        expected.stride,
        expected.dilation,
    )
    assert (found.size, found.output) == (expected.size, expected.output)
    assert found.padding[::2] == expected.padding[::2]
    assert all(a >= b for a, b in zip(found.padding, expected.padding, strict=True))
    value = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns = found.gather(value.reshape(1, shape[0], *found.size), -inf)
    call = call_of(target, Open(shape), **options)
    assert torch.equal(columns.amax(-2).flatten(), call.apply(value).flatten())


def test_a_pool_of_one_dimension_is_one_of_two_that_is_flat() -> None:
    flat = call_of(aten.max_pool1d.default, Open((2, 6)), kernel_size=[3], stride=[2], padding=[1])
    call = call_of(
        aten.max_pool2d.default, Open((2, 1, 6)), kernel_size=[1, 3], stride=[1, 2], padding=[0, 1]
    )
    x = Interval(*(side.reshape(6, 2, 1, 10)[..., :6] for side in boxed(1.0)))
    line = Interval(x.lower.squeeze(2), x.upper.squeeze(2))
    for slope in (Slope.ADAPTIVE, Slope.PARALLEL):
        wide, narrow = (
            pool._relax(c, slope, (), z.unsqueeze(1)) for c, z in ((call, x), (flat, line))
        )  # fmt: skip
        same(rows_of(narrow.lower), rows_of(wide.lower))
        same(rows_of(narrow.upper), rows_of(wide.upper))
    ball = Interval.around(line.center, line.radius)
    torch.testing.assert_close(pool._interval(flat, ball).upper, pool._interval(call, x).upper.squeeze(2))


@pytest.mark.parametrize(
    "options",
    [
        dict(kernel_size=[2, 2], stride=[1, 1], padding=[1, 1], dilation=[2, 1]),
        dict(kernel_size=[2, 2], stride=[1, 1], padding=[1, 1], dilation=[1, 2]),
    ],
)
def test_windows_of_padding_alone_are_refused(options: dict[str, Any]) -> None:
    """On an image of one row and one column the taps that skip it meet padding on both sides."""
    with pytest.raises(InvalidInput, match="nothing but padding"):
        pool.window_of(call_of(aten.max_pool2d.default, Open((1, 1, 1)), **options))


@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (2, 2, 0), (2, 1, 1), (3, 2, 1)])
def test_the_planes_of_a_block(kernel: int, stride: int, padding: int, spread: float) -> None:
    x = boxed(spread)
    call = call_of(
        aten.max_pool2d.default, Open((2, 5, 4)),
        kernel_size=[kernel] * 2, stride=[stride] * 2, padding=[padding] * 2,
    )  # fmt: skip
    pairs = list(zip(*windows(call, x), strict=True))
    block = blocks.max_pool(x, kernel, stride, padding)
    assert block.shape == call.shape
    assert block.box.lower.flatten().tolist() == [max(low) for low, _ in pairs]
    assert block.box.upper.flatten().tolist() == [max(high) for _, high in pairs]
    window, places = pool.window_of(call), block.shape[1] * block.shape[2]
    settled, taken = [dominating(*pair) for pair in pairs], [chosen(*pair) for pair in pairs]
    for side, (weights, bias) in ((0, block.lower), (1, block.upper)):
        planes = [s or t[side] for s, t in zip(settled, taken, strict=True)]
        columns = torch.tensor([w for w, _ in planes], dtype=torch.float64).reshape(3, 2, places, -1)
        dense = torch.zeros(3, 2 * places, 2, 20, dtype=torch.float64)
        for unit in range(dense.shape[1]):
            c, place = divmod(unit, places)
            alone = torch.zeros(3, 2, columns.shape[3], places, dtype=torch.float64)
            alone[:, c, :, place] = columns[:, c, place]
            dense[:, unit] = window.scatter(alone).flatten(2)
        torch.testing.assert_close(weights.expand(3, -1, -1), dense.flatten(2), rtol=1e-9, atol=1e-9)
        assert bias.flatten().tolist() == pytest.approx([b for _, b in planes], rel=1e-9, abs=1e-9)
    assert isinstance(block.lower[1], Tensor)


def test_an_input_without_an_end_counts_from_zero_to_the_other() -> None:
    """The middle of [1.2, 1.9] is greater than that of [−∞, 3]."""
    x = Interval(torch.tensor([[[[[-inf, 1.2]]]]]), torch.tensor([[[[[3.0, 1.9]]]]]))
    call = call_of(aten.max_pool2d.default, Open((1, 1, 2)), kernel_size=[1, 2], dtype=torch.float32)
    planes = pool._relax(call, Slope.ADAPTIVE, (), x)
    assert rows_of(planes.lower)[0][0] == [0.0, 1.0]
    assert pool._alphas(call, x)[0].flatten().tolist() == [0.0, 1.0]
