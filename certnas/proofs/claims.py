"""What certificates claim, in words, and whether a property follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

import numpy as np

from certnas import bounds
from certnas.checker import Certificate, Rejected
from certnas.verifier.property import Box, Clause, Property


@dataclass(frozen=True)
class Claim:
    """What a certificate of one image proves: class `label` beats each of `beaten` of all `classes` on a ball.

    clipped: of the ball, only images with pixels in [0, 1].  image: its digest.
    """

    label: int
    beaten: tuple[int, ...]
    classes: int
    norm: str
    eps: float
    clipped: bool
    image: str

    def __str__(self) -> str:
        where = (
            f"{bounds.NORMS[self.norm].symbol} distance {self.eps!r}{' in [0, 1]' if self.clipped else ''}"
        )
        return f"class {self.label} beats {_ranges(self.beaten)} within {where} of image {self.image[:16]}"


def claim(kept: Certificate) -> Claim:
    """The claim of a certificate of one image.

    Raises Rejected where its clauses do not compare one class with others, each once, or its area is no ball.
    """
    compared = None if kept.rows.shape[1] != 1 or kept.offsets.any() else _classes(kept.rows[:, 0])
    if compared is None:
        raise Rejected("its clauses do not say that one class beats others, each named once")
    clipped = _clipped(kept)
    if clipped is None:
        raise Rejected("its area is not the ball of its radius, nor what of that lies in [0, 1]")
    label, beaten = compared
    return Claim(label, beaten, kept.rows.shape[-1], kept.norm, kept.eps, clipped, digest(kept.x))


def claim_of_property(certificates: Sequence[Certificate]) -> str:
    """All that certificates of a property prove, in one line."""
    clauses = sum(len(kept.rows) for kept in certificates)
    boxes = "the box" if len(certificates) == 1 else f"{len(certificates)} boxes"
    return f"no input of {boxes} meets " + (
        f"any of {clauses} conjunctions" if clauses > 1 else "the conjunction"
    )


def digest(image: np.ndarray) -> str:
    """The SHA-256 of the image's shape, in brackets, and its pixels as float64, in hexadecimal."""
    shape = str(list(image.shape)).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(image, dtype="<f8").tobytes()).hexdigest()


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


def _clipped(kept: Certificate) -> bool | None:
    """Whether the area is what of a ball lies in [0, 1]; False for all of the ball, None for another area.

    What lies in [0, 1] of the ball of an image that does not is another area: it may hold no point.
    """
    x, low, high = ([Fraction(v) for v in array.reshape(-1).tolist()] for array in (kept.x, *kept.box))
    eps, zero, one = Fraction(kept.eps), Fraction(0), Fraction(1)
    pixels = list(zip(x, low, high, strict=True))
    if all(a <= v - eps and v + eps <= b for v, a, b in pixels):
        return False
    if all(zero <= v <= one and a <= max(v - eps, zero) and min(v + eps, one) <= b for v, a, b in pixels):
        return True
    return None


def _classes(rows: np.ndarray) -> tuple[int, tuple[int, ...]] | None:
    """(y, the other classes j) where the rows [C, K] are f_y − f_j, each j once."""
    if rows.ndim != 2 or not len(rows):
        return None
    best, worst = rows.argmax(1), rows.argmin(1)
    eye = np.eye(rows.shape[1])
    fits = (best == best[0]).all() and np.array_equal(rows, eye[best] - eye[worst])
    if not fits or (worst == best).any() or len(set(worst.tolist())) < len(worst):
        return None
    return int(best[0]), tuple(sorted(worst.tolist()))


def _ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in words: 0 to 3, 5."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0][1]}" if len(run) == 1 else f"{run[0][1]} to {run[-1][1]}" for run in runs)
