"""The planes of every scalar function against points of a fine grid: sound, touching, and of least area."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import erf, exp, inf, log, log1p, pi, sqrt, tanh
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import Open, call_of
from torch import Tensor

from bounds import UnsupportedOp
from bounds.interval import Interval
from bounds.operators import relu, rule_for, smooth, softplus
from bounds.operators.curve import Curve
from bounds.operators.rule import Nonlinear
from bounds.relaxation import Diagonal, Relaxation, Slope

aten = torch.ops.aten
ENDS = (
    (-2.0, -0.5), (-3.0, 2.0), (-0.4, 2.5), (-2.5, 0.4), (0.3, 1.7), (-1.0, 1.0), (-6.0, 4.0), (-0.2, 0.1),
    (-5.0, -3.2), (3.5, 6.5), (-3.6, -2.2), (2.2, 3.7), (-8.0, 7.0), (0.0, 2.0), (-2.0, 0.0), (-0.03, 5.0),
)  # fmt: skip
POSITIVE = ((0.3, 1.7), (3.5, 6.5), (0.3, 4.0), (1.0, 1.2), (0.9, 9.0))
GRID = 4001


def scaled(value: float, **options: Any) -> dict[str, Any]:
    return {"alpha": value, **options}


OPERATORS: dict[str, tuple[Any, dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (aten.sigmoid.default, {}, torch.sigmoid),
    "tanh": (aten.tanh.default, {}, torch.tanh),
    "atan": (aten.atan.default, {}, torch.atan),
    "exp": (aten.exp.default, {}, torch.exp),
    "square": (aten.square.default, {}, torch.square),
    "silu": (aten.silu.default, {}, F.silu),
    "gelu": (aten.gelu.default, {}, F.gelu),
    "gelu by tanh": (aten.gelu.default, {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    "mish": (aten.mish.default, {}, F.mish),
    "hardswish": (aten.hardswish.default, {}, F.hardswish),
    "elu": (aten.elu.default, {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    "elu, steep": (
        aten.elu.default, {"alpha": 1.5, "scale": 0.8, "input_scale": 1.2},
        lambda x: 0.8 * torch.where(x > 0, x, 1.5 * torch.expm1(1.2 * x)),
    ),
    "elu, level": (aten.elu.default, {"alpha": 0.0}, lambda x: F.elu(x, 0.0)),
    "selu": (aten.selu.default, {}, F.selu),
    "softplus": (aten.softplus.default, {"beta": 1.5}, lambda x: F.softplus(x, 1.5)),
    "softplus, falling": (aten.softplus.default, {"beta": -0.8}, lambda x: F.softplus(x, -0.8)),
    "hardtanh": (aten.hardtanh.default, {}, F.hardtanh),
    "hardtanh, apart": (aten.hardtanh.default, {"min_val": -0.3, "max_val": 2.0}, lambda x: x.clamp(-0.3, 2)),
    "relu6": (aten.relu6.default, {}, F.relu6),
    "hardsigmoid": (aten.hardsigmoid.default, {}, F.hardsigmoid),
    "clamp": (aten.clamp.default, {"min": -0.5, "max": 1.5}, lambda x: x.clamp(-0.5, 1.5)),
    "clamp below": (aten.clamp.default, {"min": 0.5}, lambda x: x.clamp(min=0.5)),
    "clamp above": (aten.clamp.default, {"max": 0.5}, lambda x: x.clamp(max=0.5)),
    "clamp_min": (aten.clamp_min.default, {"min": -0.5}, lambda x: x.clamp(min=-0.5)),
    "clamp_max": (aten.clamp_max.default, {"max": -0.5}, lambda x: x.clamp(max=-0.5)),
    "reciprocal": (aten.reciprocal.default, {}, torch.reciprocal),
    "sqrt": (aten.sqrt.default, {}, torch.sqrt),
    "rsqrt": (aten.rsqrt.default, {}, torch.rsqrt),
    "log": (aten.log.default, {}, torch.log),
    "relu": (aten.relu.default, {}, torch.relu),
    "leaky relu": (aten.leaky_relu.default, {"negative_slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    "leaky relu, steep": (aten.leaky_relu.default, {"negative_slope": 1.6}, lambda x: F.leaky_relu(x, 1.6)),
    "leaky relu, falling": (aten.leaky_relu.default, {"negative_slope": -0.4}, lambda x: F.leaky_relu(x, -0.4)),
    "abs": (aten.abs.default, {}, torch.abs),
}  # fmt: skip
ON_POSITIVE = ("reciprocal", "sqrt", "rsqrt", "log")
STRAIGHT = ("relu", "leaky relu", "leaky relu, steep", "leaky relu, falling", "abs")
KINKED = (
    "hardtanh", "hardtanh, apart", "relu6", "hardsigmoid", "clamp", "clamp below", "clamp above", "clamp_min",
    "clamp_max",
)  # fmt: skip


def subject(name: str) -> tuple[Any, Nonlinear, Interval, Tensor, Tensor]:
    """The call, its rule, intervals [1, 1, n], a grid on each [GRID, n] and the function there."""
    target, options, function = OPERATORS[name]
    pairs = POSITIVE if name in ON_POSITIVE else ENDS
    low, high = torch.tensor(pairs, dtype=torch.float64).T.reshape(2, 1, 1, -1)
    call = call_of(target, Open((low.shape[-1],)), **options)
    rule = rule_for(call.node)
    assert isinstance(rule, Nonlinear)
    grid = (low + (high - low) * torch.linspace(0, 1, GRID, dtype=torch.float64)[:, None])[0]
    corners = [
        c.clamp(low[0], high[0])
        for c in map(torch.tensor, (-3.0, -1.0, -0.5, -0.3, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0))
    ]
    grid = torch.cat([grid, *corners])
    return call, rule, Interval(low, high), grid, function(grid)


def lines(planes: Relaxation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slope and intercept of each side, [n] each."""
    assert isinstance(planes.lower.map, Diagonal) and isinstance(planes.upper.map, Diagonal)
    return tuple(  # type: ignore[return-value]
        t.flatten()
        for t in (
            planes.lower.map.slopes[0],
            planes.lower.bias,
            planes.upper.map.slopes[0],
            planes.upper.bias,
        )
    )


def gaps(found: tuple[Tensor, Tensor, Tensor, Tensor], grid: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The least distance of the function from the lower line and of the upper line from it."""
    a, b, c, d = found
    return (value - a * grid - b).amin(0), (c * grid + d - value).amin(0)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_range(name: str) -> None:
    call, rule, x, _, value = subject(name)
    found = rule.interval(call, Interval(x.lower[0], x.upper[0]))
    assert bool((found.lower <= value.amin(0) + 1e-12).all())
    assert bool((found.upper >= value.amax(0) - 1e-12).all())
    torch.testing.assert_close(found.lower[0], value.amin(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.upper[0], value.amax(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_planes_of_one_slope_touch(name: str) -> None:
    """Fast-Lin's: the chord's slope, and each plane as near as that allows."""
    call, rule, x, grid, value = subject(name)
    planes = rule.relax(call, Slope.PARALLEL, (), x)
    assert planes.lower.map is planes.upper.map
    chord = (value[GRID - 1] - value[0]) / (grid[GRID - 1] - grid[0])
    found = lines(planes)
    torch.testing.assert_close(found[0], chord, rtol=1e-9, atol=1e-9)
    for gap in gaps(found, grid, value):
        assert bool((gap >= -1e-11).all())
        assert bool((gap <= 1e-5 * (1 + value.abs().amax(0))).all())


def best(grid: Tensor, value: Tensor, sign: int) -> Tensor:
    """The greatest height at the middle of a line below the function (sign 1), the least of one above it (−1)."""
    middle = (grid[0] + grid[GRID - 1]) / 2
    slopes = value[1:GRID].sub(value[: GRID - 1]) / (grid[1:GRID] - grid[: GRID - 1])
    a, b = slopes.amin(0) - 1, slopes.amax(0) + 1

    def height(s: Tensor) -> Tensor:
        return (sign * (value - s * grid)).amin(0) + sign * s * middle

    for _ in range(200):
        third = (b - a) / 3
        rising = height(a + third) < height(b - third)
        a, b = torch.where(rising, a + third, a), torch.where(rising, b, b - third)
    return sign * height((a + b) / 2)


@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in STRAIGHT])
def test_planes_are_of_least_area(name: str) -> None:
    """A line's mean over an interval is its value at the middle; it is compared with the best of all lines."""
    call, rule, x, grid, value = subject(name)
    found = lines(rule.relax(call, Slope.ADAPTIVE, (), x))
    for gap in gaps(found, grid, value):
        assert bool((gap >= -1e-10).all())
        assert bool((gap <= 1e-5 * (1 + value.abs().amax(0))).all())
    middle = (grid[0] + grid[GRID - 1]) / 2
    width = value.amax(0) - value.amin(0) + 1e-3
    loose = (
        0.04 if name in ("silu", "gelu", "gelu by tanh", "mish", "hardswish", "selu", "elu, steep") else 1e-5
    )
    low, high = best(grid, value, 1), best(grid, value, -1)
    assert bool((low - (found[0] * middle + found[1]) <= loose * width).all())
    assert bool((found[2] * middle + found[3] - high <= loose * width).all())


@pytest.mark.parametrize("name", OPERATORS)
def test_a_tuning_gives_the_default_and_others_that_are_sound(name: str) -> None:
    call, rule, x, grid, value = subject(name)
    start = rule.alphas(call, x)
    plain, relaxation_at = (lines(rule.relax(call, Slope.ADAPTIVE, t, x)) for t in ((), start))
    middle = (grid[0] + grid[GRID - 1]) / 2
    for i in (0, 2):
        torch.testing.assert_close(
            relaxation_at[i] * middle + relaxation_at[i + 1],
            plain[i] * middle + plain[i + 1],
            rtol=1e-6,
            atol=1e-6,
        )
    for way in (0.0, 0.3, 1.0):
        moved = tuple(torch.full_like(t, way) for t in start)
        for gap in gaps(lines(rule.relax(call, Slope.ADAPTIVE, moved, x)), grid, value):
            assert bool((gap >= -1e-10).all())
            assert bool((gap <= 1e-5 * (1 + value.abs().amax(0))).all())


@pytest.mark.parametrize("name", KINKED)
def test_straight_pieces_are_loose_where_a_kink_lies_inside(name: str) -> None:
    call, rule, x, _, value = subject(name)
    (mask,) = rule.unstable(call, Interval(x.lower[0], x.upper[0]))
    steps = value[1:GRID] - value[: GRID - 1]
    bent = (steps.amax(0) - steps.amin(0)) > 1e-9
    assert mask[0].tolist() == bent.tolist()


HINGES = [
    (-2.0, -0.5),
    (-2.0, 0.0),
    (-1.0, 3.0),
    (-3.0, 1.0),
    (-1.0, 1.0),
    (0.0, 2.0),
    (0.5, 2.0),
    (0.0, 0.0),
]


@pytest.mark.parametrize("a", [0.0, 0.25, 1.0, 1.75, -0.5, -1.0])
def test_two_straight_pieces(a: float) -> None:
    """max(a·x, x) and min(a·x, x): the chord on one side, a line through zero on the other, written out."""
    low, high = torch.tensor(HINGES, dtype=torch.float64).T.reshape(2, 1, 1, -1)
    call = call_of(aten.leaky_relu.default, Open((len(HINGES),)), a)
    rule, x = rule_for(call.node), Interval(low, high)
    assert isinstance(rule, Nonlinear)

    def expected(free: Callable[[float, float], float]) -> tuple[list[float], ...]:
        found: tuple[list[float], ...] = ([], [], [], [])
        for l, u in HINGES:  # noqa: E741
            piece = 1.0 if u > 0 else a
            if not l < 0 < u:
                line = chord = (piece, 0.0)
            else:
                across = (u - a * l) / (u - l)
                chord, line = (across, (a - across) * l), (free(l, u), 0.0)
            below, above = (line, chord) if a <= 1 else (chord, line)
            for kept, number in zip(found, (*below, *above), strict=True):
                kept.append(number)
        return found

    def check(planes: Relaxation, free: Callable[[float, float], float]) -> None:
        for side, numbers in zip(lines(planes), expected(free), strict=True):
            assert side.tolist() == pytest.approx(numbers, rel=1e-12, abs=1e-12)

    check(rule.relax(call, Slope.ADAPTIVE, (), x), lambda l, u: 1.0 if u >= -l else a)  # noqa: E741
    check(rule.relax(call, Slope.ZERO, (), x), lambda l, u: a)  # noqa: E741
    check(rule.relax(call, Slope.ONE, (), x), lambda l, u: 1.0)  # noqa: E741
    check(rule.relax(call, Slope.PARALLEL, (), x), lambda l, u: (u - a * l) / (u - l))  # noqa: E741
    way = torch.full((1, 1, len(HINGES)), 0.3, dtype=torch.float64)
    check(rule.relax(call, Slope.ADAPTIVE, (way,), x), lambda l, u: a + 0.3 * (1 - a))  # noqa: E741
    (start,) = rule.alphas(call, x)
    assert start.flatten().tolist() == [float(u >= -l) for l, u in HINGES]  # noqa: E741
    for rule_ in (rule, rule_for(call_of(aten.prelu.default, Open((1, 8)), torch.tensor([a]).double()).node)):
        assert isinstance(rule_, Nonlinear) and rule_.by_sign and rule_.elementwise
    weights = torch.tensor([a, 0.5], dtype=torch.float64)
    wide = call_of(aten.prelu.default, Open((2, len(HINGES))), weights)
    rule = rule_for(wide.node)
    assert isinstance(rule, Nonlinear)
    both = Interval(low.unsqueeze(2).expand(1, 1, 2, -1), high.unsqueeze(2).expand(1, 1, 2, -1))
    planes = rule.relax(wide, Slope.ADAPTIVE, (), both)
    for side, numbers in zip(lines(planes), expected(lambda l, u: 1.0 if u >= -l else a), strict=True):  # noqa: E741
        assert side.reshape(2, -1)[0].tolist() == pytest.approx(numbers, rel=1e-12, abs=1e-12)
    found = rule.interval(wide, Interval(both.lower[0], both.upper[0]))
    values = [
        sorted((y if y > 0 else a * y) for y in (*ends, *([0.0] if ends[0] < 0 < ends[1] else [])))
        for ends in HINGES
    ]
    assert found.lower[0, 0].tolist() == pytest.approx([v[0] for v in values])
    assert found.upper[0, 0].tolist() == pytest.approx([v[-1] for v in values])


def test_a_relu_of_a_ball_is_one() -> None:
    """Centres and radii of settled units stay, those of open ones are halved."""
    call = call_of(aten.relu.default, Open((5,)))
    center = torch.tensor([[1.0, -1.0, 0.5, -0.25, 2.0]], dtype=torch.float64)
    radius = torch.tensor([[1e-30, 0.5, 1.5, 1.25, 2.0]], dtype=torch.float64)
    found = relu._relu_interval(call, Interval.around(center, radius))
    assert found.is_ball
    assert found.radius.tolist() == [[1e-30, 0.0, 1.0, 0.5, 2.0]]
    assert found.center.tolist() == [[1.0, 0.0, 1.0, 0.5, 2.0]]
    ends = relu._relu_interval(call, Interval(center - radius, center + radius))
    assert not ends.is_ball and ends.lower.tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]
    assert ends.upper.tolist() == [[1.0, 0.0, 2.0, 1.0, 4.0]]


CURVES = {name: made for name, made in vars(smooth).items() if isinstance(made, Curve)}
PLAIN: dict[str, Callable[[float], float]] = {
    "SIGMOID": lambda x: 1 / (1 + exp(-x)),
    "TANH": tanh,
    "EXP": exp,
    "SQUARE": lambda x: x * x,
    "SILU": lambda x: x / (1 + exp(-x)),
    "GELU": lambda x: x * (1 + erf(x / sqrt(2))) / 2,
    "GELU_TANH": lambda x: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2,
    "MISH": lambda x: x * tanh(log1p(exp(x))),
    "HARDSWISH": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "SELU": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (exp(x) - 1)),
    "RECIPROCAL": lambda x: 1 / x,
    "SQRT": sqrt,
    "RSQRT": lambda x: 1 / sqrt(x),
    "LOG": log,
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_turn_where_they_say(name: str) -> None:
    """Values; between the turns the derivative is monotone, at a turn that is no kink its own vanishes."""
    curve = CURVES[name]
    low = 0.05 if curve.domain is not None else -7.0
    x = torch.linspace(low, 7.0, 2001, dtype=torch.float64)
    if name in PLAIN:
        assert curve.value(x).tolist() == pytest.approx(
            [PLAIN[name](float(v)) for v in x], rel=1e-12, abs=1e-13
        )
    edges = [low, *curve.turns, 7.0]
    for a, b in pairwise(edges):
        steps = curve.slope(torch.linspace(a + 1e-3, b - 1e-3, 801, dtype=torch.float64)).diff()
        assert bool((steps >= -1e-15).all()) or bool((steps <= 1e-15).all())
    for turn in curve.turns:
        if turn in curve.kinks:
            continue
        near = torch.tensor([turn - 2e-3, turn, turn + 2e-3], dtype=torch.float64)
        steps = curve.slope(near).diff()
        assert abs(float(steps[0] + steps[1])) < 0.05 * float(steps.abs().max()) + 1e-5
    for point in curve.extrema:
        slope = curve.slope(torch.tensor([point - 1e-4, point + 1e-4], dtype=torch.float64))
        assert float(slope[0]) < 0 < float(slope[1])
    if curve.stationary is not None:
        for place in (-2.5, -1.0, -0.3, 0.4, 1.2, 2.8):
            at = torch.tensor([abs(place) if curve.domain is not None else place], dtype=torch.float64)
            if curve.kinks and float(at) >= max(curve.kinks):
                continue
            found = curve.stationary(curve.slope(at))
            assert min(abs(float(p) - float(at)) for p in found) < 1e-6


@pytest.mark.parametrize("name", ["reciprocal", "sqrt", "rsqrt", "log"])
def test_outside_of_the_domain_nothing_is_known(name: str) -> None:
    target, _, function = OPERATORS[name]
    pairs = [(-1.0, 2.0), (-2.0, -1.0), (0.0, 1.0), (0.5, 2.0), (1.0, inf), (0.0, 0.0)]
    low, high = torch.tensor(pairs, dtype=torch.float64).T.reshape(2, 1, -1)
    call = call_of(target, Open((len(pairs),)))
    rule = rule_for(call.node)
    assert isinstance(rule, Nonlinear)
    found = rule.interval(call, Interval(low, high)).overflow_as_infinite()
    ends = sorted((float(function(low[0, 3])), float(function(high[0, 3]))))
    assert (float(found.lower[0, 3]), float(found.upper[0, 3])) == pytest.approx(ends)
    expected = {
        "reciprocal": [False, True, False, True, True, False],
        "sqrt": [False, False, True, True, True, True],
        "rsqrt": [False, False, False, True, True, False],
        "log": [False, False, False, True, True, False],
    }[name]
    finite = torch.isfinite(found.lower) | torch.isfinite(found.upper)
    assert finite[0].tolist() == expected
    planes = rule.relax(call, Slope.ADAPTIVE, (), Interval(low, high).unsqueeze(1))
    slope, bias, above, lift = lines(planes)
    assert slope[[0, 4]].tolist() == above[[0, 4]].tolist() == [0.0, 0.0]
    assert bias[0] == -inf and lift[0] == inf and torch.isfinite(bias[3]) and slope[3] != 0
    assert bias.tolist()[4] == float(found.lower[0, 4]) and lift.tolist()[4] == float(found.upper[0, 4])
    one = rule.relax(call, Slope.PARALLEL, (), Interval(low, high).unsqueeze(1))
    assert one.lower.map is one.upper.map and lines(one)[0][0] == 0 and lines(one)[0][3] != 0
    (a, b) = rule.alphas(call, Interval(low, high).unsqueeze(1))
    assert bool(((a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)).all())


@pytest.mark.parametrize(
    "options",
    [scaled(-0.1), scaled(1.0, scale=0.0), scaled(1.0, input_scale=0.0), scaled(1.0, scale=-1.0)],
    ids=str,
)
def test_elus_that_are_refused(options: dict[str, Any]) -> None:
    call = call_of(aten.elu.default, Open((1,)), **options)
    with pytest.raises(UnsupportedOp, match="elu needs alpha ≥ 0 and positive scales"):
        smooth._elu(call)


@pytest.mark.parametrize("beta", [2.0, -0.5])
@pytest.mark.parametrize("threshold", [1.0, 0.0, -0.5, 20.0])
def test_softplus_and_its_jump(beta: float, threshold: float) -> None:
    """The range and both planes at a fine grid with the jump on it; each plane touches or gives way by the jump."""
    call = call_of(aten.softplus.default, Open((len(ENDS),)), beta, threshold)
    low, high = torch.tensor(ENDS, dtype=torch.float64).T.reshape(2, 1, 1, -1)
    x = Interval(low, high)
    grid = (low + (high - low) * torch.linspace(0, 1, GRID, dtype=torch.float64)[:, None])[0]
    at = torch.tensor(threshold / beta, dtype=torch.float64)
    grid = torch.cat([grid, *((at + d).clamp(low[0], high[0]) for d in (-1e-9, 0.0, 1e-9))])
    value = F.softplus(grid, beta, threshold)
    found = softplus.RULE.interval(call, Interval(low[0], high[0]))
    torch.testing.assert_close(found.lower[0], value.amin(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.upper[0], value.amax(0), rtol=0, atol=1e-6)
    jump = log(1 + exp(-threshold)) / abs(beta)
    straight = (grid[:GRID] * beta > threshold).all(0)
    holds = (grid * beta > threshold).any(0) & ~straight
    for slope in (Slope.ADAPTIVE, Slope.PARALLEL):
        planes = softplus.RULE.relax(call, slope, (), x)
        side = lines(planes)
        below, above = gaps(side, grid, value)
        assert bool((below >= -1e-10).all()) and bool((above >= -1e-10).all())
        assert side[0][straight].tolist() == side[2][straight].tolist() == [1.0] * int(straight.sum())
        assert not side[1][straight].any() and not side[3][straight].any()
        give = torch.where(holds, jump, 0.0).double()
        down, up = (give, 0 * give) if beta > 0 else (0 * give, give)
        curve = torch.where(grid * beta > 0, grid, 0) + torch.log1p(torch.exp(-(grid * beta).abs())) / beta
        for gap, moved in zip(gaps(side, grid, curve), (down, up), strict=True):
            torch.testing.assert_close(gap[~straight], moved[~straight], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("beta", "threshold"), [(0.0, 20.0), (inf, 20.0), (1.0, float("nan"))])
def test_softplus_of_no_function_is_refused(beta: float, threshold: float) -> None:
    call = call_of(aten.softplus.default, Open((1,)))
    node = call.node
    object.__setattr__(node, "arguments", {**node.arguments, "beta": beta, "threshold": threshold})
    with pytest.raises(UnsupportedOp, match="softplus needs a finite beta other than 0"):
        softplus._parameters(call)


@pytest.mark.parametrize("relaxation_at", [False, True])
def test_the_lines_of_sign(relaxation_at: bool) -> None:
    """−1 + t·2x/u and 1 − t·2x/l; from zero where an end is zero; level where the sign is one."""
    pairs = [
        (-0.5, 2.0),
        (-2.0, 0.5),
        (-1.0, 1.0),
        (0.0, 0.5),
        (-0.25, 0.0),
        (0.0, 0.0),
        (0.2, 0.9),
        (-0.9, -0.2),
    ]
    slopes = ([1.0, 4.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0], [4.0, 1.0, 2.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    bias = ([-1.0, -1.0, -1.0, 0.0, -1.0, 0.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, -1.0])
    start = ([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    low, high = torch.tensor(pairs, dtype=torch.float64).T.reshape(2, 1, 1, -1)
    call, x = call_of(aten.sign.default, Open((len(pairs),))), Interval(low, high)
    rule = rule_for(call.node)
    assert isinstance(rule, Nonlinear)
    assert tuple(t.flatten().tolist() for t in rule.alphas(call, x)) == start
    ways = ([0.25] * 8, [0.5] * 8) if relaxation_at else start
    alphas = (
        tuple(torch.tensor(way, dtype=torch.float64).reshape(low.shape) for way in ways)
        if relaxation_at
        else ()
    )
    found = lines(rule.relax(call, Slope.ADAPTIVE, alphas, x))
    assert found[0].tolist() == [s * t for s, t in zip(slopes[0], ways[0], strict=True)]
    assert found[2].tolist() == [s * t for s, t in zip(slopes[1], ways[1], strict=True)]
    assert (found[1].tolist(), found[3].tolist()) == bias
    level = rule.relax(call, Slope.PARALLEL, (), x)
    assert level.lower.map is level.upper.map and not lines(level)[0].any()
    assert (lines(level)[1].tolist(), lines(level)[3].tolist()) == bias
    (loose,) = rule.unstable(call, Interval(low[0], high[0]))
    assert loose.flatten().tolist() == [True] * 5 + [False] * 3
    ranges = rule.interval(call, Interval(low[0], high[0]))
    assert (ranges.lower.flatten().tolist(), ranges.upper.flatten().tolist()) == bias
    near = Interval(torch.tensor([[[0.0, -5e-324]]]).double(), torch.tensor([[[5e-324, 1.0]]]).double())
    two = call_of(aten.sign.default, Open((2,)))
    assert bool(torch.isfinite(torch.stack(lines(rule.relax(two, Slope.ADAPTIVE, (), near)))).all())
