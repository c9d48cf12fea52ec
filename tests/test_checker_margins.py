"""The margins of the checker's boxes and forms, and the limits of what a certificate may hold, by exact cases."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from test_checker_steps import area, bent, known, refuting

from certnas.checker import (
    Certificate,
    CertificatePart,
    CheckedNetwork,
    ClaimedPlane,
    IntervalClaim,
    Planes,
    Rejected,
    Split,
    check,
)
from certnas.checker.curves import curve_between, curve_end
from certnas.checker.forms import _paid
from certnas.checker.intervals import Boxes
from certnas.checker.numbers import Arithmetic, Numbers
from certnas.checker.parts import claimed
from certnas.checker.scaling import _inverse_root


class Told(Arithmetic):
    """Remembers the sizes whose rounding it is asked to cover."""

    sizes: list[np.ndarray]

    def lowered(self, value: np.ndarray, terms: int, size: np.ndarray) -> np.ndarray:
        self.sizes.append(np.array(size))
        return super().lowered(value, terms, size)


def sizes_of(network: CheckedNetwork, certificate: Certificate) -> tuple[list[np.ndarray], Any]:
    """The sizes that the box of the output covers, and the boxes."""
    arithmetic = Told(False)
    arithmetic.sizes = []
    found = known(network, certificate)
    found.boxes.arithmetic = arithmetic
    found.boxes.of(network.output)
    return arithmetic.sizes, found.boxes


@pytest.mark.parametrize("bias", [1024.0, -1024.0])
def test_the_margin_of_an_affine_box_covers_its_bias(bias: float) -> None:
    network = CheckedNetwork((2,))
    arrays = {"weight": np.array([[[2.0, -3.0]]]), "bias": np.full((1, 1, 1), bias)}
    network.add("linear", (network.input,), (1,), arrays)
    sizes, _ = sizes_of(network, area(np.zeros(2), box=(np.array([-1.0, -2]), np.array([4.0, 5]))))
    assert [size.tolist() for size in sizes] == [[[1024.0 + 2 * 4 + 3 * 5]]] * 2


def test_the_margin_of_an_affine_box_covers_the_error_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of real weights is lost in the rounding of the size, so it is 1/2 here."""
    monkeypatch.setattr(Boxes, "unsure", lambda self, node: np.full((1, 1), 0.5))
    network = CheckedNetwork((1,))
    network.add(
        "linear", (network.input,), (1,), {"weight": np.full((1, 1, 1), 3.0), "bias": np.ones((1, 1, 1))}
    )
    sizes, boxes = sizes_of(network, area(np.full(1, 2.0)))
    assert [size.item() for size in sizes] == [3 * 2 + 1 + 0.5] * 2
    low, high = boxes.of(network.output)
    assert low.item() == pytest.approx(6.5) and high.item() == pytest.approx(7.5)


@pytest.mark.parametrize("op", ["sigmoid", "tanh"])
def test_the_box_of_a_curve_is_rounded_outward_at_both_ends(op: str) -> None:
    network, tanh = CheckedNetwork((3,)), op == "tanh"
    network.add(op, (network.input,), (3,), {})
    ends = np.array([-1.3, 0.2, 0.7]), np.array([-1.3, 0.9, 2.1])
    low, high = known(network, area(ends[0], box=ends)).boxes.of(network.output)
    assert low[0].tolist() == curve_end(tanh, ends[0], up=False).tolist()
    assert high[0].tolist() == curve_end(tanh, ends[1], up=True).tolist()
    assert (curve_end(tanh, ends[0], up=False) < curve_end(tanh, ends[0], up=True)).all()


def test_boxes_are_derived_up_to_the_tensor_that_is_asked_for() -> None:
    network = CheckedNetwork((1,))
    first = network.add(
        "linear", (network.input,), (1,), {"weight": np.full((1, 1, 1), 2.0**60), "bias": np.zeros((1, 1, 1))}
    )
    network.add(
        "linear", (first,), (1,), {"weight": np.full((1, 1, 1), 2.0**60), "bias": np.zeros((1, 1, 1))}
    )
    boxes = known(network, area(np.ones(1))).boxes
    assert boxes.of(first)[0].item() == pytest.approx(2.0**60)
    assert set(boxes.found) == {network.input, first}
    with pytest.raises(Rejected, match="grow beyond"):
        boxes.of(network.output)


def test_planes_of_every_unit_are_held_against_a_curve() -> None:
    low, high = np.full((1, 3), -1.0), np.ones((1, 3))
    flat = ClaimedPlane(np.zeros((1, 3)), np.full((1, 3), 1.0))
    below = ClaimedPlane(np.zeros((1, 3)), np.full((1, 3), 0.25))
    assert curve_between(False, Planes(below, flat), low, high)
    for unit in range(3):
        wrong = flat.bias.copy()
        wrong[0, unit] = 0.5
        assert not curve_between(False, Planes(below, replace(flat, bias=wrong)), low, high)


def test_the_margin_of_a_form_is_paid_row_by_row() -> None:
    network, _, made = bent()
    whole = known(network, made)
    size = Numbers(np.array([[1.0, 0.0], [0.0, 2.0**40]]), np.zeros((), dtype=np.int64))
    zero = Numbers(np.zeros(2), np.zeros((), dtype=np.int64))
    paid = _paid(whole, zero, 10, size, network.input)
    assert -1e-13 < paid.n[0] < 0 and paid.n[1] < -(2.0**40) * 2.0**-53


def test_a_split_at_no_finite_point_is_rejected() -> None:
    network, name, made = bent()
    refuted = refuting(made, name)
    check(refuted, network)
    for point in (np.inf, -np.inf, np.nan):
        parts = (
            CertificatePart((), (), (Split(network.input, 0, float(point), (1, 2)),)),
            *refuted.parts * 2,
        )
        with pytest.raises(Rejected, match="the point of a split is not a finite float64"):
            check(replace(refuted, parts=parts), network)


def test_a_part_is_not_split_into_itself() -> None:
    network, name, made = bent()
    refuted = refuting(made, name)
    for halves in ((0, 1), (1, 0)):
        parts = (CertificatePart((), (), (Split(network.input, 0, 0.5, halves),)), *refuted.parts)
        with pytest.raises(Rejected, match="it is split into earlier parts"):
            check(replace(refuted, parts=parts), network)


def test_a_clause_stands_twice_whatever_the_signs_of_its_zeros() -> None:
    network, name, made = bent()
    refuted = refuting(made, name)
    rows = np.array([[[1.0, 0.0]], [[1.0, -0.0]]])
    offsets = np.zeros((2, 1))
    for changed in (
        replace(refuted, rows=rows, offsets=offsets),
        replace(refuted, rows=np.abs(rows), offsets=np.array([[0.0], [-0.0]])),
    ):
        with pytest.raises(Rejected, match="occurs twice"):
            check(changed, network)


def test_rounding_is_assumed_unless_somebody_says_otherwise() -> None:
    network, name, made = bent()
    refuted = refuting(made, name)
    by_default, without = check(refuted, network), check(refuted, network, spare=0)
    assert by_default.tolist() == check(refuted, network, spare=1).tolist()
    assert (by_default < without).all()


def test_an_interval_of_one_point_may_be_claimed() -> None:
    network, _, made = bent()
    at = replace(made, x=np.array([0.5, -0.5]), eps=0.0, box=(np.array([0.5, -0.5]), np.array([0.5, -0.5])))
    step = IntervalClaim(network.input, np.array([0.5, -0.5]), np.array([0.5, -0.5]), {})
    low, high = claimed(known(network, at), step, "here").boxes.of(network.input)
    assert low.tolist() == high.tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize(
    "square", [Fraction(2), Fraction(3, 7), Fraction(10) ** 30, Fraction(1, 10**30), Fraction(4)]
)
def test_the_inverse_of_a_root_is_within_its_error(square: Fraction) -> None:
    root, error = _inverse_root(square)
    assert root * root * square <= 1 <= (root + error) ** 2 * square
    assert 0 < error < root * Fraction(1, 2**70)
