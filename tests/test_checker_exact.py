"""Exact cases at the edge of what the checker may accept: one thing further and it would prove what is false."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from checker_networks import claim, flat, lines

from certnas.checker import (
    Certificate,
    CertificatePart,
    CheckedNetwork,
    ClaimedPlane,
    Planes,
    Refutation,
    Rejected,
    Split,
    check,
    curves,
)
from certnas.checker.numbers import Arithmetic, Numbers, dyadic
from certnas.checker.region import CheckedRegion
from certnas.checker.relaxations import sandwiched

BOTH = pytest.mark.parametrize("exact", [False, True])


def maximum(lower: tuple[list[float], float], upper: tuple[list[float], float]) -> bool:
    """Whether planes of max(a, b) are accepted on [−1, 1]²."""
    network = CheckedNetwork((2,))
    node = network.nodes[network.add("max", (network.input,), (1,), {"index": np.array([[0, 1]])})]
    planes = Planes(*(ClaimedPlane(np.array([[w]]), np.full((1, 1), t)) for w, t in (lower, upper)))
    return sandwiched(node, planes, dyadic(-np.ones(2)), dyadic(np.ones(2)))


def test_lower_planes_of_a_maximum_have_no_negative_weight() -> None:
    """2a − b is max(a, b) where a = b, and above it at (1, −1): the sum of the weights alone does not say so."""
    top = ([0.0, 0.0], 1.0)
    assert maximum(([0.5, 0.5], 0.0), top) and maximum(([1.0, 0.0], 0.0), top)
    assert not maximum(([2.0, -1.0], 0.0), top)
    assert not maximum(([1.0, 0.0], 2.0**-50), top)
    assert maximum(([0.0, 0.0], -1.0), top) and not maximum(([0.0, 0.0], -1.0 + 2.0**-50), top)
    assert maximum(([1.0, 1.0], -1.0), top) and not maximum(([1.0, 1.0], -1.0 + 2.0**-50), top)


def test_upper_planes_of_a_maximum_are_least_at_a_corner() -> None:
    bottom = ([0.0, 0.0], -1.0)
    assert maximum(bottom, ([0.5, 0.5], 1.0)) and not maximum(bottom, ([0.5, 0.5], 1.0 - 2.0**-50))
    assert maximum(bottom, ([1.0, 0.0], 2.0)) and not maximum(bottom, ([1.0, 0.0], 2.0 - 2.0**-50))
    assert not maximum(bottom, ([0.0, 0.0], 1.0 - 2.0**-50))


def least(bound: float, offset: float) -> Certificate:
    """That |x| > offset where |x| ≤ 1, by planes that give |x| ≥ 0, claimed by so much."""
    network, _, bent = lines()
    planes, keys = flat(bent, 0.0)
    given = Refutation((0,), np.ones((1, 1)), np.full(1, bound), keys, np.zeros((1, 0)))
    return claim(network, (CertificatePart((), (given,)),), planes, offset)


@BOTH
def test_a_bound_of_zero_refutes_nothing(exact: bool) -> None:
    """|x| > 0 is false at 0."""
    network, *_ = lines()
    for bound in (0.0, -0.0, -1.0, 2.0**-1000, np.nan):
        with pytest.raises(Rejected):
            check(least(bound, 0.0), network, exact=exact)
    assert check(least(2.0**-20, -(2.0**-20)), network, exact=True)[0] == 2.0**-20
    with pytest.raises(Rejected):
        check(least(2.0**-20 * (1 + 2.0**-52), -(2.0**-20)), network, exact=True)


def region(norm: str, coef: np.ndarray, exact: bool, eps: float = 1.0) -> Fraction:
    """The checker's minimum of coef over a ball round 0."""
    x, nothing = np.zeros(coef.shape), np.zeros((0, 0))
    about = Certificate("", norm, x, eps, (x - 9, x + 9), nothing, nothing, (), {}, {})
    arithmetic = Arithmetic(exact)
    found = CheckedRegion.of(about, arithmetic).minimum(arithmetic.read(coef[None]))
    return Fraction(found.n[0]) / 2**found.k if exact else Fraction(float(found.n[0]))


@BOTH
@pytest.mark.parametrize("coef", [[1.0, 1.0], [3.0, 4.0], [1.0, 2.0, 3.0], [2.0**-540, 2.0**-540], [1e-200]])
def test_the_l2_norm_is_rounded_up(coef: list[float], exact: bool) -> None:
    """−‖coef‖₂ is irrational, or an underflow away from its square: what is returned is at most that."""
    square = sum(Fraction(c) ** 2 for c in coef)
    found = region("l2", np.array(coef), exact)
    assert found <= 0 and found**2 >= square
    assert found**2 <= square * (1 + Fraction(1, 10**12)) + Fraction(2) ** -900


@pytest.mark.parametrize("square", [2, 3, 2**200 + 1])
def test_the_root_of_an_integer_is_rounded_up(square: int) -> None:
    at = CheckedRegion("l2", *(Numbers(np.zeros(1, dtype=object)) for _ in range(4)), Arithmetic(True))
    one = replace(at, eps=Numbers(np.array([1], dtype=object)))
    coef = Numbers(
        np.array([[1] * square], dtype=object) if square < 9 else np.array([[2**100, 1]], dtype=object)
    )
    found = one._in_ball(coef)
    assert Fraction(found.n[0], 2**found.k) ** 2 > square


def fraction(end: tuple[int, int, int, int]) -> Fraction:
    sign, whole, power, _ = end
    return (-1) ** sign * int(whole) * Fraction(2) ** power


def test_sigmoids_are_compared_by_the_far_ends_of_their_enclosures() -> None:
    """A constant between the ends of the enclosure of σ is not known to be above σ."""
    for at in (Fraction(1), Fraction(-2), Fraction(7, 3)):
        low, high = map(fraction, curves._sigma(at)._mpi_)
        assert low < high
        for constant, above in (
            (high, True),
            ((low + high) / 2, False),
            (low, False),
            (high - (high - low) / 2**100, False),
        ):
            assert curves._above_sigmoid(curves.Line(Fraction(0), constant, at - 1, at)) == above
            steep = constant - 2 * at
            assert curves._above_sigmoid(curves.Line(Fraction(2), steep, at, at + 1)) == above


@pytest.mark.parametrize("tanh", [False, True])
def test_ends_of_curves_are_rounded_outward(tanh: bool) -> None:
    values = np.array([-30.0, -1.0, 0.0, 2.0**-30, 0.3, 5.0])
    low, high = (curves.curve_end(tanh, values, up=up) for up in (False, True))
    for x, below, above in zip(values.tolist(), low.tolist(), high.tolist(), strict=True):
        truth = curves._sigma((1 + tanh) * Fraction(x)) * (1 + tanh) - tanh
        assert curves._real(Fraction(below)).b < truth.a and truth.b < curves._real(Fraction(above)).a
        assert above - below <= 4 * np.spacing(max(abs(below), abs(above), 2.0**-60))


@BOTH
def test_the_first_half_is_the_one_below(exact: bool) -> None:
    """|x| < 1.6 for a ≤ 0 by relu(a) ≤ 0, which does not hold for a ≥ 0: each half has its own planes."""
    network, both, bent = lines()
    ones = np.ones((1, 2))
    under = ClaimedPlane(0 * ones, 0 * ones)
    planes = {
        "below": Planes(under, ClaimedPlane(ones * [0.0, 0.5], ones * [0.0, 0.6])),
        "above": Planes(under, ClaimedPlane(ones * [1.0, 0.5], ones * [0.0, 0.6])),
    }

    def tree(first: str, second: str, halves: tuple[int, int]) -> Certificate:
        ends = tuple(
            CertificatePart(
                (), (Refutation((0,), np.ones((1, 1)), np.full(1, 2.0**-20), {bent: key}, np.zeros((1, 1))),)
            )
            for key in (first, second)
        )
        made = claim(network, (CertificatePart((), (), (Split(both, 0, 0.0, halves),)), *ends), planes, -1.6)
        return replace(made, rows=-made.rows)

    assert check(tree("below", "above", (1, 2)), network, exact=exact)[0] > 0
    assert check(tree("above", "below", (2, 1)), network, exact=exact)[0] > 0
    for lie in (tree("above", "below", (1, 2)), tree("below", "above", (2, 1))):
        with pytest.raises(Rejected, match="do not hold on its box"):
            check(lie, network, exact=exact)


@BOTH
def test_spare_rounding_only_lowers_what_is_proved(exact: bool) -> None:
    network, *_ = lines()
    once, four = (check(least(2.0**-30, -0.5), network, exact=exact, spare=spare) for spare in (1, 4))
    assert (four == once).all() if exact else (four < once).all()
