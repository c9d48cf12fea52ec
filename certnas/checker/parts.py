"""Checks the parts of a certificate: their claims, their splits, and the clauses that they refute."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from certnas.checker.certificate import IntervalClaim, Refutation, Split
from certnas.checker.forms import LinearForms
from certnas.checker.known import Half, Known
from certnas.checker.rejected import demand

CHUNK = 1 << 22
"""The most coefficients of one tensor that are held at a time."""


def refuted(known: Known, number: int) -> dict[int, float]:
    """The clauses that a part of the certificate refutes, and the bound of each.

    Raises Rejected if a claim of the part does not follow.
    """
    part, where = known.certificate.parts[number], f"part {number}"
    for step in part.steps:
        known = claimed(known, step, where)
    found: dict[int, float] = {}
    for given in part.refutations:
        found |= refutation(known, given, where)
    for split in part.splits:
        demand(number < min(split.halves), f"{where}: it is split into earlier parts")
        found |= refuted_in_both(known, split)
    return found


# Claims


def claimed(known: Known, step: IntervalClaim, where: str) -> Known:
    """(d)  The facts after an interval claim is proved: each end follows from (a), or from a linear form by (c)."""
    low, high = known.boxes.of(step.target)
    fits = step.lower.shape == step.upper.shape == low.shape[1:] and (step.lower <= step.upper).all()
    demand(fits, f"{where}: the claimed bounds are not an interval of the tensor's shape")
    _prove_ends(known, step, 1.0, step.lower, low[0], where)
    _prove_ends(known, step, -1.0, -step.upper, -high[0], where)
    return known.claiming(step.target, (np.maximum(low, step.lower), np.minimum(high, step.upper)))


def _prove_ends(
    known: Known, step: IntervalClaim, sign: float, claim: np.ndarray, found: np.ndarray, where: str
) -> None:
    """Proves sign·z ≥ claim for every unit z of a tensor, by (c) where interval arithmetic does not prove it."""
    read = known.arithmetic.read
    for units in _chunks(np.flatnonzero(~(found >= claim)), known):
        coef = np.zeros((len(units), claim.size))
        coef[np.arange(len(units)), units] = sign
        form = LinearForms(known, read(np.zeros(len(units))))
        form.add(step.target, read(coef.reshape(-1, *claim.shape)))
        proved = form.lower_bound(step.planes, where) >= read(claim.reshape(-1)[units])
        demand(proved.all(), f"{where}: a claimed bound does not follow from the planes before it")


def _chunks(units: np.ndarray, known: Known) -> Iterator[np.ndarray]:
    """The units in chunks whose linear forms fit into memory."""
    widest = max(prod(node.shape) for node in known.network.nodes.values())
    many = max(1, CHUNK // widest)
    for first in range(0, len(units), many):
        yield units[first : first + many]


# Splits


def refuted_in_both(known: Known, split: Split) -> dict[int, float]:
    """The clauses that are refuted on both sides of a split, and the smaller of the two bounds."""
    below = _refuted_in(half(known, split, -1.0), split.halves[0], known)
    above = _refuted_in(half(known, split, 1.0), split.halves[1], known)
    return {clause: min(below[clause], above[clause]) for clause in below if clause in above}


def _refuted_in(known: Known | None, number: int, whole: Known) -> dict[int, float]:
    """The clauses that are refuted in a half; all clauses if the half contains no point."""
    if known is None:
        return dict.fromkeys(range(len(whole.certificate.rows)), np.inf)
    return refuted(known, number)


def half(known: Known, split: Split, sign: float) -> Known | None:
    """(e)  The facts about the half with sign·(z − p) ≥ 0, for a unit z and a point p; None if the half contains no
    point.
    """
    low, high = (end.copy() for end in known.boxes.of(split.tensor))
    index: tuple[Any, ...] = np.unravel_index(split.unit, low.shape[1:])
    if sign > 0:
        low[0][index] = np.maximum(low[0][index], split.point)
    else:
        high[0][index] = np.minimum(high[0][index], split.point)
    if low[0][index] > high[0][index]:
        return None
    return known.halved(Half(split.tensor, index, sign, split.point), (low, high))


# Refutations


def refutation(known: Known, given: Refutation, where: str) -> dict[int, float]:
    """(f)  The clauses that a refutation proves to hold nowhere in the part, and the bound of each.

    The form of clause c is Σ_s mix_s (rows_cs·f − offsets_cs) − Σ_j β_j σ_j (z_j − p_j).
    """
    _demand_signs(known, given, where)
    form = _clauses_form(known, given)
    for split, multipliers in zip(known.splits, given.multipliers.T, strict=True):
        _subtract_split(form, split, multipliers)
    derived = form.lower_bound(given.planes, where)
    proved = derived >= known.arithmetic.read(given.bounds)
    demand(proved.all(), f"{where}: a bound does not follow from the planes")
    return dict(zip(given.clauses, derived.nearest().tolist(), strict=True))


def _demand_signs(known: Known, given: Refutation, where: str) -> None:
    """Raises Rejected unless each clause has weights ≥ 0, multipliers ≥ 0 and a bound above 0."""
    count, constraints = len(given.clauses), known.certificate.offsets.shape[1]
    demand(
        all(type(c) is int and 0 <= c < len(known.certificate.rows) for c in given.clauses),
        f"{where}: it refutes a clause that does not exist",
    )
    shapes = given.mix.shape, given.multipliers.shape, given.bounds.shape
    fits = shapes == ((count, constraints), (count, len(known.splits)), (count,))
    signs = (given.mix >= 0).all() and (given.multipliers >= 0).all() and (given.bounds > 0).all()
    demand(fits and signs, f"{where}: a share or multiplier is missing or below 0, or a bound not above")


def _clauses_form(known: Known, given: Refutation) -> LinearForms:
    """Σ_s mix_s (rows_cs·f − offsets_cs), minus the effect of rounding its coefficients."""
    read, output = known.arithmetic.read, known.network.output
    clauses = list(given.clauses)
    rows, offsets = known.certificate.rows[clauses], known.certificate.offsets[clauses]
    mix = given.mix.reshape(*given.mix.shape, *[1] * (rows.ndim - 2))
    shares = read(mix) * read(rows)
    form = LinearForms(known, known.arithmetic.dot(read(-given.mix), read(offsets)))
    form.add(output, shares.moved(lambda n: n.sum(1)))
    form.pay(given.mix.shape[1] + 1, shares.moved(lambda n: np.abs(n).sum(1)), output)
    return form


def _subtract_split(form: LinearForms, split: Half, multipliers: np.ndarray) -> None:
    """Subtracts β σ (z − p), which is at least 0 in the part.  multipliers [R]: the β of each clause"""
    read, dot = form.known.arithmetic.read, form.known.arithmetic.dot
    coef = np.zeros((len(multipliers), *form.known.network.nodes[split.tensor].shape))
    coef[(slice(None), *split.index)] = -split.sign * multipliers
    form.add(split.tensor, read(coef))
    form.add_constant(dot(read(split.sign * multipliers[:, None]), read(np.full((1, 1), split.point))))
