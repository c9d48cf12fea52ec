"""Planes of operators of several numbers, against their formulas on plain numbers: products, extremes, softmax."""

from __future__ import annotations

from itertools import product
from math import exp, log
from typing import Any

import pytest
import torch
from calls import Open, call_of
from torch import Tensor

from bounds import UnsupportedOp
from bounds.graph import Call
from bounds.interval import Interval
from bounds.operators import Affine, contraction, rule_for, softmax
from bounds.operators.rule import Nonlinear
from bounds.relaxation import Plane, Slope

aten = torch.ops.aten


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def box(*shape: int, seed: int = 0, spread: float = 1.0) -> Interval:
    center, radius = draw(*shape, seed=seed), spread * draw(*shape, seed=seed + 50).abs()
    return Interval(center - radius, center + radius)


def nonlinear(call: Call) -> Nonlinear:
    rule = rule_for(call.node)
    assert isinstance(rule, Nonlinear)
    return rule


def at(plane: Plane, *points: Tensor) -> Tensor:
    return plane.map.apply(*points) + plane.bias


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def adjoint(plane: Plane, *points: Tensor) -> None:
    """⟨c, L x⟩ = ⟨Lᵀc, x⟩, for the whole and for each operand alone; some of the images have the same map."""
    out = plane.map.apply(*points)
    coef = draw(*out.shape, seed=11)
    pulled = plane.map.transpose(coef)
    assert [p.shape for p in pulled] == [x.shape for x in points]
    for k, (p, x) in enumerate(zip(pulled, points, strict=True)):
        alone = plane.map.apply(*(y if i == k else None for i, y in enumerate(points)))
        close((p * x).reshape(*p.shape[:2], -1).sum(2), (coef * alone).reshape(*p.shape[:2], -1).sum(2))
    some = plane.map.at(slice(1, 2))
    close(some.apply(*(x[1:2] for x in points)), out[1:2])


# Products


PRODUCTS = {
    "same shapes": ((2, 3), (2, 3)),
    "grown": ((2, 1), (2, 3)),
    "grown both": ((1, 3), (2, 1)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    one, other = PRODUCTS[name]
    call = call_of(aten.mul.Tensor, Open(one), Open(other))
    rule = nonlinear(call)
    x, y = box(2, 1, *one), box(2, 1, *other, seed=3)
    ends = torch.stack([a * b for a, b in product(x, y)])
    found = rule.interval(call, x, y)
    close(found.lower, ends.amin(0))
    close(found.upper, ends.amax(0))
    (lx, ux), (ly, uy) = x, y
    start = rule.alphas(call, x, y)
    assert all(bool((t == 0.5).all()) and t.shape == ends.shape[1:] for t in start)
    assert start[0] is not start[1]
    for alphas in ((), (draw(*ends.shape[1:]).sigmoid(), draw(*ends.shape[1:], seed=8).sigmoid())):
        t, s = alphas if alphas else (0.5, 0.5)
        planes = rule.relax(call, Slope.ADAPTIVE, alphas, x, y)
        for seed in range(3):
            p, q = draw(2, 1, *one, seed=seed + 20), draw(2, 1, *other, seed=seed + 30)
            low = t * (ly * p + lx * q - lx * ly) + (1 - t) * (uy * p + ux * q - ux * uy)
            high = s * (uy * p + lx * q - lx * uy) + (1 - s) * (ly * p + ux * q - ux * ly)
            close(at(planes.lower, p, q), low)
            close(at(planes.upper, p, q), high)
            adjoint(planes.lower, p, q)
    planes = rule.relax(call, Slope.PARALLEL, (), x, y)
    assert planes.lower.map is planes.upper.map
    p, q = draw(2, 1, *one, seed=5), draw(2, 1, *other, seed=6)
    middle = y.center * p + x.center * q - x.center * y.center
    close(at(planes.lower, p, q), middle - x.radius * y.radius)
    close(at(planes.upper, p, q), middle + x.radius * y.radius)
    assert not rule.elementwise


CONTRACTIONS: dict[str, tuple[Any, str, tuple[int, ...], tuple[int, ...]]] = {
    "matmul": (aten.matmul.default, "nij,njk->nik", (2, 3), (3, 4)),
    "bmm": (aten.bmm.default, "nij,njk->nik", (3, 2), (2, 1)),
    "matmul of several": (aten.matmul.default, "nhij,nhjk->nhik", (2, 3, 2), (2, 2, 3)),
    "matmul, grown": (aten.matmul.default, "nhij,nhjk->nhik", (2, 3, 2), (1, 2, 3)),
    "einsum": (aten.einsum.default, "nij,njk->nki", (2, 3), (3, 4)),
    "einsum over two": (aten.einsum.default, "nija,najk -> nik", (2, 3, 2), (2, 3, 2)),
    "einsum of vectors": (aten.einsum.default, "ni,ni->n", (3,), (3,)),
    "einsum, outer": (aten.einsum.default, "nia,nja->nija", (2, 2), (3, 2)),
}


def contracted(name: str) -> tuple[Call, str]:
    target, equation, one, other = CONTRACTIONS[name]
    factors = Open(one), Open(other)
    if target is aten.einsum.default:
        return call_of(target, equation, list(factors)), equation
    return call_of(target, *factors), equation


def rows_equation(equation: str) -> str:
    """The same with an axis of rows after the batch."""
    given, out = equation.replace(" ", "").split("->")
    first, second = given.split(",")
    return f"nS{first[1:]},nS{second[1:]}->nS{out[1:]}"


@pytest.mark.parametrize("together", [1 << 22, 1])
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name: str, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contraction, "PRODUCTS_AT_ONCE", together)
    call, equation = contracted(name)
    rule, by = nonlinear(call), rows_equation(equation)
    one, other = call.shapes
    x, y = box(2, 1, *one), box(2, 1, *other, seed=3)

    def e(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum(by, a, b)

    def parted(t: Tensor) -> tuple[Tensor, Tensor]:
        return t.clamp(min=0), t.clamp(max=0)

    # Σ of the ranges of the products: by ends where one factor has one sign, and by the greater of two elsewhere
    (lx, ux), (ly, uy) = x, y
    letters = "".join(dict.fromkeys(c for c in by if c.isalpha()))
    wide = by.split("->")[0] + "->" + letters
    corners = torch.stack([torch.einsum(wide, a, b) for a, b in product((lx, ux), (ly, uy))])
    out = by.split("->")[1]
    total = f"{letters}->{out}"
    found = rule.interval(call, *(Interval(z.lower.squeeze(1), z.upper.squeeze(1)) for z in (x, y)))
    close(found.lower, torch.einsum(total, corners.amin(0)).squeeze(1))
    close(found.upper, torch.einsum(total, corners.amax(0)).squeeze(1))
    if "grown" not in name:
        assert found.lower.shape == (2, *call.shape)
    mx, my, rx, ry = x.center, y.center, x.radius, y.radius
    shape = (2, 1, *call.shape)
    start = rule.alphas(call, x, y)
    assert all(bool((t == 0.5).all()) and t.shape == shape for t in start) and start[0] is not start[1]
    choices = [(), (draw(*shape).sigmoid(), draw(*shape, seed=9).sigmoid())]
    for alphas in choices:
        s, r = (2 * alphas[0] - 1, 2 * alphas[1] - 1) if alphas else (0.0, 0.0)
        planes = rule.relax(call, Slope.ADAPTIVE, alphas, x, y)
        p, q = draw(2, 1, *one, seed=20), draw(2, 1, *other, seed=30)
        low = (
            e(p, my)
            + s * e(p, ry)
            + e(mx, q)
            + s * e(rx, q)
            - e(mx, my)
            - e(rx, ry)
            - s * (e(mx, ry) + e(rx, my))
        )
        high = (
            e(p, my)
            + r * e(p, ry)
            + e(mx, q)
            - r * e(rx, q)
            - e(mx, my)
            + e(rx, ry)
            - r * (e(mx, ry) - e(rx, my))
        )
        close(at(planes.lower, p, q), low)
        close(at(planes.upper, p, q), high)
        adjoint(planes.lower, p, q)
        adjoint(planes.upper, p, q)
    planes = rule.relax(call, Slope.PARALLEL, choices[1], x, y)
    assert planes.lower.map is planes.upper.map
    middle = e(p, my) + e(mx, q) - e(mx, my)
    close(at(planes.lower, p, q), middle - e(rx, ry))
    close(at(planes.upper, p, q), middle + e(rx, ry))
    size = planes.lower.map.magnitude().apply(p.abs(), q.abs())
    close(size, e(p.abs(), my.abs()) + e(mx.abs(), q.abs()))


def test_a_contraction_of_a_tensor_with_itself() -> None:
    x = Open((2, 3))
    call = call_of(aten.einsum.default, "nij,nkj->nik", [x, x])
    rule, z = nonlinear(call), box(2, 1, 2, 3)
    assert call.shapes == ((2, 3),)
    planes, p = rule.relax(call, Slope.ADAPTIVE, (), z), draw(2, 1, 2, 3, seed=2)
    m, r = z.center, z.radius
    middle = p @ m.mT + m @ p.mT - m @ m.mT
    close(at(planes.lower, p), middle - r @ r.mT)
    close(at(planes.upper, p), middle + r @ r.mT)
    adjoint(planes.lower, p)
    two = contraction.Product.at(planes.lower.map, slice(0, 2))  # type: ignore[arg-type]
    assert two.rows == 1 and len(two.shapes) == 1


def test_planes_of_their_own_for_several_rows() -> None:
    call, _ = contracted("matmul")
    rule = nonlinear(call)
    x, y = box(2, 1, 2, 3), box(2, 1, 3, 4, seed=3)
    alphas = tuple(draw(2, 5, 2, 4, seed=i).sigmoid() for i in range(2))
    planes = rule.relax(call, Slope.ADAPTIVE, alphas, x, y)
    assert planes.lower.map.rows == planes.rows == 5
    p, q = draw(2, 5, 2, 3), draw(2, 5, 3, 4)
    for row in range(5):
        alone = rule.relax(call, Slope.ADAPTIVE, tuple(t[:, row : row + 1] for t in alphas), x, y)
        close(at(planes.lower, p, q)[:, row], at(alone.lower, p[:, row : row + 1], q[:, row : row + 1])[:, 0])


REFUSED = {
    "nij,...jk->nik": "an ellipsis or a letter twice",
    "nii,njk->nik": "an ellipsis or a letter twice",
    "nij,jnk->nik": "moves or mixes the batch",
    "nij,njk->ikn": "moves or mixes the batch",
    "nija,njk->nik": "a letter of one factor alone",
}


def unchecked(equation: str, *factors: Any) -> Call:
    """The shapes do not matter here."""
    x = Open((2,))
    call = call_of(aten.einsum.default, "ni->ni", [x])
    names = [contraction.Ref(f"x{i}") if f is None else f for i, f in enumerate(factors)]
    node = call.node
    object.__setattr__(node, "arguments", {**node.arguments, "equation": equation, "tensors": names})
    object.__setattr__(node, "operands", tuple(f"x{i}" for i, f in enumerate(factors) if f is None))
    return call


@pytest.mark.parametrize("equation", REFUSED)
def test_einsums_that_are_refused(equation: str) -> None:
    with pytest.raises(UnsupportedOp, match=REFUSED[equation]):
        contraction.rule_of(unchecked(equation, None, None).node)


def test_einsums_of_constants_and_of_several() -> None:
    weight = torch.ones(2, 2)
    assert isinstance(contraction.rule_of(unchecked("nij,jk->nik", None, weight).node), Affine)
    assert isinstance(contraction.rule_of(unchecked("jk,nij->nik", weight, None).node), Affine)
    assert isinstance(contraction.rule_of(unchecked("nij,njk->nik", None, None).node), Nonlinear)
    with pytest.raises(UnsupportedOp, match="moves or mixes the batch"):
        contraction.rule_of(unchecked("nij,njk->nik", None, weight).node)
    with pytest.raises(UnsupportedOp, match="more than two tensors"):
        contraction.rule_of(unchecked("nij,njk,nkl->nil", None, None, None).node)
    with pytest.raises(UnsupportedOp, match="more than two tensors"):
        contraction.rule_of(unchecked("nij,njk,kl->nil", None, None, weight).node)
    assert contraction._terms("nij, njk") == (["nij", "njk"], "ik")
    assert contraction._terms("nij,njk -> nik") == (["nij", "njk"], "nik")
    with pytest.raises(UnsupportedOp, match="accepted: matrices of each image"):
        contraction.Layout.of(call_of(aten.matmul.default, Open((2, 3)), Open((4, 3, 2))))


def test_a_matrix_of_one_sign() -> None:
    call = call_of(aten.mm.default, Open((3,)), draw(3, 2))
    rule = rule_for(call.node)
    assert isinstance(rule, Affine)
    close(rule.spread(call, draw(4, 3).abs()), draw(4, 3).abs() @ draw(3, 2).abs())


# Extremes


SIDES = [
    ((-2.0, 1.0), (-1.0, 3.0)), ((0.0, 1.0), (1.0, 2.0)), ((1.0, 2.0), (0.0, 1.0)), ((-1.0, 1.0), (-1.0, 1.0)),
    ((-3.0, 2.0), (-2.0, 0.5)), ((0.5, 0.5), (0.5, 0.5)), ((0.0, 4.0), (1.0, 2.0)),
]  # fmt: skip
EXTREMES = {"maximum": (aten.maximum.default, 1), "minimum": (aten.minimum.default, -1)}


def greater(a: tuple[float, float], b: tuple[float, float], slope: Slope, t: float | None) -> tuple[Any, Any]:
    """(share of b, bias) of the lower and the upper plane of max(a, b)."""
    low, high = b[0] - a[1], b[1] - a[0]
    if low >= 0 or high <= 0:
        share = float(low >= 0)
        return (share, 0.0), (share, 0.0)
    across = high / (high - low)
    free = float(sum(b) >= sum(a)) if t is None else t
    return (across if slope is Slope.PARALLEL else free, 0.0), (across, -across * low)


@pytest.mark.parametrize("t", [None, 0.3])
@pytest.mark.parametrize("slope", [Slope.ADAPTIVE, Slope.PARALLEL])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name: str, slope: Slope, t: float | None) -> None:
    target, sign = EXTREMES[name]
    call = call_of(target, Open((len(SIDES),)), Open((len(SIDES),)))
    rule = nonlinear(call)
    ends = torch.tensor(SIDES, dtype=torch.float64)
    x, y = (Interval(ends[None, None, :, k, 0], ends[None, None, :, k, 1]) for k in range(2))
    found = rule.interval(call, x, y)
    best = torch.maximum if sign > 0 else torch.minimum
    assert torch.equal(found.lower, best(x.lower, y.lower)) and torch.equal(
        found.upper, best(x.upper, y.upper)
    )
    alphas = () if t is None else (torch.full((1, 1, len(SIDES)), t, dtype=torch.float64),)
    planes = rule.relax(call, slope, alphas, x, y)
    p, q = draw(1, 1, len(SIDES)), draw(1, 1, len(SIDES), seed=4)
    lows, highs, starts = [], [], []
    for i, (a, b) in enumerate(SIDES):
        if sign < 0:
            a, b = (-a[1], -a[0]), (-b[1], -b[0])
        both = greater(a, b, slope, t)
        values = [
            sign * ((1 - share) * sign * float(p[0, 0, i]) + share * sign * float(q[0, 0, i]) + bias)
            for share, bias in both
        ]
        lows.append(values[0] if sign > 0 else values[1])
        highs.append(values[1] if sign > 0 else values[0])
        starts.append(float(sum(b) >= sum(a)))
    close(at(planes.lower, p, q).flatten(), torch.tensor(lows, dtype=torch.float64))
    close(at(planes.upper, p, q).flatten(), torch.tensor(highs, dtype=torch.float64))
    assert (planes.lower.map is planes.upper.map) == (slope is Slope.PARALLEL)
    (start,) = rule.alphas(call, x, y)
    assert start.flatten().tolist() == starts
    # a constant is an interval of one number; the same tensor twice is itself
    number = torch.tensor([b[0] for _, b in SIDES], dtype=torch.float64)
    fixed = call_of(target, Open((len(SIDES),)), number.unsqueeze(0))
    points = Interval(number[None, None], number[None, None])
    whole, part = rule.relax(call, slope, alphas, x, points), nonlinear(fixed).relax(fixed, slope, alphas, x)
    for a_, b_ in ((whole.lower, part.lower), (whole.upper, part.upper)):
        close(at(b_, p), at(a_, p, number[None, None]))
    z = Open((len(SIDES),))
    twice = call_of(target, z, z)
    itself = nonlinear(twice).relax(twice, slope, (), x)
    assert bool((at(itself.lower, p) <= p + 1e-12).all()) and len(itself.lower.map.slopes) == 1  # type: ignore[attr-defined]
    close(itself.lower.map.slopes[0], torch.ones(1, 1, len(SIDES)).double())  # type: ignore[attr-defined]


# Softmax


def softmax_plane(
    low: list[float], high: list[float], j: int, logarithm: bool, t: float | None
) -> list[tuple[list[float], float]]:
    """(row over x, bias) of the lower and the upper plane of output j, as the module's text has them."""
    others = [i for i in range(len(low)) if i != j]
    d = {i: (low[i] - high[j], high[i] - low[j]) for i in others}
    touch = {i: exp((a + b) / 2) for i, (a, b) in d.items()}
    rise = {i: (exp(b) - exp(a)) / (b - a) if b - a > 1e-7 else touch[i] for i, (a, b) in d.items()}
    rise_at = {i: max(exp(a) - rise[i] * a, exp(b) - rise[i] * b) for i, (a, b) in d.items()}
    least, most = 1 + sum(exp(a) for a, _ in d.values()), 1 + sum(exp(b) for _, b in d.values())
    middle = {i: (a + b) / 2 for i, (a, b) in d.items()}
    center = 1 + sum(rise[i] * middle[i] + rise_at[i] for i in others)
    m = center
    if t is not None:
        first, last = way(least, most, center)
        m = exp(first + (last - first) * t)
    value, fall = (-log(m), -1 / m) if logarithm else (1 / m, -1 / m**2)
    lower = {i: fall * rise[i] for i in others}, value + fall * (1 + sum(rise_at.values()) - m)
    if logarithm:
        q = 1 + sum(touch.values())
        upper = {i: -touch[i] / q for i in others}, -log(q) + sum(touch[i] * middle[i] for i in others) / q
    else:
        fall = -1 / (least * most)
        start = 1 + sum(touch[i] * (1 - middle[i]) for i in others)
        upper = {i: fall * touch[i] for i in others}, 1 / least + fall * (start - least)
    ends = (-log(most), -log(least)) if logarithm else (1 / most, 1 / least)
    found = []
    for (slopes, bias), end, sign in ((lower, ends[0], 1), (upper, ends[1], -1)):
        row = [slopes.get(i, -sum(slopes.values())) for i in range(len(low))]
        height = sum(s * (a + b) / 2 for s, a, b in zip(row, low, high, strict=True)) + bias
        better = sign * height > sign * end
        found.append((row if better else [0.0] * len(low), bias if better else end))
    return found


def way(least: float, most: float, center: float) -> tuple[float, float]:
    last = log(max(most, center))
    return min(max(log(least), log(center) - 5.0), last), last


def of_softmax(logarithm: bool, shape: tuple[int, ...], dim: int) -> Call:
    return call_of((aten.log_softmax if logarithm else aten.softmax).int, Open(shape), dim)


@pytest.mark.parametrize("spread", [0.05, 0.6, 2.0, 6.0])
@pytest.mark.parametrize("t", [None, 0.0, 0.4])
@pytest.mark.parametrize("logarithm", [False, True])
def test_softmax(logarithm: bool, t: float | None, spread: float) -> None:
    """Along the last axis, and along another."""
    x = box(2, 1, 4, spread=spread)
    x = Interval(
        torch.cat([x.lower[..., :3], x.lower[..., 3:] * 0 + 0.2], -1),
        torch.cat([x.upper[..., :3], x.lower[..., 3:] * 0 + 0.2], -1),
    )
    call = of_softmax(logarithm, (4,), -1)
    rule = nonlinear(call)
    alphas = () if t is None else (torch.full((2, 1, 4), t, dtype=torch.float64),)
    planes = rule.relax(call, Slope.ADAPTIVE, alphas, x)
    start = rule.alphas(call, x)[0]
    exact = rule.interval(call, Interval(x.lower[:, 0], x.upper[:, 0]))
    for n in range(2):
        low, high = x.lower[n, 0].tolist(), x.upper[n, 0].tolist()
        for j in range(4):
            expected = softmax_plane(low, high, j, logarithm, t)
            for plane, (row, bias) in zip((planes.lower, planes.upper), expected, strict=True):
                assert isinstance(plane.map, softmax.Along)
                assert plane.map.matrix[n, 0, j].tolist() == pytest.approx(row, rel=1e-9, abs=1e-12)
                assert float(plane.bias[n, 0, j]) == pytest.approx(bias, rel=1e-9, abs=1e-12)
            q = [1 + sum(exp(s[i] - e[j]) for i in range(4) if i != j) for s, e in ((low, high), (high, low))]
            ends = [-log(q[1]), -log(q[0])] if logarithm else [1 / q[1], 1 / q[0]]
            assert [float(exact.lower[n, j]), float(exact.upper[n, j])] == pytest.approx(ends, rel=1e-12)
            d = {i: (low[i] - high[j], high[i] - low[j]) for i in range(4) if i != j}
            rise = {i: (exp(b) - exp(a)) / (b - a) for i, (a, b) in d.items()}
            center = 1 + sum((exp(a) + exp(b)) / 2 for a, b in d.values())
            assert rise
            first, last = way(q[0], q[1], center)
            assert float(start[n, 0, j]) == pytest.approx(
                (log(center) - first) / (last - first), rel=1e-9, abs=1e-12
            )
    # along the first of two axes: the same, moved
    wide = of_softmax(logarithm, (4, 3), 1)
    moved = Interval(*(side.unsqueeze(3).expand(2, 1, 4, 3) for side in x))
    turned = nonlinear(wide).relax(
        wide, Slope.ADAPTIVE, tuple(s.unsqueeze(3).expand(2, 1, 4, 3) for s in alphas), moved
    )
    p = draw(2, 1, 4, 3)
    for one, other in ((planes.lower, turned.lower), (planes.upper, turned.upper)):
        each = torch.stack([at(one, p[..., k]) for k in range(3)], -1)
        close(at(other, p), each)
        adjoint(other, p)
        close(
            other.map.magnitude().apply(p),
            torch.stack([one.map.magnitude().apply(p[..., k]) for k in range(3)], -1),
        )
    close(nonlinear(wide).alphas(wide, moved)[0], start.unsqueeze(3).expand(2, 1, 4, 3))
    # both planes with the mean of their slopes
    both = rule.relax(call, Slope.PARALLEL, alphas, x)
    assert both.lower.map is both.upper.map and isinstance(both.lower.map, softmax.Along)
    low, high = planes.lower.map.matrix, planes.upper.map.matrix  # type: ignore[attr-defined]
    half, center, radius = (low - high) / 2, x.center.unsqueeze(-1), x.radius.unsqueeze(-1)
    close(both.lower.map.matrix, (low + high) / 2)
    give = (half.abs() @ radius).squeeze(-1)
    close(both.lower.bias, planes.lower.bias + (half @ center).squeeze(-1) - give)
    close(both.upper.bias, planes.upper.bias - (half @ center).squeeze(-1) + give)


@pytest.mark.parametrize("logarithm", [False, True])
def test_a_softmax_of_points_is_its_tangent(logarithm: bool) -> None:
    x = draw(1, 1, 3)
    call = of_softmax(logarithm, (3,), 1)
    q = softmax._Sum.of(*softmax._differences(Interval(x, x), -1))
    lower, bias = softmax._lower(logarithm, q, None)
    upper, lift = softmax._upper(logarithm, q)
    jacobian = torch.autograd.functional.jacobian(lambda z: call.apply(z.reshape(1, 3))[0], x.flatten())
    for matrix, constant in ((lower, bias), (upper, lift)):
        close((matrix @ x.unsqueeze(-1)).squeeze(-1) + constant, call.apply(x[0]).unsqueeze(0))
        if matrix is lower or logarithm:
            close(matrix[0, 0], jacobian)


@pytest.mark.parametrize(("far", "level"), [(40.0, False), (40.5, True)])
def test_differences_that_are_too_large_have_level_planes(far: float, level: bool) -> None:
    """Up to 40 in single precision, to either side; infinite ones too."""
    low, high = torch.tensor([[[39.0, 0.0]]]), torch.tensor([[[far, 0.0]]])
    call = of_softmax(True, (2,), 1)
    planes = nonlinear(call).relax(call, Slope.ADAPTIVE, (), Interval(low, high))
    assert isinstance(planes.lower.map, softmax.Along)
    assert [bool(row.any()) for row in planes.lower.map.matrix[0, 0]] == [not level] * 2
    way_ = nonlinear(call).alphas(call, Interval(low, high))[0]
    assert bool(torch.isfinite(way_).all())
    endless = Interval(torch.tensor([[[0.0, -torch.inf]]]), torch.tensor([[[1.0, 0.0]]]))
    planes = nonlinear(call).relax(call, Slope.ADAPTIVE, (), endless)
    assert not planes.lower.map.matrix.any() and not planes.upper.map.matrix.any()  # type: ignore[attr-defined]
    assert planes.upper.bias.tolist()[0][0][0] == 0.0 and bool((planes.lower.bias < 0).all())


def test_a_softmax_over_the_images_is_refused() -> None:
    for dim in (0, -2):
        with pytest.raises(UnsupportedOp, match="mixes the images"):
            softmax._axis(of_softmax(False, (3,), dim))
    assert softmax._axis(of_softmax(False, (3,), 1)) == softmax._axis(of_softmax(False, (3,), -1)) == -1
    assert softmax._axis(of_softmax(False, (3, 2), 1)) == -2
