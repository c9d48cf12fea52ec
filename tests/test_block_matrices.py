"""The closed forms of `blocks` against their equations, with every matrix written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.interval import Interval
from tests import closed_forms as blocks
from tests.closed_forms import BatchNorm, BlockBounds, Convolution

Planes = tuple[Tensor, Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def box(*shape: int, seed: int = 0) -> Interval:
    """Units of either sign and of both, ends at zero among them."""
    center, radius = draw(*shape, seed=seed), draw(*shape, seed=seed + 40).abs()
    low, high = center - radius, center + radius
    low.view(-1)[:2], high.view(-1)[0], high.view(-1)[1] = 0, 1, 0
    high.view(-1)[2], low.view(-1)[2] = 0.75, -0.75
    return Interval(low, high)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def norm(channels: int, seed: int = 0) -> BatchNorm:
    mean, var, gamma, beta = (draw(channels, seed=seed + i) for i in range(4))
    return BatchNorm(mean, var.square() + 0.2, gamma, beta, 0.3)


def matrix(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Planes:
    """Column by column."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    bias = function(zero).flatten()
    units = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *shape)
    return torch.stack([function(u.unsqueeze(0)).flatten() - bias for u in units], 1), bias


def relu(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s, d and t of σ on [l, u], unit by unit."""
    found: list[list[float]] = [[], [], []]
    for l, u in zip(low.flatten().tolist(), high.flatten().tolist(), strict=True):  # noqa: E741
        if l < 0 < u:
            d = u / (u - l)
            three = (1.0 if u >= -l else 0.0, d, -d * l)
        else:
            three = (float(u > 0), float(u > 0), 0.0)
        for kept, value in zip(found, three, strict=True):
            kept.append(value)
    return tuple(torch.tensor(f, dtype=torch.float64).reshape(low.shape[0], -1) for f in found)  # type: ignore[return-value]


def through(m: Tensor, c: Tensor, x: Interval) -> tuple[Planes, Planes]:
    """M·σ(x) + c by planes: M⁺ takes the side that is asked for, M⁻ the other.  m [O, I] or [N, O, I]"""
    s, d, t = relu(x.lower, x.upper)
    up, down = m.clamp(min=0), m.clamp(max=0)
    lower = up * s.unsqueeze(1) + down * d.unsqueeze(1), (down @ t.unsqueeze(2)).squeeze(2) + c
    upper = up * d.unsqueeze(1) + down * s.unsqueeze(1), (up @ t.unsqueeze(2)).squeeze(2) + c
    return lower, upper


def span(m: Tensor, c: Tensor, low: Tensor, high: Tensor) -> Interval:
    low, high = low.flatten(1).unsqueeze(2), high.flatten(1).unsqueeze(2)
    up, down = m.clamp(min=0), m.clamp(max=0)
    return Interval((up @ low + down @ high).squeeze(2) + c, (up @ high + down @ low).squeeze(2) + c)


def check(block: BlockBounds, lower: Planes, upper: Planes, range_: Interval, shape: tuple[int, ...]) -> None:
    assert block.shape == shape
    for found, expected in ((block.lower, lower), (block.upper, upper)):
        for one, other in zip(found, expected, strict=True):
            close(one.expand_as(other), other)
    close(block.box.lower, range_.lower)
    close(block.box.upper, range_.upper)


def of_relu(block: BlockBounds, function: Callable[[Tensor], Tensor], x: Interval) -> None:
    m, c = matrix(function, x.lower.shape[1:])
    lower, upper = through(m, c, x)
    low, high = x.lower.clamp(min=0), x.upper.clamp(min=0)
    check(block, lower, upper, span(m, c, low, high), tuple(function(x.lower[:1]).shape[1:]))
    # each side over the box, met with the range by interval arithmetic
    found, n = block.concretise(x), len(x.lower)
    least, most = span(*lower, x.lower, x.upper).lower, span(*upper, x.lower, x.upper).upper
    close(found.lower, torch.maximum(least, block.box.lower).reshape(n, *block.shape))
    close(found.upper, torch.minimum(most, block.box.upper).reshape(n, *block.shape))


CONVOLUTIONS: dict[str, tuple[Convolution, Callable[[Tensor], Tensor]]] = {}


def convolution(
    name: str, groups: int, pointwise: Tensor | None, stride: int, padding: int, dilation: int
) -> None:
    weight, bn = draw(2, 2 // groups, 3, 3, seed=groups), norm(2 if pointwise is None else 3)

    def plain(x: Tensor) -> Tensor:
        y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
        y = y if pointwise is None else F.conv2d(y, pointwise)
        assert bn.gamma is not None and bn.beta is not None
        return F.batch_norm(y, bn.mean, bn.var, bn.gamma, bn.beta, False, 0.0, bn.eps)

    CONVOLUTIONS[name] = Convolution(weight, bn, pointwise, stride, padding, dilation), plain


convolution("plain", 1, None, 1, 1, 1)
convolution("depthwise", 2, draw(3, 2, 1, 1), 1, 1, 1)
convolution("strided", 2, draw(3, 2, 1, 1), 2, 1, 1)
convolution("dilated", 2, draw(3, 2, 1, 1), 1, 2, 2)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_after_a_relu(name: str) -> None:
    x, (made, plain) = box(2, 2, 4, 3), CONVOLUTIONS[name]
    close(made(x.lower), plain(x.lower))
    of_relu(blocks.relu_conv_bn(x, made), plain, x)


def test_two_stages() -> None:
    """The second ReLU stands on the first stage's range; its planes meet the first matrix before signs are split."""
    x = box(2, 2, 4, 3)
    first, plain = CONVOLUTIONS["strided"]
    weight = draw(3, 1, 3, 3, seed=5)
    second = Convolution(weight, norm(2, seed=9), draw(2, 3, 1, 1, seed=6), 1, 1, 1)
    middle = blocks.relu_conv_bn(x, first).concretise(x)
    m, c = matrix(plain, (2, 4, 3))
    outer, constant = matrix(second, middle.lower.shape[1:])
    sides = []
    for upper, (slope, lift) in enumerate(through(outer, constant, middle)):
        inner = slope @ m, slope @ c + lift
        sides.append(through(*inner, x)[upper])
    low, high = middle.lower.clamp(min=0), middle.upper.clamp(min=0)
    block = blocks.sep_conv(x, first, second)
    check(block, sides[0], sides[1], span(outer, constant, low, high), (2, 2, 2))


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (4, 5), (3, 5)])
def test_a_reduction(size: tuple[int, int]) -> None:
    """The odd half reads the image from its second row and column on, zeros beyond the end."""
    x, bn = box(2, 2, *size), norm(4)
    even, odd = draw(2, 2, 1, 1), draw(2, 2, 1, 1, seed=3)
    height, width = -(-size[0] // 2), -(-size[1] // 2)

    def plain(z: Tensor) -> Tensor:
        y = torch.zeros(len(z), 4, height, width, dtype=torch.float64)
        for i in range(height):
            for j in range(width):
                y[:, :2, i, j] = z[:, :, 2 * i, 2 * j] @ even[:, :, 0, 0].T
                if 2 * i + 1 < size[0] and 2 * j + 1 < size[1]:
                    y[:, 2:, i, j] = z[:, :, 2 * i + 1, 2 * j + 1] @ odd[:, :, 0, 0].T
        return bn(y)

    of_relu(blocks.factorised_reduce(x, even, odd, bn), plain, x)


def test_a_normalisation() -> None:
    x, bn = draw(2, 3, 2, 2), norm(3)
    close(bn(x), F.batch_norm(x, bn.mean, bn.var, bn.gamma, bn.beta, False, 0.0, 0.3))
    close(BatchNorm(bn.mean, bn.var)(x), F.batch_norm(x, bn.mean, bn.var))
    close(BatchNorm(bn.mean, bn.var, None, bn.beta)(x), F.batch_norm(x, bn.mean, bn.var, None, bn.beta))
    assert BatchNorm(bn.mean, bn.var).eps == 1e-5


AFFINE: dict[str, tuple[Callable[[Interval], BlockBounds], Callable[[Tensor], Tensor]]] = {
    "skip": (blocks.skip, lambda z: z),
    "none": (blocks.zero, torch.zeros_like),
    "none, strided": (lambda x: blocks.zero(x, 2), lambda z: torch.zeros_like(z[:, :, ::2, ::2])),
    "average": (blocks.avg_pool, lambda z: F.avg_pool2d(z, 3, 1, 1, count_include_pad=False)),
    "average, strided": (
        lambda x: blocks.avg_pool(x, 2, 2, 0), lambda z: F.avg_pool2d(z, 2, 2, 0, count_include_pad=False)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AFFINE)
def test_affine_blocks_are_their_own_bounds(name: str) -> None:
    make, plain = AFFINE[name]
    x = box(2, 2, 4, 5)
    m, c = matrix(plain, (2, 4, 5))
    check(
        make(x),
        (m[None], c[None]),
        (m[None], c[None]),
        span(m, c, x.lower, x.upper),
        tuple(plain(x.lower).shape[1:]),
    )


def random_block(seed: int, inputs: int = 4, images: int = 2) -> BlockBounds:
    a, b, c, d = (draw(images, 6, inputs, seed=seed), draw(images, 6, seed=seed + 1),
                  draw(images, 6, inputs, seed=seed + 2), draw(images, 6, seed=seed + 3))  # fmt: skip
    middle = draw(2, 6, seed=seed + 4)
    return BlockBounds((a, b), (c, d), Interval(middle - 1, middle + 1), (3, 2, 1))


def test_scaled_summed_and_side_by_side() -> None:
    one, other = random_block(0), random_block(7)
    for alpha in (0.0, 0.25, torch.tensor(1.5, dtype=torch.float64)):
        scaled = one.scaled(alpha)
        check(
            scaled, (alpha * one.lower[0], alpha * one.lower[1]), (alpha * one.upper[0], alpha * one.upper[1]),
            Interval(alpha * one.box.lower, alpha * one.box.upper), (3, 2, 1),
        )  # fmt: skip
    total = one + other
    check(
        total,
        (one.lower[0] + other.lower[0], one.lower[1] + other.lower[1]),
        (one.upper[0] + other.upper[0], one.upper[1] + other.upper[1]),
        Interval(one.box.lower + other.box.lower, one.box.upper + other.box.upper), (3, 2, 1),
    )  # fmt: skip
    third = random_block(20, inputs=3, images=1)
    node = blocks.edges([one, third])
    wide = third.lower[0].expand(2, -1, -1), third.upper[0].expand(2, -1, -1)
    check(
        node,
        (torch.cat([one.lower[0], wide[0]], 2), one.lower[1] + third.lower[1]),
        (torch.cat([one.upper[0], wide[1]], 2), one.upper[1] + third.upper[1]),
        Interval(one.box.lower + third.box.lower, one.box.upper + third.box.upper), (3, 2, 1),
    )  # fmt: skip


def test_one_after_another() -> None:
    outer, inner = random_block(0, inputs=6), random_block(9)
    found = outer.after(inner)
    for side, (same, other) in enumerate(((inner.lower, inner.upper), (inner.upper, inner.lower))):
        a, b = (outer.lower, outer.upper)[side]
        up, down = a.clamp(min=0), a.clamp(max=0)
        slope = up @ same[0] + down @ other[0]
        const = (up @ same[1].unsqueeze(2) + down @ other[1].unsqueeze(2)).squeeze(2) + b
        close((found.lower, found.upper)[side][0], slope)
        close((found.lower, found.upper)[side][1], const)
    assert found.box is outer.box and found.shape == outer.shape
