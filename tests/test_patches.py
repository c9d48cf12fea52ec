"""Rows as windows against the same rows written out: gathered, masked, added, pulled, relaxed, minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from calls import Open, call_of
from torch import Tensor, nn

import bounds
from bounds import patch
from bounds.graph import Call
from bounds.operators import Affine, Nonlinear, rule_for
from bounds.operators.bilinear import PRODUCT
from bounds.passes import patches
from bounds.passes.crown import _constant, _sum
from bounds.patch import Grid, Patch, unit_rows
from bounds.patch import ReceptiveField as Field
from bounds.relaxation import Diagonal, Plane, Relaxation, Slope

aten = torch.ops.aten
SHAPE = (2, 6, 5)
GRIDS = {
    "inside": Grid((1, 1), (1, 1), (2, 1)),
    "over both borders": Grid((1, 1), (-2, -1), (4, 5)),
    "strided": Grid((2, 3), (0, -1), (3, 2)),
    "larger than the image": Grid((1, 1), (-4, -4), (11, 12)),
    "beyond the end": Grid((3, 2), (2, 1), (2, 3)),
}


@pytest.fixture(autouse=True)
def every_window_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "LARGEST_SHARE", 1e9)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def rows(grid: Grid, shape: tuple[int, ...] = SHAPE, n: int = 2, k: int = 2, seed: int = 0) -> Patch:
    """k rows for each of five units."""
    top = torch.tensor([[0, 2, 1, 0, 1], [1, 0, 2, 2, 0]])[:n]
    left = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 1, 0]])[:n]
    return Patch(draw(n, 5 * k, shape[0], *grid.size, seed=seed), top, left, grid, shape, masked=False)


def written(p: Patch) -> Tensor:
    """Number by number."""
    (kh, kw), (sh, sw), (oh, ow) = p.grid.size, p.grid.stride, p.grid.offset
    found = torch.zeros(*p.coef.shape[:2], *p.shape, dtype=p.coef.dtype)
    for n in range(found.shape[0]):
        for row in range(found.shape[1]):
            unit = row % p.top.shape[1]
            for a in range(kh):
                for b in range(kw):
                    y, x = int(p.top[n, unit]) * sh + oh + a, int(p.left[n, unit]) * sw + ow + b
                    if 0 <= y < p.shape[1] and 0 <= x < p.shape[2]:
                        found[n, row, :, y, x] = p.coef[n, row, :, a, b]
    return found


@pytest.mark.parametrize("name", GRIDS)
def test_windows_written_out_and_masked(name: str) -> None:
    p = rows(GRIDS[name])
    expected = written(p)
    assert torch.equal(p.dense(), expected)
    masked = p.mask()
    assert masked.masked and torch.equal(masked.dense(), expected)
    torch.testing.assert_close(masked.coef.sum((2, 3, 4)), expected.sum((2, 3, 4)), rtol=0, atol=1e-12)
    assert masked.mask() is masked
    assert p.folded().shape == (20, 2, *p.grid.size)
    assert torch.equal(p.by_unit()[:, 1, 3], p.coef[:, 8])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_images_gathered_at_windows(name: str, gradient: bool) -> None:
    """Windows come from each image, one for all, or one for each unit, by the copying and the differentiable way."""
    p = rows(GRIDS[name], k=1)
    for image in (draw(2, 1, *SHAPE), draw(1, 1, *SHAPE), draw(2, 5, *SHAPE), draw(1, 5, *SHAPE)):
        image.requires_grad_(gradient)
        found = p.gather(image, 2 * image)
        ones = torch.ones_like(p.coef)
        for windows, factor in zip(found, (1, 2), strict=True):
            assert windows.shape == (2, 1, 5, *p.coef.shape[2:])
            full = image.detach().expand(2, 5, *SHAPE) * factor
            expected = (p.coef * windows.detach()[:, 0]).sum((2, 3, 4))
            torch.testing.assert_close(expected, (written(p) * full).sum((2, 3, 4)), rtol=0, atol=1e-12)
            inside = (ones * windows.detach()[:, 0]).sum((2, 3, 4))
            torch.testing.assert_close(
                inside, (written(replace(p, coef=ones)) * full).sum((2, 3, 4)), rtol=0, atol=1e-12
            )


def test_the_sum_of_windows() -> None:
    one, other = rows(Grid((2, 1), (-1, 1), (3, 2))), rows(Grid((2, 1), (0, -2), (1, 4)), seed=9)
    both = one + other
    assert both is not None and both.grid == Grid((2, 1), (-1, -2), (3, 5)) and not both.masked
    torch.testing.assert_close(both.dense(), written(one) + written(other), rtol=0, atol=1e-12)
    assert (one.mask() + other.mask()).masked and not (one + other.mask()).masked  # type: ignore[union-attr]
    assert one + rows(Grid((1, 1), (0, 0), (1, 4))) is None
    assert (one + one).grid == one.grid  # type: ignore[union-attr]
    torch.testing.assert_close(_sum(one, other).dense(), written(one) + written(other))  # type: ignore[union-attr]
    apart = rows(Grid((1, 1), (0, 0), (1, 4)))
    torch.testing.assert_close(_sum(one, apart), written(one) + written(apart))
    torch.testing.assert_close(_sum(written(one), other), written(one) + written(other))


def test_windows_that_are_too_large_are_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "LARGEST_SHARE", 0.5)
    assert rows(Grid((1, 1), (0, 0), (3, 5))) + rows(Grid((1, 1), (0, 0), (3, 5))) is not None
    assert rows(Grid((1, 1), (0, 0), (3, 5))) + rows(Grid((1, 1), (-1, 0), (3, 5))) is None


def test_grids() -> None:
    assert Grid((2, 3), (-1, 2), (3, 4)).through((2, 1), (-1, -2), (3, 5)) == Grid((4, 3), (-3, 0), (7, 8))
    assert Grid().through((1, 2), (1, -1), (2, 3)) == Grid((1, 2), (1, -1), (2, 3))
    assert Grid((1, 2), (0, 3), (2, 1)).joined(Grid((1, 2), (-1, 1), (1, 2))) == Grid((1, 2), (-1, 1), (3, 3))
    assert Grid((1, 2)).joined(Grid((1, 1))) is None
    assert Field((2, 1), (-1, -2), (3, 5)).on(Grid((2, 3), (-1, 2), (3, 4))) == Grid((4, 3), (-3, 0), (7, 8))


def test_a_window_is_small_up_to_a_part_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "LARGEST_SHARE", 0.75)
    assert Grid(size=(3, 3)).small((7, 2, 6)) and not Grid(size=(5, 2)).small((7, 2, 6))
    assert Grid(size=(2, 3)).small((4, 2)) and not Grid(size=(1, 7)).small((4, 2))


def test_margins_and_empty_ones() -> None:
    assert patch._margins(torch.tensor([[-2, 1], [4, 0]]), 3, 5) == (2, 2)
    assert patch._margins(torch.tensor([[1, 2]]), 2, 5) == (0, 0)
    assert patch._margins(torch.zeros(1, 0, dtype=torch.long), 3, 5) == (0, 0)
    assert patch._margins(torch.zeros(1, 0, dtype=torch.long), 7, 5) == (0, 2)


@pytest.mark.parametrize("shape", [SHAPE, (7,), (3, 4)])
def test_rows_of_single_units(shape: tuple[int, ...]) -> None:
    size = torch.Size(shape).numel()
    index = torch.tensor([[0, size - 1, 5, 3], [1, 1, 2, size // 2]])
    eye = torch.eye(size, dtype=torch.float64)[index].reshape(2, 4, *shape)
    both = local_dense(unit_rows(index, shape, torch.float64))
    assert torch.equal(both, torch.cat([eye, -eye], 1))
    signs = torch.tensor([[1.0, -1, -1, 1], [-1, 1, 1, -1]]).double()
    one = local_dense(unit_rows(index, shape, torch.float64, signs))
    assert torch.equal(one, eye * signs.reshape(2, 4, *[1] * len(shape)))
    assert both.dtype is one.dtype is torch.float64
    assert isinstance(unit_rows(index, shape, torch.float32), Patch) == (len(shape) == 3)


def local_dense(found: Patch | Tensor) -> Tensor:
    return found.dense() if isinstance(found, Patch) else found


def one(target: Any, *rest: Any, shape: tuple[int, ...] = SHAPE, **options: Any) -> Callable[[], Call]:
    return lambda: call_of(target, Open(shape), *rest, **options)


def two(target: Any, **options: Any) -> Callable[[], Call]:
    return lambda: call_of(target, Open(SHAPE), Open(SHAPE), **options)


def doubled() -> Call:
    x = Open(SHAPE)
    return call_of(aten.sub.Tensor, x, x, alpha=-2)


CONV = draw(3, 2, 3, 2)
AFFINE: dict[str, tuple[Callable[[], Call], Field]] = {
    "conv": (one(aten.conv2d.default, CONV), Field(span=(3, 2))),
    "conv, all options": (
        one(aten.conv2d.default, draw(4, 1, 3, 2), None, [2, 1], [1, 2], [1, 3], 2),
        Field((2, 1), (-1, -2), (3, 4), True),
    ),
    "conv, one number": (one(aten.conv2d.default, CONV, None, [2], [1]), Field((2, 2), (-1, -1), (3, 2), True)),
    "conv, padded above": (one(aten.conv2d.default, CONV, None, [1, 1], [1, 0]), Field((1, 1), (-1, 0), (3, 2), True)),
    "conv same": (
        one(aten.conv2d.padding, draw(2, 2, 3, 1), None, [1, 1], "same"), Field((1, 1), (-1, 0), (3, 1), True)
    ),
    "conv valid": (one(aten.conv2d.padding, CONV, None, [1, 2], "valid", [2, 1]), Field((1, 2), (0, 0), (5, 2))),
    "average": (one(aten.avg_pool2d.default, [2, 3]), Field((2, 3), (0, 0), (2, 3), True)),
    "average, not counted": (
        one(aten.avg_pool2d.default, [3, 3], [1, 2], [1, 1], False, False), Field((1, 2), (-1, -1), (3, 3), True)
    ),
    "average, counted": (one(aten.avg_pool2d.default, [3], [2], [1], True), Field((2, 2), (-1, -1), (3, 3), True)),
    "average, divisor": (
        one(aten.avg_pool2d.default, [2, 2], [1, 1], [1, 0], divisor_override=5), Field((1, 1), (-1, 0), (2, 2), True)
    ),
    "batch norm": (
        one(aten.batch_norm.default, draw(2), draw(2), draw(2), draw(2).square() + 1, False, 0.1, 1e-5, False), Field()
    ),
    "neg": (one(aten.neg.default), Field()),
    "clone": (one(aten.clone.default), Field()),
    "cat": (lambda: call_of(aten.cat.default, [Open((1, 6, 5)), Open(SHAPE)], 1), Field()),
    "cat, from the end": (lambda: call_of(aten.cat.default, [Open(SHAPE), Open(SHAPE)], -3), Field()),
    "slice of channels": (one(aten.slice.Tensor, 1, 1, 4, 2, shape=(4, 6, 5)), Field()),
    "slice of first channels": (one(aten.slice.Tensor, 1, 0, 3, shape=(4, 6, 5)), Field()),
    "slice of all": (one(aten.slice.Tensor, 0, 0, 2**63 - 1), Field()),
    "slice of rows": (one(aten.slice.Tensor, 2, 1, 6), Field((1, 1), (1, 0))),
    "slice of every other row": (one(aten.slice.Tensor, 2, 1, 6, 2), Field((2, 1), (1, 0))),
    "slice of columns": (one(aten.slice.Tensor, -1, -3, 9), Field((1, 1), (0, 2))),
    "slice of every other column": (one(aten.slice.Tensor, 3, 0, 5, 2), Field((1, 2), (0, 0))),
    "slice from far before": (one(aten.slice.Tensor, 3, -9, 4, 3), Field((1, 3), (0, 0))),
    "slice without a start": (one(aten.slice.Tensor, 3, None, 4, 3), Field((1, 3), (0, 0))),
    "pad": (one(aten.constant_pad_nd.default, [1, 0, 2, 1], 0.0), Field((1, 1), (-2, -1), pads=True)),
    "pad columns": (one(aten.pad.default, [1, 2], "constant", 0.5), Field((1, 1), (0, -1), pads=True)),
    "plus": (two(aten.add.Tensor, alpha=-2), Field()),
    "minus": (two(aten.sub.Tensor), Field()),
    "minus itself": (doubled, Field()),
    "plus a number": (one(aten.add.Scalar, 2.0), Field()),
    "times a number": (one(aten.mul.Tensor, -2.5), Field()),
    "times one number": (one(aten.mul.Tensor, draw(1)), Field()),
    "times channels": (one(aten.mul.Tensor, draw(2, 1, 1)), Field()),
    "divided by channels": (one(aten.div.Tensor, draw(1, 2, 1, 1)), Field()),
}  # fmt: skip
DENSE: dict[str, Callable[[], Call]] = {
    "vectors": one(aten.linear.default, draw(3, 4), shape=(4,)),
    "cat of rows": lambda: call_of(aten.cat.default, [Open(SHAPE), Open(SHAPE)], 2),
    "cat of columns": lambda: call_of(aten.cat.default, [Open(SHAPE), Open(SHAPE)], -1),
    "times an image": one(aten.mul.Tensor, draw(1, 6, 5)),
    "times rows": one(aten.mul.Tensor, draw(6, 1)),
    "a grown image": one(aten.mul.Tensor, draw(2, 1, 1), shape=(1, 6, 5)),
    "a sum that grows": lambda: call_of(aten.add.Tensor, Open(SHAPE), Open((2, 1, 1))),
    "pad of channels": one(aten.constant_pad_nd.default, [0, 0, 0, 0, 1, 0], 0.0),
    "reflection": one(aten.pad.default, [1, 1, 0, 0], "reflect"),
    "permute": one(aten.permute.default, [0, 1, 3, 2]),
    "softmax": one(aten.softmax.int, 1),
    "maximum": two(aten.maximum.default),
}


def at_units(call: Call, grid: Grid) -> Patch:
    """Masked rows of a call's output."""
    return rows(grid, call.shape).mask()


@pytest.mark.parametrize("name", AFFINE)
def test_windows_pulled_through_affine_operators(name: str) -> None:
    make, reach = AFFINE[name]
    call = make()
    assert patches.receptive_field_of(call) == reach
    rule = rule_for(call.node)
    assert isinstance(rule, Affine)
    for grid in GRIDS.values():
        p = at_units(call, grid)
        pulled = patches.pull(call, p)
        assert pulled is not None
        for found, expected, shape in zip(pulled, rule.pull(call, p.dense()), call.shapes, strict=True):
            assert found.grid == grid.through(reach.stride, reach.shift, reach.span)
            assert found.shape == shape
            assert found.masked != reach.pads
            torch.testing.assert_close(found.dense(), expected, rtol=0, atol=1e-12)
            if found.masked:
                torch.testing.assert_close(
                    found.coef.sum((2, 3, 4)), expected.sum((2, 3, 4)), rtol=0, atol=1e-12
                )


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_windows(name: str) -> None:
    assert patches.receptive_field_of(DENSE[name]()) is None


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_uneven_same_padding_has_no_windows() -> None:
    call = call_of(aten.conv2d.padding, Open(SHAPE), draw(2, 2, 2, 2), None, [1, 1], "same", [1, 3])
    assert patches.receptive_field_of(call) is None
    assert patches.pull(call, at_units(call, GRIDS["inside"])) is None


def test_windows_that_grow_too_large_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the operand's 30 places are 15; a window of 3·4 reads 4·5 through a kernel of 2 by 2."""
    call = call_of(aten.conv2d.default, Open(SHAPE), draw(2, 2, 2, 2))
    p = at_units(call, Grid((1, 1), (0, 0), (3, 4)))
    monkeypatch.setattr(patch, "LARGEST_SHARE", 20 / 30)
    assert patches.pull(call, p) is not None
    monkeypatch.setattr(patch, "LARGEST_SHARE", 0.66)
    assert patches.pull(call, p) is None


def boxes(call: Call, spread: float = 0.8) -> list[bounds.Interval]:
    found = []
    for i, shape in enumerate(call.shapes):
        center, radius = draw(2, 1, *shape, seed=i), spread * draw(2, 1, *shape, seed=i + 7).abs()
        found.append(bounds.Interval(center - radius, center + radius))
    return found


NONLINEAR: dict[str, tuple[Callable[[], Call], Field]] = {
    "relu": (one(aten.relu.default), Field()),
    "prelu": (one(aten.prelu.default, draw(2).abs()), Field()),
    "tanh": (one(aten.tanh.default), Field()),
    "product": (two(aten.mul.Tensor), Field()),
    "pool": (one(aten.max_pool2d.default, [3, 2], [2, 1], [1, 0]), Field((2, 1), (-1, 0), (3, 2), True)),
    "pool, dilated": (
        one(aten.max_pool2d.default, [2, 2], [1, 1], [0, 1], [3, 2]), Field((1, 1), (0, -1), (4, 3), True)
    ),
    "pool, no padding": (one(aten.max_pool2d.default, [2, 2], [1, 3]), Field((1, 3), (0, 0), (2, 2))),
}  # fmt: skip


@pytest.mark.parametrize("slope", [Slope.ADAPTIVE, Slope.PARALLEL])
@pytest.mark.parametrize("name", NONLINEAR)
def test_windows_pulled_through_relaxations(name: str, slope: Slope) -> None:
    make, reach = NONLINEAR[name]
    call = make()
    rule = PRODUCT if name == "product" else rule_for(call.node)
    assert patches.receptive_field_of(call) == reach and isinstance(rule, Nonlinear)
    planes = rule.relax(call, slope, (), *boxes(call))
    lifted = Relaxation(
        Plane(planes.lower.map, planes.lower.bias - 0.3), Plane(planes.upper.map, planes.upper.bias + 0.2)
    )
    for relaxation in (planes, lifted):
        for grid in GRIDS.values():
            p = at_units(call, grid)
            found = patches.relax(call, relaxation, p)
            assert found is not None
            pulled, const = relaxation.pull(p.dense())
            torch.testing.assert_close(found[1], const, rtol=0, atol=1e-11)
            for part, expected, shape in zip(found[0], pulled, call.shapes, strict=True):
                assert part.shape == shape and part.masked != reach.pads
                torch.testing.assert_close(part.dense(), expected, rtol=0, atol=1e-11)


def test_planes_of_each_unit_go_with_windows_where_they_are_elementwise() -> None:
    """Two rows of each of five units, with planes of their own; others are written out."""
    call = call_of(aten.relu.default, Open(SHAPE))
    p = at_units(call, GRIDS["over both borders"])

    def planes(count: int) -> Relaxation:
        a, b = draw(2, count, *SHAPE), draw(2, count, *SHAPE, seed=3)
        low = Plane(Diagonal((a,), (SHAPE,)), -a.abs())
        return Relaxation(low, Plane(Diagonal((b,), (SHAPE,)), b.abs()))

    found = patches.relax(call, planes(5), p)
    assert found is not None
    pulled, const = planes(5).pull(p.dense())
    torch.testing.assert_close(found[0][0].dense(), pulled[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(found[1], const, rtol=0, atol=1e-11)
    assert patches.relax(call, planes(10), p) is None
    pool = call_of(aten.max_pool2d.default, Open(SHAPE), [2, 2])
    rule, x = rule_for(pool.node), boxes(pool)[0]
    assert isinstance(rule, Nonlinear)
    of_each = rule.relax(pool, Slope.ADAPTIVE, (), bounds.Interval(*(s.expand(2, 5, *SHAPE) for s in x)))
    assert patches.relax(pool, of_each, at_units(pool, GRIDS["inside"])) is None


@pytest.mark.parametrize("box", [(None, None), (0.0, 1.0)], ids=["free", "boxed"])
@pytest.mark.parametrize("norm", bounds.NORMS)
def test_the_minimum_of_windows(norm: str, box: tuple[float | None, float | None]) -> None:
    x = draw(2, *SHAPE).sigmoid()
    for eps in (0.4, torch.tensor([0.2, 0.9]).double(), 0.1 + draw(2, *SHAPE, seed=4).square()):
        region = bounds.NORMS[norm](x, eps, *box)
        for grid in GRIDS.values():
            p = rows(grid)
            torch.testing.assert_close(
                patches.minimum(region, p), region.minimum(p.dense()), rtol=0, atol=1e-10
            )
            shared = rows(grid, n=1)
            torch.testing.assert_close(
                patches.minimum(region, shared), region.minimum(shared.dense().expand(2, -1, -1, -1, -1)),
                rtol=0, atol=1e-10,
            )  # fmt: skip


def test_constants_of_windows() -> None:
    """The bias is one for each place, for each row, for each channel, or one for all."""
    for grid in GRIDS.values():
        p = rows(grid).mask()
        for shape in (SHAPE, (2, 6, 1), (2, 1, 5), (2, 1, 1), (1, 1, 1)):
            bias = draw(1, *shape)
            expected = (p.dense() * bias.unsqueeze(1)).sum((2, 3, 4))
            torch.testing.assert_close(_constant(p, bias, SHAPE), expected, rtol=0, atol=1e-11)
            torch.testing.assert_close(_constant(p.dense(), bias, SHAPE), expected, rtol=0, atol=1e-11)


def test_rows_of_one_image_serve_all() -> None:
    p = rows(GRIDS["strided"], n=1)
    wide = p.expanded(3)
    assert wide.coef.shape[0] == wide.top.shape[0] == wide.left.shape[0] == 3
    assert torch.equal(wide.dense()[2], p.dense()[0])
    assert p.expanded(1) is p


def test_the_largest_window_by_default_is_seven_tenths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert Grid(size=(7, 1)).small((10, 1)) and not Grid(size=(8, 1)).small((10, 1))
    call = call_of(aten.conv2d.default, Open((1, 10, 1)), nn.Conv2d(1, 1, 1).weight.detach().double())
    assert patches.pull(call, rows(Grid(size=(7, 1)), (1, 10, 1)).mask()) is not None
