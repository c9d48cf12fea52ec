"""What certificates claim, in words, and whether a property follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from certnas.checker import Certificate
from certnas.verify.property import Box, Clause, Property

NAMES = {"linf": "l∞", "l2": "l2", "l1": "l1"}


def claim_of(certificates: Sequence[Certificate]) -> str:
    """All that is proved, in one line."""
    first = certificates[0]
    where = _ball(first)
    if len(certificates) == 1 and first.rows.shape[1] == 1 and not first.offsets.any() and where:
        rows = first.rows.reshape(len(first.rows), -1)
        label, beaten = _classes(rows)
        what = f"{len(rows)} rows are positive" if label is None else f"class {label} beats {beaten} others"
        return f"{what} within {where}"
    clauses = sum(len(kept.rows) for kept in certificates)
    boxes = "the box" if len(certificates) == 1 else f"{len(certificates)} boxes"
    return f"no input of {boxes} meets " + (
        f"any of {clauses} conjunctions" if clauses > 1 else "the conjunction"
    )


def covers(certificates: Sequence[Certificate], prop: Property) -> bool:
    """Whether certificates about boxes refute every clause of a property, on all of its box, in exact arithmetic."""
    places: dict[int, list[Certificate]] = {}
    for clause in prop.clauses:
        known = id(clause.box)
        if known not in places:
            places[known] = [kept for kept in certificates if _holds(kept, clause.box)]
        if not any(_implied(clause, kept, c) for kept in places[known] for c in range(len(kept.rows))):
            return False
    return True


def _holds(kept: Certificate, box: Box) -> bool:
    """Whether a box lies in the area of a certificate."""
    if kept.norm != "linf" or kept.x.size != len(box.sides):
        return False
    eps = Fraction(kept.eps)
    sides = zip(kept.x.flat, kept.box[0].flat, kept.box[1].flat, box.sides, strict=True)
    return all(
        max(Fraction(float(x)) - eps, Fraction(float(least))) <= low
        and high <= min(Fraction(float(x)) + eps, Fraction(float(most)))
        for x, least, most, (low, high) in sides
    )


def _implied(clause: Clause, kept: Certificate, c: int) -> bool:
    """Whether outputs that meet the clause meet every row of clause c of the certificate."""
    rows, offsets = kept.rows[c].reshape(kept.rows.shape[1], -1), kept.offsets[c]
    met = [
        (tuple(sorted((j, a) for j, a in constraint.coef if a)), constraint.bound)
        for constraint in clause.constraints
        if not constraint.inputs
    ]
    for row, offset in zip(rows, offsets.tolist(), strict=True):
        coef = tuple((j, Fraction(v)) for j, v in enumerate(row.tolist()) if v)
        if not any(given == coef and bound <= Fraction(offset) for given, bound in met):
            return False
    return True


def _ball(kept: Certificate) -> str | None:
    """The area in words where it is a ball, or a ball among images in [0, 1]."""
    distance, ends = f"{NAMES[kept.norm]} distance {kept.eps:.6g}", (kept.x, *kept.box)
    x, low, high = ([Fraction(v) for v in array.reshape(-1).tolist()] for array in ends)
    eps = Fraction(kept.eps)
    outside = [(a, b, v) for a, b, v in zip(low, high, x, strict=True) if a > v - eps or b < v + eps]
    if not outside:
        return distance
    zero, one = Fraction(0), Fraction(1)
    if all(a <= max(v - eps, zero) and b >= min(v + eps, one) for a, b, v in outside):
        return f"{distance} in [0, 1]"
    return None


def _classes(rows: np.ndarray) -> tuple[int | None, int]:
    """(y, how many other classes) where every row is f_y − f_j."""
    best, worst = rows.argmax(1), rows.argmin(1)
    eye = np.eye(rows.shape[1])
    if (best == best[0]).all() and np.array_equal(rows, eye[best] - eye[worst]) and (worst != best).all():
        return int(best[0]), len(worst)
    return None, 0
