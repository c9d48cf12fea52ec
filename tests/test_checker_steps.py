"""Each step of the checker against fractions: what it returns is exact in integers, and never too much in float64."""

from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from certnas.checker import (
    Certificate,
    CertificatePart,
    CheckedNetwork,
    ClaimedPlane,
    IntervalClaim,
    Known,
    Planes,
    Refutation,
    Rejected,
    check,
)
from certnas.checker import numbers as arithmetics
from certnas.checker.curves import Line, _mirrored, _of_tanh, _real, curve_between
from certnas.checker.forms import LinearForms
from certnas.checker.network import evaluate, gather, pull, push, scatter
from certnas.checker.numbers import LARGE, TINY, Arithmetic, Numbers, dyadic, lowered
from certnas.checker.parts import _clauses_form, claimed, half
from certnas.checker.region import CheckedRegion
from certnas.checker.relaxations import corners, greatest, sandwiched, value
from certnas.checker.scaling import scaling

BOTH = pytest.mark.parametrize("exact", [False, True])
HALF_ULP = 2.0**-54
"""Added to or taken from 1, it is rounded away."""


def fractions(numbers: Numbers) -> list[Fraction]:
    return [Fraction(n) / 2**numbers.k for n in numbers.n.reshape(-1).tolist()]


def area(x: np.ndarray, eps: float = 0.0, norm: str = "linf", box: Any = None, **more: Any) -> Certificate:
    """A ball round x, its box that of all."""
    nothing = np.zeros((1, 1))
    sides = (x - eps, x + eps) if box is None else box
    return replace(Certificate("", norm, x, eps, sides, nothing, nothing, (), {}, {}), **more)


def known(network: CheckedNetwork, certificate: Certificate, exact: bool = False) -> Known:
    return Known.of(replace(certificate, network=network.output), network, Arithmetic(exact))


# Numbers


def test_numbers_over_different_powers_are_compared_and_added_as_fractions() -> None:
    a, b = Numbers(np.array([3, -5, 8], dtype=object), 3), Numbers(np.array([1, -2, 2], dtype=object), 1)
    p, q = [Fraction(3, 8), Fraction(-5, 8), Fraction(1)], [Fraction(1, 2), Fraction(-1), Fraction(1)]
    pairs = list(zip(p, q, strict=True))
    assert fractions(a) == p and fractions(b) == q
    assert fractions(a + b) == [x + y for x, y in pairs] and fractions(a - b) == [x - y for x, y in pairs]
    assert fractions(a * b) == [x * y for x, y in pairs]
    assert fractions(a.maximum(b)) == fractions(b.maximum(a)) == [max(pair) for pair in pairs]
    assert fractions(a.minimum(b)) == fractions(b.minimum(a)) == [min(pair) for pair in pairs]
    assert (a >= b).tolist() == [x >= y for x, y in pairs] and (b >= a).tolist() == [y >= x for x, y in pairs]
    assert fractions(a.positive()) == [max(x, 0) for x in p]
    assert fractions(a.negative()) == [min(x, 0) for x in p] and fractions(abs(a)) == [abs(x) for x in p]
    assert fractions(a.at(slice(1, None))) == p[1:] and fractions(a.at(0)) == p[:1]
    grid = Numbers(np.arange(12).astype(object).reshape(2, 3, 2), 1)
    assert fractions(grid.total()) == [Fraction(15, 2), Fraction(51, 2)]


def test_integers_are_rounded_down_and_up_to_float64() -> None:
    whole = Numbers(np.array([2**53 + 1, -(2**53) - 1, 6, 2**60 + 2**7], dtype=object), 1)
    assert whole.down().tolist() == [2.0**52, -(2.0**52) - 1, 3.0, 2.0**59]
    assert whole.up().tolist() == [2.0**52 + 1, -(2.0**52), 3.0, 2.0**59 + 2**7]


def test_dyadic_numbers_need_no_more_bits_than_the_floats() -> None:
    for values in ([0.0], [3.0, -0.0], [0.75, 8.0], [2.0**-1074, -1.0], [2.0**1023]):
        found = dyadic(np.array(values))
        truth = [Fraction(v) for v in values]
        assert fractions(found) == truth
        assert 2**found.k == max(t.denominator for t in truth)
    for bad in (np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError):
            dyadic(np.array([1.0, bad]))


def test_the_margin_of_rounding_holds_for_very_long_sums_and_underflow() -> None:
    for terms in (1, 3, 2**20, 2**51, 2**52):
        unit = terms * Fraction(1, 2**53)
        found = Fraction(float(lowered(np.array([0.0]), terms, np.array([1.0]))[0]))
        assert unit / (1 - unit) <= -found <= Fraction(101, 100) * unit / (1 - unit) + Fraction(TINY)
    assert lowered(np.zeros(1), 1, np.zeros(1))[0] <= -TINY
    assert lowered(np.ones(1), 0, np.zeros(1))[0] == np.nextafter(1, 0)
    assert Fraction(2) ** (50 - 1074) * Fraction(LARGE) <= Fraction(TINY) <= Fraction(2) ** -800


def test_spare_multiplies_the_margin() -> None:
    once, four = (Arithmetic(False, spare).lowered(np.zeros(1), 1000, np.ones(1))[0] for spare in (1, 4))
    assert four / once == pytest.approx(4, rel=1e-9)
    assert Arithmetic(False).lowered(np.zeros(1), 9, np.ones(1)) == lowered(np.zeros(1), 9, np.ones(1))


# Normalisation


@pytest.mark.parametrize(
    "given",
    [
        (1.5, 0.25, 2.0, 0.3, 1e-5, -0.7),
        (-0.1, 3.0, 1.0, 1e-30, 0.0, 0.1),
        (0.1, -3.0, -7.0, 1e30, 1e-5, 0.0),
        (0.3, 0.7, 0.9, 1.0, 0.0, 0.2),
        (0.0, 0.5, 1.0, 2.0, 0.5, 0.25),
    ],
)
def test_normalisation_is_off_by_no_more_than_is_said(given: tuple[float, ...]) -> None:
    """|w − W| ≤ δ for W = γ / (d √v): W² v d² = γ² decides on which side of w ± δ it lies."""
    gamma, mean, divisor, variance, eps, beta = map(Fraction, given)
    found = scaling(*given)
    square, slope = (variance + eps) * divisor**2, gamma / divisor
    weight, error = Fraction(found.weight), Fraction(found.weight_error)
    near, far = sorted((abs(weight) - error, abs(weight) + error))
    assert near**2 * square <= gamma**2 <= far**2 * square or (near < 0 and gamma**2 <= far**2 * square)
    assert weight == 0 or (weight > 0) == (slope > 0)
    assert error <= abs(weight) * Fraction(1, 2**50)
    low, high = sorted(beta - mean * (weight + sign * error) for sign in (-1, 1))
    bias, bias_error = Fraction(found.bias), Fraction(found.bias_error)
    assert bias - bias_error <= high and low <= bias + bias_error
    assert bias_error <= (abs(beta) + abs(mean * weight)) * Fraction(1, 2**48)
    if variance + eps == 1:
        assert abs(weight - slope) <= error and abs(bias - (beta - mean * slope)) <= bias_error


def test_exact_normalisations_have_no_error() -> None:
    assert scaling(3.0, 0.5, 2.0, 0.75, 0.25, 1.0) == (1.5, 0.25, 0.0, 0.0)
    rounded = scaling(1.0, 0.0, 3.0, 1.0, 0.0, 0.0)
    assert Fraction(rounded.weight_error) >= abs(Fraction(1, 3) - Fraction(rounded.weight)) > 0
    assert rounded.bias_error == 0.0
    third = scaling(1.0, 1.0, 3.0, 1.0, 0.0, 0.0)
    assert Fraction(third.bias_error) >= abs(Fraction(-1, 3) - Fraction(third.bias)) > 0


# The network


def grouped() -> tuple[CheckedNetwork, str]:
    """weight [2, 2, 3] on [6, 2]: two groups."""
    network = CheckedNetwork((6, 2))
    weight = np.arange(12.0).reshape(2, 2, 3) - 5
    bias = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    return network, network.add("linear", (network.input,), (4, 2), {"weight": weight, "bias": bias})


def test_grouped_linear_maps_and_their_transposes() -> None:
    network, name = grouped()
    node = network.nodes[name]
    x = np.arange(12.0).reshape(1, 6, 2)
    weight = node.affine.weight
    assert weight is not None and node.affine.bias is not None
    dense = np.zeros((4, 6))
    dense[:2, :3], dense[2:, 3:] = weight[0], weight[1]
    assert np.array_equal(push(node, [x], weight)[0], dense @ x[0])
    assert np.array_equal(evaluate(network, x[0]), dense @ x[0] + np.array([[1.0], [2], [3], [4]]))
    coef = np.arange(16.0).reshape(2, 4, 2)
    (pulled,) = pull(node, coef, weight, [(6, 2)])
    assert np.array_equal(pulled, np.einsum("boc,oi->bic", coef, dense))
    assert node.terms == 3 and node.affine.bias.shape == (1, 4, 2)


def test_indices_read_zero_for_padding_and_add_up_where_they_repeat() -> None:
    network = CheckedNetwork((4,))
    index = np.array([[3, 0, -1], [0, 0, 2]])
    node = network.nodes[network.add("select", (network.input,), (2, 3), {"index": index})]
    x, coef = np.array([[10.0, 20, 30, 40]]), np.array([[[1.0, 2, 4], [8, 16, 32]]])
    assert gather(x, index).tolist() == [[[40, 10, 0], [10, 10, 30]]]
    assert scatter(coef, node, (4,)).tolist() == [[26, 0, 32, 1]]
    assert pull(node, coef, None, [(4,)])[0].tolist() == [[26, 0, 32, 1]]
    assert len(node.layers) == 3 and node.terms == 3
    once = network.nodes[network.add("select", (network.input,), (2,), {"index": np.array([2, 1])})]
    assert len(once.layers) == 1 and once.terms == 1
    assert all(len(set(elements.tolist())) == len(elements) for _, elements in node.layers)


@pytest.mark.parametrize("change", ["op", "shape", "weight", "bias", "operand", "array's shape"])
def test_an_id_is_that_of_all_that_a_node_computes(change: str) -> None:
    """The digest differs where one number, one shape or one operand does; the same computation is one node."""
    network = CheckedNetwork((2,))
    one = {"weight": np.ones((1, 2, 2)), "bias": np.zeros((1, 2, 1))}
    first = network.add("linear", (network.input,), (2,), one)
    assert network.add("linear", (network.input,), (2,), one) == first and len(network.nodes) == 2
    other = {
        "op": lambda: network.add("select", (network.input,), (2,), one),
        "shape": lambda: network.add("linear", (network.input,), (2, 1), one),
        "weight": lambda: network.add("linear", (network.input,), (2,), one | {"weight": np.eye(2)[None]}),
        "bias": lambda: network.add("linear", (network.input,), (2,), one | {"bias": np.ones((1, 2, 1))}),
        "operand": lambda: network.add("linear", (first,), (2,), one),
        "array's shape": lambda: network.add(
            "linear", (network.input,), (2,), one | {"bias": np.zeros((2, 1, 1))}
        ),
    }[change]()
    assert other != first and network.output == other


def test_every_operator_evaluates_to_its_function() -> None:
    x = np.array([-2.0, -0.25, 0.5, 3.0])
    hardtanh = {
        "kinks": np.array([-1.0, 1.0]),
        "slopes": np.array([0.0, 1.0, 0.0]),
        "value": np.full((), -1.0),
    }
    columns = {"gamma": 3.0, "mean": 0.5, "divisor": 2.0, "variance": 0.75, "eps": 0.25, "beta": 1.0}
    cases: list[tuple[str, dict[str, np.ndarray], np.ndarray]] = [
        ("piecewise", hardtanh, np.clip(x, -1, 1)),
        ("sigmoid", {}, 1 / (1 + np.exp(-x))),
        ("tanh", {}, np.tanh(x)),
        ("max", {"index": np.array([[0, 1], [3, -1], [2, 0], [0, 0]])}, np.array([-0.25, 3.0, 0.5, -2.0])),
        ("select", {"index": np.array([3, -1, 0, 0])}, np.array([3.0, 0, -2, -2])),
        ("scale", {name: np.full(1, v) for name, v in columns.items()}, 3 * (x - 0.5) / 2 + 1),
    ]
    for op, arrays, truth in cases:
        network = CheckedNetwork((4,))
        network.add(op, (network.input,), (4,), arrays)
        assert evaluate(network, x) == pytest.approx(truth, abs=1e-15), op
        low, high = known(network, area(x)).boxes.of(network.output)
        assert (low <= truth + 1e-15).all() and (truth - 1e-15 <= high).all() and (high - low < 1e-14).all()
    network = CheckedNetwork((4,))
    network.add("add", (network.input,) * 3, (4,), {})
    assert evaluate(network, x).tolist() == (3 * x).tolist()


# Boxes


def test_boxes_hold_sums_of_many_operands() -> None:
    """1 and many 2⁻⁵⁴, one operand each: the margin grows with the number of operands."""
    count = 400
    network = CheckedNetwork((2,))
    first, tiny = (
        network.add("select", (network.input,), (1,), {"index": np.array([index])}) for index in (0, 1)
    )
    network.add("add", (first, *[tiny] * count), (1,), {})
    for sign in (1.0, -1.0, 2.0**60, -(2.0**60)):
        low, high = known(network, area(sign * np.array([1.0, HALF_ULP]))).boxes.of(network.output)
        truth = int(sign) * (1 + count * Fraction(HALF_ULP))
        assert Fraction(float(low[0, 0])) <= truth <= Fraction(float(high[0, 0]))
        assert high[0, 0] - low[0, 0] < 1e-11 * abs(sign)


def test_weights_of_both_signs_take_the_right_ends() -> None:
    network = CheckedNetwork((2,))
    arrays = {"weight": np.array([[[2.0, -3.0]]]), "bias": np.full((1, 1, 1), 0.5)}
    name = network.add("linear", (network.input,), (1,), arrays)
    boxes = known(network, area(np.zeros(2), box=(np.array([-1.0, -2]), np.array([4.0, 5])))).boxes
    low, high = boxes.of(name)
    assert low[0, 0] == pytest.approx(-16.5, abs=1e-13) and low[0, 0] < -16.5
    assert high[0, 0] == pytest.approx(14.5, abs=1e-13) and high[0, 0] > 14.5
    assert boxes.most(name)[0, 0] == -low[0, 0]
    assert boxes.size(network.nodes[name]).tolist() == [[2 * 4 + 3 * 5]]
    assert boxes.unsure(network.nodes[name]).tolist() == [[0]]
    claimed_ = boxes.claiming(name, (np.full((1, 1), -1.0), np.full((1, 1), 2.0)))
    assert claimed_.of(name)[0].tolist() == [[-1]] and boxes.of(name)[0][0, 0] < -16


def test_values_beyond_what_the_arithmetic_is_proved_for_are_rejected() -> None:
    for weight, holds in ((2.0**99, True), (2.0**101, False), (-(2.0**101), False)):
        network = CheckedNetwork((1,))
        arrays = {"weight": np.full((1, 1, 1), weight), "bias": np.zeros((1, 1, 1))}
        name = network.add("linear", (network.input,), (1,), arrays)
        boxes = known(network, area(np.ones(1))).boxes
        if holds:
            assert boxes.of(name)[0][0, 0] < weight < boxes.of(name)[1][0, 0]
        else:
            with pytest.raises(Rejected, match=r"values of a linear grow beyond 2\^100"):
                boxes.of(name)


def test_the_greatest_of_a_window_is_of_its_own_places() -> None:
    network = CheckedNetwork((2,))
    network.add("max", (network.input,), (2,), {"index": np.array([[0, 1], [1, -1]])})
    low, high = known(network, area(np.array([5.0, -1.0]), 0.5)).boxes.of(network.output)
    assert low.tolist() == [[4.5, -1.5]] and high.tolist() == [[5.5, -0.5]]
    windows = np.array([[-3.0, -1.0, 5.0], [2.0, 7.0, 0.0]])
    inside = np.array([[True, True, False], [True, False, False]])
    assert greatest(windows, inside).tolist() == [-1, 2] and greatest(windows, inside | True).tolist() == [
        5,
        7,
    ]


# Forms: what float64 rounds away is paid for


def ends(weight: np.ndarray) -> Fraction:
    return sum((Fraction(v) for v in weight.reshape(-1).tolist()), Fraction(0))


def once_and_many(count: int) -> np.ndarray:
    return np.array([1.0, *[-HALF_ULP] * count])


@BOTH
def test_the_product_of_a_row_and_a_matrix_is_paid_for(exact: bool) -> None:
    count = 1 << 13
    network = CheckedNetwork((1,))
    arrays = {"weight": np.ones((1, count + 1, 1)), "bias": np.zeros((1, count + 1, 1))}
    name = network.add("linear", (network.input,), (count + 1,), arrays)
    form = LinearForms(known(network, area(np.ones(1)), exact), Arithmetic(exact).read(np.zeros(1)))
    form.add(name, Arithmetic(exact).read(once_and_many(count)[None]))
    (found,) = fractions(form.lower_bound({}, ""))
    truth = ends(once_and_many(count))
    assert found == truth if exact else truth - Fraction(1, 10**11) < found <= truth


@BOTH
def test_windows_that_share_an_element_are_paid_for(exact: bool) -> None:
    count = 300
    network = CheckedNetwork((1,))
    arrays = {"index": np.zeros((count + 1, 1), dtype=int)}
    name = network.add("max", (network.input,), (count + 1,), arrays)
    same = ClaimedPlane(np.ones((1, count + 1, 1)), np.zeros((1, count + 1)))
    given = area(np.ones(1), planes={"p": Planes(same, same)})
    form = LinearForms(known(network, given, exact), Arithmetic(exact).read(np.zeros(1)))
    form.add(name, Arithmetic(exact).read(once_and_many(count)[None]))
    (found,) = fractions(form.lower_bound({name: "p"}, ""))
    truth = ends(once_and_many(count))
    assert found == truth if exact else truth - Fraction(1, 10**11) < found <= truth


@BOTH
def test_coefficients_that_are_added_up_are_paid_for(exact: bool) -> None:
    count = 200
    network = CheckedNetwork((1,))
    read = Arithmetic(exact).read
    form = LinearForms(known(network, area(np.ones(1)), exact), read(np.zeros(1)))
    for coef in once_and_many(count).tolist():
        form.add(network.input, read(np.full((1, 1), coef)))
    (found,) = fractions(form.lower_bound({}, ""))
    truth = ends(once_and_many(count))
    assert found == truth if exact else truth - Fraction(1, 10**11) < found <= truth


@BOTH
def test_shares_of_many_constraints_are_paid_for(exact: bool) -> None:
    count = 500
    network = CheckedNetwork((2,))
    rows = np.ones((1, count + 1, 2)) * [1.0, 0.0]
    rows[0, 1:] *= -1
    given = Refutation((0,), np.abs(once_and_many(count))[None], np.ones(1), {}, np.zeros((1, 0)))
    made = area(np.ones(2), rows=rows, offsets=np.zeros((1, count + 1)))
    form = _clauses_form(known(network, made, exact), given)
    (found,) = fractions(form.lower_bound({}, ""))
    truth = ends(once_and_many(count))
    assert found == truth if exact else truth - Fraction(1, 10**11) < found <= truth


def test_what_the_split_of_a_form_rounds_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """coef − b is rounded in every unit, and each unit moves as far as the ball lets it."""
    count = 1000
    monkeypatch.setattr(CheckedRegion, "_limit", lambda self, coef: np.full(coef.shape, HALF_ULP))
    region = CheckedRegion.of(area(np.zeros(count), 1.0, "l1"), Arithmetic(False))
    for sign in (1.0, -1.0):
        coef = np.full((1, count), sign)  # coef − b is ±(1 − 2⁻⁵⁴), rounded to ±1 or to ±(1 − 2⁻⁵³)
        (found,) = fractions(region.minimum(Arithmetic(False).read(coef)))
        assert found <= -count * (1 - Fraction(HALF_ULP)) - Fraction(HALF_ULP)
    monkeypatch.setattr(CheckedRegion, "_limit", lambda self, coef: np.full(coef.shape, 3 * HALF_ULP / 2))
    region = CheckedRegion.of(area(np.zeros(count), 1.0, "l1"), Arithmetic(False))
    (found,) = fractions(region.minimum(Arithmetic(False).read(np.ones((1, count)))))
    assert found <= -count * (1 - Fraction(HALF_ULP) * 3 / 2) - Fraction(HALF_ULP)


@BOTH
def test_forms_go_through_every_operator_to_the_input(exact: bool) -> None:
    """2·relu(a) − relu(b) − 3·max(a, b), a scale, twice the input: with planes that are exact, all is exact."""
    network = CheckedNetwork((2,))
    scale = {"gamma": 3.0, "mean": 0.5, "divisor": 2.0, "variance": 1.0, "eps": 0.0, "beta": 1.0}
    scaled = network.add("scale", (network.input,), (2,), {n: np.full(1, v) for n, v in scale.items()})
    bent = network.add(
        "piecewise",
        (scaled,),
        (2,),
        {"kinks": np.zeros(1), "slopes": np.array([0.0, 1.0]), "value": np.zeros(())},
    )
    top = network.add("max", (scaled,), (1,), {"index": np.array([[0, 1, -1]])})
    twice = network.add("add", (network.input, network.input), (2,), {})
    moved = network.add("select", (twice,), (2,), {"index": np.array([1, 0])})
    network.add("tanh", (scaled,), (2,), {})  # nothing reads it
    x = np.array([1.0, -2.0])  # scaled: 1.75, −2.75
    line = ClaimedPlane(np.array([[1.0, 0.0]]), np.zeros((1, 2)))
    first = ClaimedPlane(np.array([[[1.0, 0.0, 0.0]]]), np.zeros((1, 1)))
    given = area(x, 0.25, planes={"bent": Planes(line, line), "top": Planes(first, first)})
    read = Arithmetic(exact).read
    form = LinearForms(known(network, given, exact), read(np.array([0.5])))
    form.add(bent, read(np.array([[2.0, -1.0]])))
    form.add(top, read(np.array([[-3.0]])))
    form.add(moved, read(np.array([[5.0, -7.0]])))
    form.add_constant(read(np.array([0.25])))
    (found,) = fractions(form.lower_bound({bent: "bent", top: "top"}, "here"))
    # scaled = 1.5 x + 0.25: (2 − 3)(1.5 x₀ + 0.25) + 10 x₁ − 14 x₀ + 0.75, with |x − (1, −2)| ≤ 1/4
    truth = Fraction(-31, 2) * 1 + 10 * -2 + Fraction(1, 2) - Fraction(51, 2) / 4
    assert found == truth if exact else truth - Fraction(1, 10**11) < found < truth


# Regions


@BOTH
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_region_is_ball_and_box(norm: str, exact: bool) -> None:
    x = np.array([0.5, 0.25])
    given = area(x, 0.5, norm, (np.array([0.25, -9]), np.array([9, 0.5])))
    region = CheckedRegion.of(given, Arithmetic(exact))
    down, up = fractions(region.down), fractions(region.up)
    truth = [Fraction(-1, 4), Fraction(-1, 2)], [Fraction(1, 2), Fraction(1, 4)]
    if exact:
        assert (down, up) == truth
    else:
        assert all(d <= t for d, t in zip(down, truth[0], strict=True)) and down[1] == truth[0][1]
        assert all(u >= t for u, t in zip(up, truth[1], strict=True)) and up[0] == truth[1][0]
    for bad in (replace(given, norm="l3"), replace(given, eps=-0.5), replace(given, eps=np.nan)):
        with pytest.raises(ValueError, match="no ball of norm"):
            CheckedRegion.of(bad, Arithmetic(exact))


@BOTH
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_minima_where_box_and_ball_bind_together(norm: str, exact: bool) -> None:
    """Against a fine grid of the region in two dimensions, from above and below."""
    x, eps, coef = np.zeros(2), 1.0, np.array([[3.0, 1.0], [-1.0, 2.0], [0.0, -1.0]])
    given = area(x, eps, norm, (np.array([-0.25, -1.0]), np.array([1.0, 0.5])))
    region = CheckedRegion.of(given, Arithmetic(exact))
    found = np.array([float(v) for v in fractions(region.minimum(Arithmetic(exact).read(coef)))])
    grid = np.array(list(product(np.linspace(-0.25, 1, 401), np.linspace(-1, 0.5, 401))))
    inside = np.linalg.norm(grid, 1 if norm == "l1" else 2, axis=1) <= eps
    best = (grid[inside] @ coef.T).min(0)
    assert (found <= best + 1e-12).all() and (found >= best - 0.02).all()


# Curves


def test_tanh_and_lower_planes_become_upper_planes_of_the_sigmoid() -> None:
    """s·x + t − tanh(x) = 2 (s'·y + t' − σ(y)) at y = 2x, and s·x + t − σ(x) is −(s·y + t' − σ(y)) at y = −x."""
    line = Line(Fraction(3, 7), Fraction(-1, 5), Fraction(-2), Fraction(9, 4))
    changed = _of_tanh(line)
    assert (changed.low, changed.high) == (2 * line.low, 2 * line.high)
    for x in (line.low, Fraction(1, 3), line.high):
        assert line.slope * x + line.bias + 1 == 2 * (changed.slope * 2 * x + changed.bias)
    mirrored = _mirrored(line)
    assert (mirrored.low, mirrored.high) == (-line.high, -line.low)
    for x in (line.low, Fraction(1, 3), line.high):
        assert line.slope * x + line.bias == 1 - (mirrored.slope * -x + mirrored.bias)


@pytest.mark.parametrize("at", [1.0, 2.0, 3.5])
def test_tangents_are_judged_by_where_they_touch(at: float) -> None:
    """The tangent at a point is above σ by nothing there: a little less of it fails where the point is inside."""
    top = 1 / (1 + np.exp(-at))
    slope = top * (1 - top)
    tangent = top - at * slope

    def accepted(bias: float, low: float, high: float) -> bool:
        plane = ClaimedPlane(np.full((1, 1), slope), np.full((1, 1), bias))
        under = ClaimedPlane(np.zeros((1, 1)), np.zeros((1, 1)))
        return curve_between(False, Planes(under, plane), np.array([low]), np.array([high]))

    assert accepted(tangent + 1e-12, 0.0, 9.0) and not accepted(tangent - 1e-12, 0.0, 9.0)
    assert not accepted(tangent - 1e-12, at - 0.5, at + 0.1) and not accepted(tangent - 1e-12, at - 0.1, 9.0)
    assert accepted(tangent - 1e-5, at + 0.5, 9.0) and accepted(tangent - 1e-5, 0.0, at - 0.5)
    assert not accepted(tangent - 1e-5, at - 1e-3, at - 1e-4)
    assert not accepted(tangent - 1e-5, at + 1e-4, at + 1e-3)


def test_enclosures_of_rationals_hold_them() -> None:
    for q in (Fraction(1, 3), Fraction(2**200 + 1), Fraction(-(2**150) - 1, 7), Fraction(1, 2**1074)):
        low, high = (
            Fraction((-1) ** sign * int(whole)) * Fraction(2) ** power
            for sign, whole, power, _ in _real(q)._mpi_
        )
        assert low <= q <= high and high - low <= abs(q) / 2**95


# Piecewise linear functions


def test_piecewise_functions_at_and_between_their_kinks() -> None:
    network = CheckedNetwork((1,))
    arrays = {"kinks": np.array([-1.0, 2.0]), "slopes": np.array([0.5, -2.0, 3.0]), "value": np.full((), 4.0)}
    node = network.nodes[network.add("piecewise", (network.input,), (1,), arrays)]
    truth = {-3: 3, -1: 4, 0: 2, 2: -2, 4: 4}
    for x, y in truth.items():
        assert fractions(value(node, dyadic(np.array([float(x)])))) == [y]
    ends_ = [fractions(c)[0] for c in corners(node, dyadic(np.array([-3.0])), dyadic(np.array([1.0])))]
    assert ends_ == [-3, 1, -1, 1]
    box = known(network, area(np.zeros(1), box=(np.full(1, -3.0), np.full(1, 4.0)))).boxes.of(node.id)
    assert [side[0, 0] for side in box] == [-2, 4]
    sides = dyadic(np.array([-3.0])), dyadic(np.array([4.0]))

    def holds(lower: float, upper: float) -> bool:
        planes = (ClaimedPlane(np.zeros((1, 1)), np.full((1, 1), bias)) for bias in (lower, upper))
        return sandwiched(node, Planes(*planes), *sides)

    assert holds(-2.0, 4.0)
    assert not holds(-2.0 + 2.0**-40, 4.0) and not holds(-2.0, 4.0 - 2.0**-40)


# Claims, splits and refutations


def bent() -> tuple[CheckedNetwork, str, Certificate]:
    """relu(x) of two inputs in [−1, 1]², and planes: 0 or x below, 1 above."""
    network = CheckedNetwork((2,))
    arrays = {"kinks": np.zeros(1), "slopes": np.array([0.0, 1.0]), "value": np.zeros(())}
    name = network.add("piecewise", (network.input,), (2,), arrays)
    ones, zeros = np.ones((1, 2)), np.zeros((1, 2))
    planes = {
        "p": Planes(ClaimedPlane(ones, zeros), ClaimedPlane(zeros, ones)),
        "q": Planes(ClaimedPlane(zeros, zeros), ClaimedPlane(ones / 2, ones / 2)),
    }
    rows, offsets = np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), np.array([[-0.5], [-0.25]])
    made = area(np.zeros(2), 1.0, planes=planes, rows=rows, offsets=offsets)
    return network, name, replace(made, network=network.output)


@BOTH
@pytest.mark.parametrize(("lower", "upper", "holds"), [
    ([-1.0, -1.0], [1.0, 1.0], True),
    ([0.0, 0.0], [1.0, 1.0], True),
    ([2.0**-30, 0.0], [1.0, 1.0], False),
    ([0.0, 2.0**-30], [1.0, 1.0], False),
    ([0.0, 0.0], [1.0, 1 - 2.0**-30], False),
    ([0.0, 0.0], [1 - 2.0**-30, 1.0], False),
    ([1.0, 0.0], [0.5, 1.0], False),
    ([0.0], [1.0], False),
    ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], False),
])  # fmt: skip
def test_claims_are_what_boxes_and_planes_prove(
    lower: list[float], upper: list[float], holds: bool, exact: bool
) -> None:
    network, name, made = bent()
    step = IntervalClaim(name, np.array(lower), np.array(upper), {name: "q"})
    if not holds:
        with pytest.raises(Rejected):
            claimed(known(network, made, exact), step, "here")
        return
    found = claimed(known(network, made, exact), step, "here").boxes.of(name)
    assert found[0].tolist() == [[0, 0]] and found[1].tolist() == [[1, 1]]


@pytest.mark.parametrize("chunk", [0, 1, 2, 7])
def test_claims_are_proved_in_blocks_of_any_size(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """x₀ − x₁ and its negative of three units: each unit's own claim, whatever block it falls in."""
    monkeypatch.setattr("certnas.checker.parts.CHUNK", 3 * chunk)
    network = CheckedNetwork((3,))
    first = np.array([[[1.0, -1, 0], [0, 1, -1], [1, 0, -1]]])
    same = {"weight": first, "bias": np.zeros((1, 3, 1))}
    one = network.add("linear", (network.input,), (3,), same)
    arrays = {"weight": np.array([[[1.0, 1, 0], [0, 1, 1], [1, 0, -1]]]), "bias": np.zeros((1, 3, 1))}
    two = network.add("linear", (one,), (3,), arrays)  # x₀ − x₂, x₀ + x₁ − 2x₂, x₁ − … by cancellation
    x = np.zeros(3)
    dense = arrays["weight"][0] @ first[0]
    most = np.abs(dense).sum(1)
    for place in range(3):
        fits = IntervalClaim(two, -most - 1e-9, most + 1e-9, {})
        claimed(known(network, area(x, 1.0)), fits, "here")
        for side, sign in (("lower", 1), ("upper", -1)):
            lie = getattr(fits, side).copy()
            lie[place] += sign * 1e-6
            with pytest.raises(Rejected, match="a claimed bound does not follow"):
                claimed(known(network, area(x, 1.0)), replace(fits, **{side: lie}), "here")


def test_halves_keep_their_own_boxes_planes_and_regions() -> None:
    network, name, made = bent()
    whole = known(network, made)
    whole.boxes.of(name)
    from certnas.checker import Split

    below, above = (half(whole, Split(network.input, 1, 0.5, (1, 2)), sign) for sign in (-1.0, 1.0))
    assert below is not None and above is not None
    assert below.boxes.of(network.input)[1].tolist() == [[1, 0.5]]
    assert above.boxes.of(network.input)[0].tolist() == [[-1, 0.5]]
    assert whole.boxes.of(network.input)[0].tolist() == [[-1, -1]]
    assert below.region.up.n.reshape(-1)[1] == pytest.approx(0.5) and whole.region.up.n.reshape(-1)[1] == 1
    assert below.boxes.of(name)[1].tolist() == [[1, 0.5]], "boxes behind a split input are derived anew"
    assert [s.sign for s in (*below.splits, *above.splits)] == [-1, 1] and not whole.splits
    out = half(whole, Split(name, 0, 0.75, (1, 2)), -1.0)
    assert out is not None and out.boxes.of(name)[1].tolist() == [[0.75, 1]] and out.region is whole.region
    below.sound.add(("node", "key"))
    assert not above.sound and not whole.sound
    assert half(whole, Split(network.input, 0, 1.0, (1, 2)), 1.0) is not None, "the end itself is a point"
    assert half(whole, Split(network.input, 0, np.nextafter(1, 2), (1, 2)), 1.0) is None
    assert half(whole, Split(network.input, 0, -1.0, (1, 2)), -1.0) is not None
    assert half(whole, Split(network.input, 0, np.nextafter(-1, -2), (1, 2)), -1.0) is None


@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize(("slope", "bias", "fits"), [
    ((1, 2), (1, 2), True),
    ((2, 2), (2, 2), True),
    ((3, 2), (3, 2), False),
    ((1, 2), (2, 2), False),
    ((2, 2), (1, 2), False),
    ((1, 1), (1, 2), False),
    ((1, 2), (1, 1), False),
    ((0, 2), (0, 2), False),
    ((2,), (1, 2), False),
])  # fmt: skip
def test_planes_have_the_shape_of_their_node(
    slope: tuple[int, ...], bias: tuple[int, ...], fits: bool, side: str
) -> None:
    network, name, made = bent()
    flat = ClaimedPlane(np.zeros(slope), np.full(bias, 9.0 if side == "upper" else -9.0))
    planes = {"p": replace(made.planes["q"], **{side: flat})}
    whole = known(network, replace(made, planes=planes))
    node = network.nodes[name]
    if fits:
        assert whole.planes(node, {name: "p"}, 2, "here") is planes["p"] and whole.sound == {(name, "p")}
    else:
        with pytest.raises(Rejected, match="does not have the shape of its node"):
            whole.planes(node, {name: "p"}, 2, "here")
    with pytest.raises(Rejected, match="no planes for a piecewise on the way"):
        whole.planes(node, {}, 2, "here")


def refuting(made: Certificate, name: str, **more: Any) -> Certificate:
    """relu(x₀) > −1/2 and relu(x₁) > −1/4, by planes that give 0."""
    given = Refutation(
        (0, 1), np.ones((2, 1)), np.array([0.5, 0.25]) - 2.0**-20, {name: "q"}, np.zeros((2, 0))
    )
    return replace(made, parts=(CertificatePart((), (replace(given, **more),)),))


@BOTH
def test_each_clause_is_refuted_by_its_own_bound(exact: bool) -> None:
    network, name, made = bent()
    found = check(refuting(made, name), network, exact=exact)
    assert found == pytest.approx([0.5, 0.25], abs=1e-12) and (found <= [0.5, 0.25]).all()
    turned = refuting(made, name, clauses=(1, 0), bounds=np.array([0.25, 0.5]) - 2.0**-20)
    assert check(turned, network, exact=exact) == pytest.approx([0.5, 0.25], abs=1e-12)
    scaled = refuting(made, name, mix=np.array([[2.0], [4.0]]))
    assert check(scaled, network, exact=exact) == pytest.approx([1, 1], abs=1e-12)


def test_each_clause_may_have_planes_of_its_own() -> None:
    network, name, made = bent()
    both = made.planes["q"]
    sides = (
        ClaimedPlane(np.repeat(p.slope, 2, 0), np.repeat(p.bias, 2, 0)) for p in (both.lower, both.upper)
    )
    own = refuting(replace(made, planes={"q": Planes(*sides)}), name)
    assert check(own, network) == pytest.approx([0.5, 0.25], abs=1e-12)


CLAUSES: dict[str, dict[str, Any]] = {
    "one left out": {"clauses": (0,)},
    "a bound too many": {"bounds": np.full(3, 2.0**-20)},
    "the bounds of each other": {"clauses": (1, 0)},
    "one that there is not": {"clauses": (0, 2)},
    "counted from the end": {"clauses": (0, -1)},
    "truth values": {"clauses": (False, True)},
    "a mask": {"clauses": (True, True)},
    "numbers with a point": {"clauses": (0.0, 1.0)},
    "lists": {"clauses": ([0], [1])},
    "no share": {"mix": np.zeros((2, 1))},
    "shares of one": {"mix": np.ones((1, 1))},
    "shares of two constraints": {"mix": np.ones((2, 2))},
    "multipliers of a split that is none": {"multipliers": np.ones((2, 1))},
    "no planes": {"planes": {}},
    "planes of another name": {"planes": {"0" * 64: "q"}},
    "planes that are missing": {"planes": lambda name: {name: "none"}},
}


@pytest.mark.parametrize("name", CLAUSES)
def test_refutations_of_other_clauses_prove_nothing(name: str) -> None:
    network, node, made = bent()
    change = {key: value(node) if callable(value) else value for key, value in CLAUSES[name].items()}
    others = (
        "one that there is not",
        "counted from the end",
        "truth values",
        "a mask",
        "numbers with a point",
        "lists",
    )
    for exact in (False, True):
        with pytest.raises(
            Rejected, match="it refutes a clause that does not exist" if name in others else None
        ):
            check(refuting(made, node, **change), network, exact=exact)


def test_no_module_of_the_arithmetic_flushes_small_numbers() -> None:
    """TINY and SMALL are proved for gradual underflow."""
    assert np.float64(2.0**-1022) / 2 != 0 and arithmetics.UNIT == 2.0**-53
