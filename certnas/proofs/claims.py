"""The claims of certificates in words, and whether a property follows from them."""

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
    """The claim of a certificate of one image: class `label` beats each class of `beaten` on a ball."""

    label: int
    """The class that wins."""
    beaten: tuple[int, ...]
    """The classes that cannot win."""
    classes: int
    """The number of all classes."""
    norm: str
    """The name of the norm."""
    eps: float
    """The radius of the ball, in input units."""
    clipped: bool
    """Whether only the images of the ball with pixels in [0, 1] are meant."""
    image: str
    """The digest of the image."""

    def __str__(self) -> str:
        where = (
            f"{bounds.NORMS[self.norm].symbol} distance {self.eps!r}{' in [0, 1]' if self.clipped else ''}"
        )
        return f"class {self.label} beats {_ranges(self.beaten)} within {where} of image {self.image[:16]}"


def claim(kept: Certificate) -> Claim:
    """The claim of a certificate of one image.

    Raises Rejected unless its clauses compare one class with others, each once, and its area is a ball.
    """
    compared = None if kept.rows.shape[1] != 1 or kept.offsets.any() else _classes(kept.rows[:, 0])
    if compared is None:
        raise Rejected("its clauses do not state that one class beats others, each once")
    clipped = _clipped(kept)
    if clipped is None:
        raise Rejected("its area is neither the ball of its radius nor the part of that ball in [0, 1]")
    label, beaten = compared
    return Claim(label, beaten, kept.rows.shape[-1], kept.norm, kept.eps, clipped, digest(kept.x))


def claim_of_property(certificates: Sequence[Certificate]) -> str:
    """The claim of the certificates of a property, in one line."""
    clauses = sum(len(kept.rows) for kept in certificates)
    boxes = "the box" if len(certificates) == 1 else f"{len(certificates)} boxes"
    return f"no input of {boxes} meets " + (
        f"any of {clauses} conjunctions" if clauses > 1 else "the conjunction"
    )


def digest(image: np.ndarray) -> str:
    """The SHA-256, in hexadecimal, of the image's shape as a list and its pixels as float64."""
    shape = str(list(image.shape)).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(image, dtype="<f8").tobytes()).hexdigest()


def covers(certificates: Sequence[Certificate], prop: Property) -> bool:
    """Whether certificates about boxes refute every clause of a property on its whole box, in exact arithmetic."""
    places: dict[int, list[Certificate]] = {}
    for clause in prop.clauses:
        known = id(clause.box)
        if known not in places:
            places[known] = [kept for kept in certificates if _holds(kept, clause.box)]
        if not any(_implied(clause, kept, c) for kept in places[known] for c in range(len(kept.rows))):
            return False
    return True


def _holds(kept: Certificate, box: Box) -> bool:
    """Whether the area of a certificate contains a box."""
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
    """Whether outputs that satisfy the clause satisfy every row of clause c of the certificate."""
    rows, offsets = kept.rows[c].reshape(kept.rows.shape[1], -1), kept.offsets[c]
    satisfied = [
        (tuple(sorted((j, a) for j, a in constraint.coef if a)), constraint.bound)
        for constraint in clause.constraints
        if not constraint.inputs
    ]
    for row, offset in zip(rows, offsets.tolist(), strict=True):
        coef = tuple((j, Fraction(v)) for j, v in enumerate(row.tolist()) if v)
        if not any(given == coef and bound <= Fraction(offset) for given, bound in satisfied):
            return False
    return True


def _clipped(kept: Certificate) -> bool | None:
    """Whether the area is the intersection of a ball with [0, 1]; False for a whole ball, None for another area.

    The image must lie in [0, 1]; otherwise the intersection may be empty, and is treated as another area.
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
