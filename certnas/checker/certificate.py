"""A certificate as a value: numpy arrays, and names of nodes by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClaimedPlane:
    """slope · x + bias: of one unit each, [R, *out]; of a max over a window of k, slope [R, *out, k].  R is 1 or S."""

    slope: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Planes:
    """lower(x) ≤ f(x) ≤ upper(x), as is claimed."""

    lower: ClaimedPlane
    upper: ClaimedPlane


@dataclass(frozen=True)
class IntervalClaim:
    """A claim that lower ≤ value of `target` ≤ upper, by planes (their keys) at the nodes before it."""

    target: str
    lower: np.ndarray
    upper: np.ndarray
    planes: Mapping[str, str]


@dataclass(frozen=True)
class Refutation:
    """Σₛ mix_rs (rows_cs·f − offsets_cs) ≥ bounds_r > 0 for some clauses c = clauses_r, as is claimed.

    clauses [R], mix [R, S], bounds [R]; planes of R rows, or one for all; multipliers [R, D] of the splits on the way.
    """

    clauses: tuple[int, ...]
    mix: np.ndarray
    bounds: np.ndarray
    planes: Mapping[str, str]
    multipliers: np.ndarray


@dataclass(frozen=True)
class Split:
    """Unit `unit` (flat) of a tensor is ≤ point in the part halves[0], ≥ point in the part halves[1]."""

    tensor: str
    unit: int
    point: float
    halves: tuple[int, int]


@dataclass(frozen=True)
class CertificatePart:
    """A part of the area: claims about it, clauses refuted on all of it, and splits, in both parts of which others are.

    The parts that a split makes know what is claimed here, and have greater numbers.
    """

    steps: tuple[IntervalClaim, ...]
    refutations: tuple[Refutation, ...]
    splits: tuple[Split, ...] = ()


@dataclass(frozen=True)
class Certificate:
    """No x' of the area meets a clause c: rows_cs·f(x') ≤ offsets_cs for all s.  network: the digest of f.

    The area is ‖x' − x‖ ≤ eps (norm linf, l2 or l1) and box[0] ≤ x' ≤ box[1].  x and the sides of the box [*shape];
    rows [C, S, *out], offsets [C, S].  parts[0] is all of the area.  about: what is not proved, such as versions.
    """

    network: str
    norm: str
    x: np.ndarray
    eps: float
    box: tuple[np.ndarray, np.ndarray]
    rows: np.ndarray
    offsets: np.ndarray
    parts: tuple[CertificatePart, ...]
    planes: Mapping[str, Planes]
    about: Mapping[str, Any]
