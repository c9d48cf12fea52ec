"""A certificate as a value: numpy arrays, and nodes named by their digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClaimedPlane:
    """The linear function slope · x + bias of each unit, for R rows; R is 1 or S."""

    slope: np.ndarray
    """The slopes, [R, *out]; for a max over windows of k elements, [R, *out, k]."""
    bias: np.ndarray
    """The biases, [R, *out]."""


@dataclass(frozen=True)
class Planes:
    """The claim that lower(x) ≤ f(x) ≤ upper(x) for a nonlinear node f."""

    lower: ClaimedPlane
    """The lower plane."""
    upper: ClaimedPlane
    """The upper plane."""


@dataclass(frozen=True)
class IntervalClaim:
    """The claim that lower ≤ value of `target` ≤ upper."""

    target: str
    """The digest of the node."""
    lower: np.ndarray
    """The lower bounds, [*shape]."""
    upper: np.ndarray
    """The upper bounds, [*shape]."""
    planes: Mapping[str, str]
    """The key of the planes of each nonlinear node before the target."""


@dataclass(frozen=True)
class Refutation:
    """The claim that Σₛ mix_rs (rows_cs·f − offsets_cs) ≥ bounds_r > 0 for each clause c = clauses_r."""

    clauses: tuple[int, ...]
    """The refuted clauses, [R]."""
    mix: np.ndarray
    """The weight of each row of a clause, [R, S]."""
    bounds: np.ndarray
    """The claimed lower bounds, [R]."""
    planes: Mapping[str, str]
    """The key of the planes of each nonlinear node, with R rows or one for all."""
    multipliers: np.ndarray
    """The multipliers of the D splits that define the part, [R, D]."""


@dataclass(frozen=True)
class Split:
    """A split of a part in two: a unit is ≤ point in the part halves[0], and ≥ point in the part halves[1]."""

    tensor: str
    """The digest of the tensor."""
    unit: int
    """The flat index of the unit."""
    point: float
    """The point of the split."""
    halves: tuple[int, int]
    """The numbers of the two parts."""


@dataclass(frozen=True)
class CertificatePart:
    """A part of the area: its claims, the clauses refuted on all of it, and its splits.

    The claims of a part also hold in the parts that its splits make; these have greater numbers.
    """

    steps: tuple[IntervalClaim, ...]
    """The claimed intervals, in the order in which they are proved."""
    refutations: tuple[Refutation, ...]
    """The refutations of clauses on this part."""
    splits: tuple[Split, ...] = ()
    """The splits; a clause that is refuted in both halves is refuted in this part."""


@dataclass(frozen=True)
class Certificate:
    """The claim that no x' of the area satisfies a clause c: rows_cs·f(x') ≤ offsets_cs for all s.

    The area is ‖x' − x‖ ≤ eps and box[0] ≤ x' ≤ box[1].
    """

    network: str
    """The digest of the network f."""
    norm: str
    """The name of the norm: linf, l2 or l1."""
    x: np.ndarray
    """The centre of the ball, [*shape]."""
    eps: float
    """The radius of the ball, in the network's input units."""
    box: tuple[np.ndarray, np.ndarray]
    """The lower and the upper limits of the inputs, [*shape] each."""
    rows: np.ndarray
    """The rows of C clauses, [C, S, *out]."""
    offsets: np.ndarray
    """The offset of each row, [C, S]."""
    parts: tuple[CertificatePart, ...]
    """The parts of the area; parts[0] is the whole area."""
    planes: Mapping[str, Planes]
    """All planes by key."""
    about: Mapping[str, Any]
    """Statements that are not proved, such as versions."""
