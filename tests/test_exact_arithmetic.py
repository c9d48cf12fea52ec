"""Rational bounds, number by number: an inequality at its exact bound is settled there and nowhere beside it."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from certnas.checker import CheckedNetwork
from certnas.verifier import Box, Clause, Constraint, Property, exact, network_of
from certnas.verifier.exact import Exact, _interval, _planes, _value, equal_bounds

TINY = Fraction(1, 10**30)


def fraction(*values: Any) -> np.ndarray:
    return exact._array(np.array([Fraction(v) for v in values], dtype=object))


def box(*sides: tuple[Any, Any]) -> Box:
    return Box(tuple((Fraction(low), Fraction(high)) for low, high in sides))


def below(bound: Any, *coef: Any, strict: bool = False, inputs: tuple[Any, ...] = ()) -> Constraint:
    given = tuple((j, Fraction(a)) for j, a in enumerate(coef))
    return Constraint(given, Fraction(bound), strict, tuple((i, Fraction(a)) for i, a in enumerate(inputs)))


def affine(network: CheckedNetwork, weight: list[list[float]], bias: list[float], of: str) -> str:
    arrays = {"weight": np.array([weight], float), "bias": np.array(bias, float).reshape(1, -1, 1)}
    return network.add("linear", (of,), (len(weight),), arrays)


def bent(
    network: CheckedNetwork,
    of: str,
    shape: tuple[int, ...],
    kinks: list[float],
    *slopes: float,
    value: float = 0,
) -> str:
    arrays = {"kinks": np.array(kinks, float), "slopes": np.array(slopes), "value": np.array(float(value))}
    return network.add("piecewise", (of,), shape, arrays)


def impossible(network: CheckedNetwork, clause: Clause, *, relational: bool = False) -> bool:
    low, high = (np.array([float(side[k]) for side in clause.box.sides]) for k in (0, 1))
    return Exact(network).impossible(clause, low, high, relational=relational)


AREA = box((-1, 2), (0, 3))


@pytest.mark.parametrize("strict", [True, False])
def test_an_affine_form_is_settled_at_its_least(strict: bool) -> None:
    """2 (x0 − 3 x1 + 1) + (x1 / 2 − 2) is least at (−1, 3): −16.5 − 2 … exactly."""
    network = CheckedNetwork((2,))
    affine(network, [[1, -3], [0, 0.5]], [1, -2], network.input)
    least = 2 * (Fraction(-1) - 9 + 1) + Fraction(3, 2) - 2
    for bound, settled in ((least - TINY, True), (least, strict), (least + TINY, False)):
        assert impossible(network, Clause(AREA, (below(bound, 2, 1, strict=strict),))) == settled
    greatest = 2 * (Fraction(2) + 1) - 2
    for bound, settled in ((-greatest - TINY, True), (-greatest, strict), (-greatest + TINY, False)):
        assert impossible(network, Clause(AREA, (below(bound, -2, -1, strict=strict),))) == settled
    assert impossible(network, Clause(AREA, (below(99, 1), below(least - 1, 2, 1)))), (
        "one constraint is enough"
    )


def test_parts_of_a_box_are_met_with_it() -> None:
    network = CheckedNetwork((1,))
    affine(network, [[1]], [0], network.input)
    found = Exact(network)

    def settled(low: float, high: float, bound: Any) -> bool:
        clause = Clause(box((Fraction(1, 3), Fraction(2, 3))), (below(bound, 1),))
        return found.impossible(clause, np.array([low]), np.array([high]), relational=False)

    third = Fraction(1, 3)
    assert settled(0.0, 1.0, third - TINY) and not settled(0.0, 1.0, third)
    assert settled(0.5, 1.0, Fraction(1, 2) - TINY) and not settled(0.5, 1.0, Fraction(1, 2))
    assert not settled(0.5, 0.5, Fraction(1, 2)) and settled(0.75, 1.0, 99), "no input is left"
    assert settled(0.0, 0.25, 99) and not settled(0.0, 0.5, 99)


def test_inputs_stand_behind_the_outputs() -> None:
    """The network gives (3 x0, x0, x1): Y_0 − 2 X_0 + X_1 is least at (−1, 0)."""
    network = CheckedNetwork((2,))
    affine(network, [[3, 0], [1, 0], [0, 1]], [0, 0, 0], network.input)
    clause = Clause(AREA, (below(-1, 1, inputs=(-2, 1), strict=True),))
    assert impossible(network, clause, relational=True)
    assert not impossible(network, Clause(AREA, (below(-1, 1, inputs=(-2, 1)),)), relational=True)
    assert not impossible(network, Clause(AREA, (below(-1 + TINY, 1, inputs=(-2, 1)),)), relational=True)


def excess(network: CheckedNetwork, area: Box, constraint: Constraint) -> list[Fraction]:
    found = Exact(network)
    ends = tuple(exact._array([side[k] for side in area.sides]).reshape(1, -1) for k in (0, 1))
    return list(found._excess(constraint, found._boxes((ends[0], ends[1])), 0))


def test_a_unit_that_bends_has_three_lower_planes() -> None:
    """relu on [−1, 3]: above the chord 3/4 (x + 1), below planes of slope 3/4, 0 and 1 through 0."""
    network = CheckedNetwork((1,))
    bent(network, network.input, (1,), [0.0], 0.0, 1.0)
    area = box((-1, 3))
    assert excess(network, area, below(0, 1)) == [Fraction(-3, 4), 0, -1]
    assert excess(network, area, below(Fraction(1, 7), 1)) == [
        v - Fraction(1, 7) for v in (Fraction(-3, 4), 0, -1)
    ]
    assert excess(network, area, below(0, -1)) == [-3, -3, -3]
    assert excess(network, area, below(0, 4)) == [-3, 0, -4]
    assert excess(network, box((1, 3)), below(0, 1)) == [1, 1, 1], "it does not bend"
    assert excess(network, box((-3, -1)), below(0, 1)) == [0, 0, 0]
    assert (
        excess(network, box((0, 3)), below(0, 1)) == [0, 0, 0]
        and excess(network, box((-3, 0)), below(0, -1)) == [0] * 3
    )
    assert excess(network, box((2, 2)), below(0, -1)) == [-2, -2, -2], "a point"


def test_what_cancels_along_two_ways_cancels_exactly() -> None:
    """relu(x) − relu(x) + relu(x / 3), and x − x of a residual."""
    network = CheckedNetwork((1,))
    up = bent(network, affine(network, [[0.1]], [0.3], network.input), (1,), [0.0], 0.0, 1.0)
    down = affine(network, [[-1]], [0], up)
    network.add("add", (up, down), (1,), {})
    assert excess(network, box((-9, 9)), below(0, 1)) == [0, 0, 0]
    network = CheckedNetwork((2,))
    picked = network.add("select", (network.input,), (3,), {"index": np.array([1, -1, 0])})
    network.add("add", (picked, picked), (3,), {})
    assert excess(network, AREA, below(0, 1, 5, 1)) == [-2, -2, -2]
    assert excess(network, AREA, below(0, -1, 5, -1)) == [-10, -10, -10]


def test_curves_and_maxima_are_bounded_by_their_intervals() -> None:
    network = CheckedNetwork((2,))
    network.add("sigmoid", (network.input,), (2,), {})
    assert excess(network, AREA, below(0, 1, -2)) == [-2] * 3
    network = CheckedNetwork((2,))
    network.add("tanh", (network.input,), (2,), {})
    assert excess(network, AREA, below(0, 1, -2)) == [-3] * 3
    network = CheckedNetwork((2,))
    network.add("max", (network.input,), (2,), {"index": np.array([[0, 1], [0, -1]])})
    assert (
        excess(network, AREA, below(0, 1, 1)) == [-1] * 3
        and excess(network, AREA, below(0, -1, -1)) == [-5] * 3
    )


def interval(
    network: CheckedNetwork, name: str, *operands: tuple[list[Any], list[Any]]
) -> list[list[Fraction]]:
    ends = [(fraction(*low)[None], fraction(*high)[None]) for low, high in operands]
    return [side[0].tolist() for side in _interval(network.nodes[name], ends)]


def test_intervals_of_each_operator() -> None:
    network, one, two = CheckedNetwork((2,)), ([-1, 0], [2, 3]), ([5, 6], [7, 8])
    name = affine(network, [[1, -3], [0, 0.5]], [1, -2], network.input)
    assert interval(network, name, one) == [[-9, -2], [3, Fraction(-1, 2)]]
    name = network.add("add", (network.input, name), (2,), {})
    assert interval(network, name, one, two) == [[4, 6], [9, 11]]
    name = network.add("select", (network.input,), (3,), {"index": np.array([1, -1, 0])})
    assert interval(network, name, one) == [[0, 0, -1], [3, 0, 2]]
    scale = {"gamma": -2.0, "mean": 1.0, "divisor": 1.0, "variance": 1.0, "eps": 0.0, "beta": 0.5}
    name = network.add("scale", (network.input,), (2,), {k: np.array([v]) for k, v in scale.items()})
    half = Fraction(1, 2)
    assert interval(network, name, one) == [[-2 + half, -4 + half], [4 + half, 2 + half]]
    name = network.add("tanh", (network.input,), (2,), {})
    assert interval(network, name, one) == [[-1, -1], [1, 1]]
    name = network.add("sigmoid", (network.input,), (2,), {})
    assert interval(network, name, one) == [[0, 0], [1, 1]]
    name = network.add("max", (network.input,), (2,), {"index": np.array([[0, 1], [0, -1]])})
    assert interval(network, name, one) == [[0, -1], [3, 2]]
    name = bent(network, network.input, (2,), [0.0], -1.0, 1.0)
    assert interval(network, name, one) == [[0, 0], [2, 3]], "the absolute value, least at its kink"
    name = bent(network, network.input, (2,), [0.5, 1.0], 0.0, -2.0, 0.25, value=3.0)
    assert interval(network, name, one) == [[2, 2], [3, 3]]


def test_piecewise_linear_functions_in_numbers() -> None:
    network = CheckedNetwork((1,))
    node = network.nodes[bent(network, network.input, (1,), [0.5, 1.0, 4.0], 1.0, -2.0, 0.25, 0.0, value=3.0)]
    x = fraction(-1, Fraction(1, 2), Fraction(3, 4), 1, 3, 9)
    assert _value(node, x).tolist() == [Fraction(3, 2), 3, Fraction(5, 2), 2, Fraction(5, 2), Fraction(11, 4)]


def test_planes_hold_at_every_corner() -> None:
    """Hard tanh on [−2, 3]: the chord above and below; the least slope 0 where it bends, its own where it does not."""
    network = CheckedNetwork((3,))
    node = network.nodes[bent(network, network.input, (3,), [-1.0, 1.0], 0.0, 1.0, 0.0, value=-1.0)]
    ends = fraction(-2, -2, -Fraction(1, 2))[None], fraction(3, 3, Fraction(1, 2))[None]
    coef = fraction(1, -1, 1)[None]
    slope, offset = _planes(node, ends, coef, "chord")
    chord = Fraction(2, 5)
    assert slope[0].tolist() == [chord, chord, 1]
    rests = (-1 + 2 * chord, -1 + chord, 1 - chord, 1 - 3 * chord)
    assert offset[0].tolist() == [min(rests), max(rests), 0]
    slope, offset = _planes(node, ends, coef, "least")
    assert slope[0].tolist() == [0, chord, 1] and offset[0].tolist() == [-1, 1 - chord, 0]
    slope, offset = _planes(node, ends, coef, "greatest")
    assert slope[0].tolist() == [1, chord, 1] and offset[0].tolist() == [-2, 1 - chord, 0]


# The cases below are about a network that was traced.


def dense(*, norm: nn.Module | None = None, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers = [nn.Linear(2, 2), *([] if norm is None else [norm]), act(), nn.Linear(2, 1)]
    network = nn.Sequential(*layers).requires_grad_(False).eval()
    for layer in (network[0], network[-1]):
        layer.weight.copy_(torch.tensor([[1.0, -1], [0.5, 2]])[: layer.out_features])
        layer.bias.fill_(0.25)
    return network


def strictly(strict: bool = True, bound: float = -9.0) -> Property:
    plain = Clause(box((0, 1), (0, 1)), (below(-9, 1),))
    return Property(2, 1, (plain, Clause(box((0, 1), (0, 1)), (below(bound, 1, strict=strict), below(9, 1)))))


def test_only_strict_clauses_are_settled() -> None:
    traced = network_of(dense(), (2,))
    assert equal_bounds(traced, strictly(False)) is None
    settled = equal_bounds(traced, strictly())
    assert settled is not None
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert not settled(0, zero, one) and settled(1, zero, one)
    # at (1, 1) the output is 1/4 − 11/4 + 1/4
    at_least = equal_bounds(traced, strictly(bound=-2.25 + 1e-9))
    assert at_least is not None and not at_least(1, zero, one)


def test_networks_that_are_large_or_rounded_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = network_of(dense(), (2,))
    assert exact.LARGEST == 100_000
    size = 4 + 2 + 2 + 1 + 2 + 2 + 1
    monkeypatch.setattr(exact, "LARGEST", size)
    assert exact._exact(traced) is not None
    monkeypatch.setattr(exact, "LARGEST", size - 1)
    assert exact._exact(traced) is None
    monkeypatch.setattr(exact, "LARGEST", 100)
    assert exact._exact(network_of(dense(act=nn.GELU), (2,))) is None
    norm = nn.BatchNorm1d(2, affine=False)
    assert exact._exact(network_of(dense(norm=norm), (2,))) is None
