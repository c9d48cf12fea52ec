"""A certificate as a value: numpy arrays, and names of nodes by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Plane:
    """slope · x + bias: of one unit each, [R, *out]; of a max over a window of k, slope [R, *out, k].  R is 1 or S."""

    slope: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Planes:
    """lower(x) ≤ f(x) ≤ upper(x), as is claimed."""

    lower: Plane
    upper: Plane


@dataclass(frozen=True)
class Step:
    """A claim that lower ≤ value of `target` ≤ upper, by planes (their keys) at the nodes before it."""

    target: str
    lower: np.ndarray
    upper: np.ndarray
    planes: Mapping[str, str]


@dataclass(frozen=True)
class Certificate:
    """rows·f(x') ≥ bounds > 0 for every x' with ‖x' − x‖ ≤ eps (and box[0] ≤ x' ≤ box[1]), as is claimed.

    network: the digest of f.  x [*shape], rows [S, K], bounds [S]; norm linf, l2 or l1.  steps: claims about tensors
    inside, each from those before it; final: the planes for the rows.  about: what is not proved, such as versions.
    """

    network: str
    norm: str
    x: np.ndarray
    eps: float
    box: tuple[float, float] | None
    rows: np.ndarray
    bounds: np.ndarray
    steps: tuple[Step, ...]
    final: Mapping[str, str]
    planes: Mapping[str, Planes]
    about: Mapping[str, Any]
