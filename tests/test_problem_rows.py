"""Properties as tensors: every row, margin and box of them, exact and rounded the right way."""

import math
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.errors import UserError
from certnas.verifier import Box, Clause, Constraint, Property, network_of, problem
from certnas.verifier.problem import _float, box_region, problem_of
from certnas.verifier.property import rounded

DOUBLE = torch.float64
ONE = Fraction(1)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def box(*sides: tuple[Any, Any]) -> Box:
    return Box(tuple((Fraction(low), Fraction(high)) for low, high in sides))


def below(bound: Any, strict: bool = False, inputs: dict[int, Any] | None = None, **coef: Any) -> Constraint:
    given = tuple((int(name[1:]), Fraction(a)) for name, a in coef.items())
    return Constraint(
        given, Fraction(bound), strict, tuple((i, Fraction(a)) for i, a in (inputs or {}).items())
    )


# Rounding.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_goes_to_the_side_that_is_asked_for(dtype: type[np.floating]) -> None:
    step = Fraction(float(np.finfo(dtype).eps))
    for value, low, high in (
        (1 + step / 3, 1, 1 + step), (1 + 2 * step / 3, 1, 1 + step), (-1 - step / 3, -1 - step, -1),
        (1 + step, 1 + step, 1 + step), (Fraction(0), 0, 0),
    ):  # fmt: skip
        assert Fraction(rounded(Fraction(value), -math.inf, dtype)) == low
        assert Fraction(rounded(Fraction(value), math.inf, dtype)) == high
    most = Fraction(float(np.finfo(dtype).max))
    for huge in (most * 2, Fraction(10) ** 400):
        assert rounded(huge, math.inf, dtype) == math.inf and rounded(huge, -math.inf, dtype) == float(most)
        assert rounded(-huge, -math.inf, dtype) == -math.inf and rounded(-huge, math.inf, dtype) == -float(
            most
        )
    assert rounded(most, math.inf, dtype) == float(most)


def test_boxes_are_rounded_outward_in_double_and_inward_in_single_precision() -> None:
    third, tenth = Fraction(1, 3), Fraction(1, 10)
    outer, inner = (
        box((third, 2 * third), (tenth, tenth)).outward,
        box((third, 2 * third), (tenth, tenth)).inside,
    )
    assert [Fraction(v) < third for v in (outer[0][0],)] == [True] and Fraction(outer[1][0]) > 2 * third
    assert outer[0][1] < outer[1][1] and outer[0].dtype == np.float64
    assert Fraction(float(inner[0][0])) > third and Fraction(float(inner[1][0])) < 2 * third
    assert inner[0][1] == inner[1][1] == np.float32(0.1) and inner[0].dtype == np.float32
    close = box((1 + Fraction(1, 2**30), 1 + Fraction(3, 2**30)))
    assert close.inside[0].tolist() == close.inside[1].tolist() == [1.0], (
        "no float32 lies there: the nearest to it"
    )


# Who is a counterexample.


def test_a_clause_holds_at_its_edges() -> None:
    clause = Clause(
        box((0, 1), (-1, Fraction(1, 2))), (below(1, Y0=2, Y1=-1), below(Fraction(3, 4), True, {1: 2}, Y0=1))
    )
    for inputs, outputs, holds in (
        ((0, 0), (0.5, 0), True), ((0, 0), (0.5, -1e-9), False), ((0, 0), (0.75, 9), False),
        ((0, 0), (0.75 - 1e-9, 9), True),
        ((1, 0.5), (-0.25, 9), False), ((1, 0.5), (-0.2500001, 9), True), ((1, -1), (2, 9), True),
        ((1.0000001, 0), (0, 0), False), ((-1e-30, 0), (0, 0), False), ((0, 0.50000006), (0, 0), False),
        ((0, -1.0000001), (0, 0), False), ((0, 0), (math.nan, 0), False), ((0, 0), (-math.inf, 0), False),
    ):  # fmt: skip
        given = np.array(inputs, np.float32), np.array(outputs, np.float64)
        assert clause.holds(*given) == holds, (inputs, outputs)
        other = Clause(box((7, 8), (7, 8)), ())
        assert Property(2, 2, (other, clause)).violated_by(*given) == holds
    assert not Property(2, 2, ()).violated_by(np.zeros(2, np.float32), np.zeros(2))
    assert (
        Property(2, 2, (clause,)).relational
        and not Property(2, 2, (Clause(clause.box, (below(1, Y0=1),)),)).relational
    )


# Rows.


def affine() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(2, 3)).double().requires_grad_(False).eval()
    network[0].weight.copy_(tensor([[1.0, -2], [0.5, 3], [-1, 0.25]]))
    network[0].bias.copy_(tensor([4.0, -8, 0.5]))
    return network


FIRST, SECOND = box((0, 1), (0, 2)), box((4, 6), (1, 1))


def asked() -> Property:
    return Property(2, 3, (
        Clause(SECOND, (below(5, Y0=1, Y2=-2),)),
        Clause(FIRST, (below(Fraction(1, 3), Y1=2), below(-7, Y0=3))),
        Clause(SECOND, (below(0, Y2=1), below(2, Y2=-1))),
    ))  # fmt: skip


@pytest.fixture(scope="module")
def traced() -> bounds.Network:
    return network_of(affine(), (2,))


def test_rows_offsets_and_what_they_need(traced: bounds.Network) -> None:
    made = problem_of(traced, asked())
    assert made.region.x.tolist() == [[5.0, 1.0], [0.5, 1.0]] and made.group.tolist() == [0, 1, 0]
    assert made.coef.tolist() == [[[1, 0, -2]] * 2, [[0, 2, 0], [3, 0, 0]], [[0, 0, 1], [0, 0, -1]]]
    third = float(np.nextafter(1 / 3, 1))
    assert made.offset.tolist() == [[5, 5], [third, -7], [0, 2]] and Fraction(third) > Fraction(1, 3)
    assert (len(made), made.width, made.related) == (3, 2, False) and made.coef.dtype == DOUBLE
    # outputs at the middles: (7, -2.5, -4.25) and (2.5, -4.75, 0.25)
    sizes = tensor([7 * 3 + 5, 4.75 * 3 + 7, 7 * 1 + 2])
    torch.testing.assert_close(made.needed, 1e-9 * (1 + sizes), rtol=1e-12, atol=0)


def test_some_clauses_by_themselves(traced: bounds.Network) -> None:
    made = problem_of(traced, asked())
    some, groups = made.only([1, 2])
    assert groups.tolist() == [0, 1] and some.group.tolist() == [1, 0]
    one, groups = made.only([1])
    assert groups.tolist() == [1] and one.region.x.tolist() == [[0.5, 1.0]] and one.group.tolist() == [0]
    assert torch.equal(one.coef, made.coef[1:2]) and torch.equal(one.offset, made.offset[1:2])
    assert torch.equal(one.needed, made.needed[1:2]) and not one.related


def test_all_rows_of_a_region_and_back(traced: bounds.Network) -> None:
    made = problem_of(traced, asked())
    assert made.slot.tolist() == [0, 0, 1] and made.rows.shape == (2, 4, 3)
    assert torch.equal(made.rows[0], torch.cat([made.coef[0], made.coef[2]]))
    assert torch.equal(made.rows[1, :2], made.coef[1])
    values = tensor([[10.0, 11, 12, 13], [20, 21, 99, 99]])
    excess = made.excess(values)
    assert excess.tolist() == (tensor([[10, 11], [20, 21], [12, 13]]) - made.offset).tolist()
    needed = made.needed
    for value, left in (
        (needed * 1.001, []), (needed, [0, 1, 2]), (needed * math.inf, [0, 1, 2]), (needed * math.nan, [0, 1, 2])
    ):  # fmt: skip
        assert made.unproved(torch.stack([needed - 9, value], 1)) == left
    some = torch.stack([tensor([9.0, -9, math.nan]), tensor([math.nan, math.inf, 9])], 1)
    assert made.unproved(some) == [1]


def test_points_and_what_they_meet(traced: bounds.Network) -> None:
    made = problem_of(traced, asked())
    points = tensor([[5.0, 1.0], [0.0, 0.0]])
    with torch.no_grad():
        outputs = affine()(points)
    expected = [
        min(max(y[0] - 2 * y[2] - 5, y[0] - 2 * y[2] - 5), max(2 * y[1] - 1 / 3, 3 * y[0] + 7), max(y[2], -y[2] - 2))
        for y in outputs.tolist()
    ]  # fmt: skip
    assert made.least_excess(points).tolist() == pytest.approx(expected, rel=1e-9)


def test_rows_of_outputs_and_inputs(traced: bounds.Network) -> None:
    prop = Property(2, 3, (Clause(FIRST, (below(1, False, {1: 5}, Y0=1), below(2, False, {0: -3}))),))
    made = problem_of(traced, prop)
    assert made.related and made.coef.tolist() == [[[1, 0, 0, 0, 5], [0, 0, 0, -3, 0]]]
    x = tensor([[0.25, 2.0]])
    with torch.no_grad():
        assert made.network(x)[0].tolist() == pytest.approx([*affine()(x)[0].tolist(), 0.25, 2.0])
    least = bounds.lower_bounds(made.network, made.region, made.coef, bounds.Crown())[0]
    assert least.tolist() == pytest.approx([4 + 0 * 1, -3], rel=1e-9), "y0 + 5 x1 = x0 + 3 x1 + 4"


def test_what_is_too_large_is_refused(traced: bounds.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem.LARGEST == 2**28
    monkeypatch.setattr(problem, "LARGEST", 3 * 2 * 3)
    problem_of(traced, asked())
    monkeypatch.setattr(problem, "LARGEST", 3 * 2 * 3 - 1)
    with pytest.raises(UserError, match="3 cases of up to 2 constraints on 3 variables; accepted: 17"):
        problem_of(traced, asked())
    related = Property(2, 3, (Clause(FIRST, (below(1, False, {1: 5}, Y0=1),)),))
    monkeypatch.setattr(problem, "LARGEST", 5)
    problem_of(traced, related)
    monkeypatch.setattr(problem, "LARGEST", 4)
    with pytest.raises(UserError, match="on 5 variables"):
        problem_of(traced, related)
    most = float(np.finfo(np.float32).max)
    monkeypatch.setattr(problem, "LARGEST", 99)
    for sides, at in ((((0, 1), (0, 3.5e38)), 1), (((-3.5e38, 1), (0, 1)), 0)):
        with pytest.raises(UserError, match=f"input {at} of the property reaches beyond"):
            problem_of(
                traced,
                Property(2, 3, (Clause(FIRST, (below(1, Y0=1),)), Clause(box(*sides), (below(1, Y0=1),)))),
            )
    problem_of(traced, Property(2, 3, (Clause(box((-most, most), (0, 1)), (below(1, Y0=1),)),)))
    assert _float(Fraction(1, 3)) == 1 / 3
    with pytest.raises(UserError, match="beyond what float64 holds"):
        _float(Fraction(10) ** 400)


def test_regions_hold_their_boxes() -> None:
    network: Any = SimpleNamespace(graph=SimpleNamespace(input_shape=(1, 2)))
    low, high = tensor([[0.1, -3.0], [0.3, 1e300]]), tensor([[0.7, -3.0], [0.30000000000000004, 1.7e308]])
    found = box_region(low, high, network)
    assert found.x.shape == (2, 1, 2) and isinstance(found, bounds.Linf)
    x, eps = found.x.flatten(1), found.radii.flatten(1)
    assert bool(
        ((x - eps) <= low).all() and ((x + eps) >= high).all() and (low <= x).all() and (x <= high).all()
    )
    assert eps[0].tolist() == [pytest.approx(0.3, rel=1e-15), 0.0] and float(eps[0, 0]) > float(x[0, 0]) - 0.1
    assert float(eps[1, 1]) == pytest.approx(1.7e308 / 2, rel=1e-6)
