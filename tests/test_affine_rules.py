"""The rule of every affine operator against its matrix, which is read off the operator at unit vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from calls import Open, call_of, matrices
from torch import Tensor

from bounds import InvalidInput, UnsupportedOp
from bounds.graph import Call
from bounds.interval import Interval
from bounds.operators import Affine, rule_for
from bounds.operators import affine as affine_rules
from bounds.operators.conv import by_phases, symmetric_geometry

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
SHAPE = (2, 5, 4)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def one(target: Any, *rest: Any, shape: tuple[int, ...] = SHAPE, **options: Any) -> Callable[[], Call]:
    """A call with one operand, its first argument."""
    return lambda: call_of(target, Open(shape), *rest, **options)


def twice(target: Any, **options: Any) -> Callable[[], Call]:
    def made() -> Call:
        x = Open(SHAPE)
        return call_of(target, x, x, **options)

    return made


def norm(gamma: bool, beta: bool, shape: tuple[int, ...] = SHAPE) -> Callable[[], Call]:
    c = shape[0]
    mean, variance = draw(c), draw(c, 1).flatten().square() + 0.3
    return one(
        aten.batch_norm.default, draw(1, c)[0] if gamma else None, draw(c, 2)[:, 1] if beta else None,
        mean, variance, False, 0.1, 0.05, False, shape=shape,
    )  # fmt: skip


MIXES: dict[str, Callable[[], Call]] = {
    "linear": one(aten.linear.default, draw(3, 4), draw(3), shape=(4,)),
    "linear, no bias": one(aten.linear.default, draw(3, 4), shape=(4,)),
    "linear of rows": one(aten.linear.default, draw(3, 4), draw(3), shape=(2, 4)),
    "avg pool": one(aten.avg_pool2d.default, [2, 3], [1, 2], [1, 1], False, False),
    "avg pool, padding counted": one(aten.avg_pool2d.default, [3, 3], [2, 2], [1, 1], True, True),
    "avg pool, negative divisor": one(aten.avg_pool2d.default, [2, 2], divisor_override=-3),
    "avg pool 1d": one(aten.avg_pool1d.default, [3], [2], [1], shape=(2, 6)),
    "adaptive": one(aten.adaptive_avg_pool2d.default, [2, 3]),
    "adaptive 1d": one(aten.adaptive_avg_pool1d.default, [2], shape=(2, 5)),
    "mean": one(aten.mean.dim, [2, 3]),
    "mean kept": one(aten.mean.dim, [1], True),
    "sum": one(aten.sum.dim_IntList, [-1]),
    "bilinear": one(aten.upsample_bilinear2d.vec, None, False, [2.0, 1.5]),
    "matmul on the right": lambda: call_of(aten.matmul.default, Open((3, 4)), draw(4, 2)),
    "matmul on the left": lambda: call_of(aten.matmul.default, draw(2, 3), Open((3, 4))),
    "einsum": lambda: call_of(aten.einsum.default, "nij,jk->nki", [Open((2, 3)), draw(3, 4)]),
}
APART: dict[str, Callable[[], Call]] = {
    "batch norm": norm(True, True),
    "batch norm, no scale": norm(False, True),
    "batch norm, no shift": norm(True, False),
    "batch norm of vectors": norm(True, True, (3,)),
    "batch norm 1d": norm(True, True, (2, 4)),
    "nearest": one(aten.upsample_nearest2d.vec, None, [2.0, 1.5]),
    "nearest 1d": one(aten.upsample_nearest1d.vec, [7], None, shape=(2, 4)),
    "neg": one(aten.neg.default),
    "times a number": one(aten.mul.Tensor, -1.5),
    "times channels": one(aten.mul.Tensor, draw(2, 1, 1)),
    "times a grown image": lambda: call_of(aten.mul.Tensor, draw(1, 3, 5, 4), Open((1, 5, 4))),
    "times zeros": one(aten.mul.Tensor, torch.tensor([0.0, -2.0]).double().reshape(2, 1, 1)),
    "times scalar": one(aten.mul.Scalar, 0.25),
    "divided": one(aten.div.Tensor, draw(2, 1, 1)),
    "divided by a number": one(aten.div.Scalar, -4.0),
    "plus": lambda: call_of(aten.add.Tensor, Open(SHAPE), Open(SHAPE)),
    "plus, alpha": lambda: call_of(aten.add.Tensor, Open(SHAPE), Open((2, 1, 4)), alpha=-2.5),
    "minus": lambda: call_of(aten.sub.Tensor, Open((1, 5, 1)), Open(SHAPE)),
    "minus, alpha": lambda: call_of(aten.sub.Tensor, Open(SHAPE), Open(SHAPE), alpha=3),
    "plus a constant": one(aten.add.Tensor, draw(2, 1, 1), alpha=2),
    "a constant minus": lambda: call_of(aten.sub.Tensor, draw(1, 3, 5, 4), Open((1, 5, 4)), alpha=0.5),
    "minus a constant": one(aten.sub.Tensor, draw(5, 1), alpha=2),
    "plus a number": one(aten.add.Scalar, 0.75, 2),
    "minus a number": one(aten.sub.Scalar, 0.75, 2),
    "from a number": one(aten.rsub.Scalar, 0.75, 2),
    "plus itself": twice(aten.add.Tensor, alpha=-3),
    "minus itself": twice(aten.sub.Tensor, alpha=0.5),
    "pad": one(aten.constant_pad_nd.default, [1, 0, 2, -1], 0.7),
    "pad by zero": one(aten.constant_pad_nd.default, [1, 2], 0.0),
    "pad, its mode": one(aten.pad.default, [1, 0], "constant", -0.3),
    "pad by reflection": one(aten.pad.default, [1, 2, 0, 1], "reflect"),
}
MOVES: dict[str, Callable[[], Call]] = {
    "view": one(aten.view.default, [-1, 40]),
    "flatten": one(aten.flatten.using_ints, 2),
    "permute": one(aten.permute.default, [0, 3, 1, 2]),
    "slice": one(aten.slice.Tensor, 2, 1, 5, 2),
    "select": one(aten.select.int, -1, 1),
    "clone": one(aten.clone.default),
    "expand": one(aten.expand.default, [-1, 3, 5, 4], shape=(1, 5, 4)),
    "cat": lambda: call_of(aten.cat.default, [Open((2, 5, 4)), Open((1, 5, 4))], 1),
    "cat, last axis": lambda: call_of(aten.cat.default, [Open((2, 2)), Open((2, 1))], -1),
    "stack": lambda: call_of(aten.stack.default, [Open((2, 3)), Open((2, 3))], 2),
}


def cat_again(dim: int) -> Call:
    x, y = Open((2, 3)), Open((2, 3))
    return call_of(aten.cat.default, [x, y, draw(1, 2, 3), x], dim)


def stack_again() -> Call:
    x = Open((2, 3))
    return call_of(aten.stack.default, [draw(1, 2, 3), x, x], 1)


JOINED: dict[str, Callable[[], Call]] = {
    "cat of one and a constant": lambda: call_of(aten.cat.default, [draw(1, 1, 3), Open((2, 3))], 1),
    "stack of one and a constant": lambda: call_of(aten.stack.default, [Open((2, 3)), draw(1, 2, 3)], -1),
    "cat of constants": lambda: cat_again(1),
    "cat of constants, last axis": lambda: cat_again(-1),
    "stack of constants": stack_again,
}
GEOMETRIES = (
    dict(kernel=(3, 3)),
    dict(kernel=(3, 3), padding=[1, 1]),
    dict(kernel=(3, 2), stride=[2, 1], padding=[1, 0]),
    dict(kernel=(2, 3), stride=[1, 3], padding=[0, 2]),
    dict(kernel=(3, 3), stride=[2, 2], padding=[1, 2], dilation=[2, 1]),
    dict(kernel=(2, 2), dilation=[1, 3], padding=[1, 1]),
    dict(kernel=(1, 2), stride=[3, 2], padding=[2, 1]),
    dict(kernel=(3, 1), padding=[4, 0]),
    dict(kernel=(3, 3), stride=[2, 3], padding=[1, 1], groups=2),
    dict(kernel=(3, 3), padding=[2, 1], dilation=[2, 1], groups=2),
    dict(kernel=(2, 2), padding=[0], stride=[2], dilation=[2]),
    dict(kernel=(2, 3), stride=[2, 3]),
    dict(kernel=(1, 2), stride=[3, 2], groups=2),
)


def conv(
    kernel: tuple[int, int], groups: int = 1, dtype: torch.dtype = torch.float64, **options: Any
) -> Call:
    weight = draw(4, 2 // groups, *kernel).to(dtype)
    bias = draw(4).to(dtype) if groups == 1 else None
    return call_of(aten.conv2d.default, Open((2, 7, 8)), weight, bias, groups=groups, dtype=dtype, **options)


CONVOLUTIONS: dict[str, Callable[[], Call]] = {
    **{f"conv {g}": lambda g=g: conv(**g) for g in GEOMETRIES},
    **{
        f"conv {pads} {kernel} {dilation}": lambda pads=pads, kernel=kernel, dilation=dilation: call_of(
            aten.conv2d.padding, Open((2, 5, 6)), draw(3, 2, *kernel), draw(3), [1, 1], pads, dilation
        )
        for pads in ("same", "valid")
        for kernel, dilation in (((3, 3), [1, 2]), ((2, 3), [1, 1]), ((2, 2), [2, 2]))
    },
    "conv1d": one(aten.conv1d.default, draw(3, 2, 3), draw(3), [2], [1], [2], shape=(2, 8)),
    "conv1d, ends not met": one(aten.conv1d.default, draw(4, 1, 2), None, [3], [1], [1], 2, shape=(2, 8)),
    "conv1d same": one(aten.conv1d.padding, draw(3, 2, 4), None, [1], "same", [1], shape=(2, 7)),
    "conv1d same, dilated": one(aten.conv1d.padding, draw(3, 2, 4), None, [1], "same", [2], shape=(2, 9)),
    "transposed": one(aten.conv_transpose2d.input, draw(2, 3, 3, 2), draw(3), [2, 1], [1, 0], [1, 0], 1, [1, 2]),
    "transposed, groups": one(aten.conv_transpose2d.input, draw(2, 2, 3, 2), draw(4), [2, 2], [0, 1], [1, 0], 2),
    "transposed 1d": one(aten.conv_transpose1d.default, draw(2, 3, 3), draw(3), [2], [1], [1], shape=(2, 5)),
}  # fmt: skip
CALLS = MIXES | APART | MOVES | JOINED | CONVOLUTIONS


@pytest.mark.parametrize("name", CALLS)
def test_a_rule_is_its_matrix(name: str) -> None:
    call = CALLS[name]()
    rule, (maps, bias) = rule_for(call.node), matrices(call)
    assert isinstance(rule, Affine)
    x = [draw(3, *shape) for shape in call.shapes]
    r = [draw(3, *shape).abs() for shape in call.shapes]

    def image(parts: list[Tensor], by: list[Tensor]) -> Tensor:
        return sum(p.flatten(1) @ m.T for p, m in zip(parts, by, strict=True)).reshape(3, *call.shape)  # type: ignore[union-attr]

    whole, same = image(x, maps), {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(rule.linear(call, *x), whole, **same)
    constant = rule.bias(call)
    constant = torch.zeros(1) if constant is None else constant.expand(1, *call.shape)
    torch.testing.assert_close(constant.double().expand(1, *call.shape).flatten(), bias, **same)
    spread = image(r, [m.abs() for m in maps])
    torch.testing.assert_close(rule.spread(call, *r), spread, **same)
    found = rule.interval(call, *(Interval.around(a, b) for a, b in zip(x, r, strict=True)))
    torch.testing.assert_close(found.center, whole + bias.reshape(call.shape), **same)
    torch.testing.assert_close(found.radius, spread, **same)
    pushed = rule.push(call, *(part.unsqueeze(1).expand(-1, 2, *part.shape[1:]) for part in x))
    torch.testing.assert_close(pushed, whole.unsqueeze(1).expand(-1, 2, *call.shape), **same)
    coef = draw(2, 3, *call.shape)
    for pulled, by, shape in zip(rule.pull(call, coef), maps, call.shapes, strict=True):
        torch.testing.assert_close(pulled, (coef.flatten(2) @ by).reshape(2, 3, *shape), **same)


@pytest.mark.parametrize("name", CALLS)
def test_what_a_rule_says_of_its_matrix(name: str) -> None:
    """mixing: some output reads several units of one operand; moves: every output is one unit."""
    call = CALLS[name]()
    rule, (maps, _) = rule_for(call.node), matrices(call)
    assert isinstance(rule, Affine)
    assert rule.mixing == any(bool(((m != 0).sum(1) > 1).any()) for m in maps)
    assert rule.moves == (name in MOVES or name in JOINED)
    if name in MOVES:
        assert all(bool(((m == 0) | (m == 1)).all()) for m in maps)
        assert bool((sum(m.sum(1) for m in maps) == 1).all())


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_the_transpose_of_a_convolution_in_single_precision(geometry: dict[str, Any], last: bool) -> None:
    """Whatever the order of the rows in memory."""
    call = conv(dtype=torch.float32, **geometry)
    (by,), _ = matrices(call)
    coef = draw(5, *call.shape).float()
    expected = (coef.flatten(1) @ by).reshape(5, *call.shapes[0])
    found = symmetric_geometry(call)
    assert found is not None
    given = coef.contiguous(memory_format=torch.channels_last) if last else coef
    pulled = by_phases(given, call["weight"], *found, call["groups"], call.shapes[0][1:])
    torch.testing.assert_close(pulled, expected, rtol=1e-4, atol=1e-4)


def test_geometries_are_written_out() -> None:
    """One number stands for both axes; 'same' pads as much as it takes, and not evenly for an even kernel."""

    def geometry(*given: Any, weight: tuple[int, int] = (3, 3), target: Any = aten.conv2d.padding) -> Any:
        return symmetric_geometry(call_of(target, Open((1, 7, 7)), draw(1, 1, *weight), None, *given))

    plain = aten.conv2d.default
    assert geometry([2], [1], [3], target=plain) == ([2, 2], [1, 1], [3, 3])
    assert geometry([2, 1], [1, 0], [1, 3], target=plain) == ([2, 1], [1, 0], [1, 3])
    assert geometry([1, 1], "same", [1, 2]) == ([1, 1], [1, 2], [1, 2])
    assert geometry([2, 1], "valid", [1, 2]) == ([2, 1], [0, 0], [1, 2])
    assert geometry([1, 1], "same", [1, 1], weight=(2, 3)) is None
    assert geometry([1, 1], "same", [2, 1], weight=(2, 3)) == ([1, 1], [1, 1], [2, 1])


def test_a_zero_factor_gives_zero_whatever_it_meets() -> None:
    x = torch.tensor([torch.inf, torch.nan, -torch.inf, 2.0])
    assert affine_rules.scale(x, 0).tolist() == affine_rules.scale(x, 0.0).tolist() == [0.0] * 4
    factor = torch.tensor([0.0, 0.0, -1.0, 3.0])
    assert affine_rules.scale(x, factor).tolist() == [0.0, 0.0, torch.inf, 6.0]
    assert affine_rules.scale(x[3:], torch.tensor([3.0])).tolist() == [6.0]
    assert affine_rules.scale(x[3:], 3).tolist() == [6.0]


def test_what_scaling_refuses() -> None:
    with pytest.raises(UnsupportedOp, match="division by zero"):
        affine_rules.multiplier(call_of(aten.div.Tensor, Open((2,)), torch.tensor([1.0, 0.0])))
    with pytest.raises(InvalidInput, match="needs the reciprocal rule"):
        affine_rules.multiplier(call_of(aten.div.Tensor, torch.ones(1, 2), Open((2,))))
    training = call_of(aten.batch_norm.default, Open((2,)), None, None, None, None, True, 0.1, 1e-5, False)
    with pytest.raises(InvalidInput, match="needs bind"):
        affine_rules.norm_scale(training)
