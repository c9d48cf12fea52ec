"""Decides exactly whether two planes sandwich a function on a box: lower(x) ≤ f(x) ≤ upper(x) for all x in [l, u]."""

from __future__ import annotations

import numpy as np

from certnas.checker.certificate import ClaimedPlane, Planes
from certnas.checker.curves import curve_between
from certnas.checker.network import CheckedNode, gather
from certnas.checker.numbers import Numbers, dyadic

ONE = Numbers(np.ones((), dtype=object))


def sandwiched(node: CheckedNode, planes: Planes, low: Numbers, high: Numbers) -> bool:
    """Whether both planes hold on [low, high], which are exact numbers of the operand's shape."""
    if node.op == "max":
        return _below_max(node, planes.lower, low, high) and _above_max(node, planes.upper, low, high)
    if node.op == "piecewise":
        return _between_piecewise(node, planes, low, high)
    return curve_between(node.op == "tanh", planes, low.down(), high.up())


# Piecewise linear functions of one number


def _between_piecewise(node: CheckedNode, planes: Planes, low: Numbers, high: Numbers) -> bool:
    """Whether both planes hold at the ends and the kinks, between which f minus a plane is linear."""
    for x in corners(node, low, high):
        exact = value(node, x)
        if not (exact >= _at(planes.lower, x)).all() or not (_at(planes.upper, x) >= exact).all():
            return False
    return True


def _at(plane: ClaimedPlane, x: Numbers) -> Numbers:
    """slope·x + bias, exactly."""
    return dyadic(plane.slope) * x + dyadic(plane.bias)


def value(node: CheckedNode, x: Numbers) -> Numbers:
    """The piecewise linear function, exactly."""
    kinks, slopes = dyadic(node.arrays["kinks"]), dyadic(node.arrays["slopes"])
    total = dyadic(node.arrays["value"]) + (x - kinks.at(0)) * slopes.at(0)
    for i in range(len(kinks.n)):
        total = total + (x - kinks.at(i)).positive() * (slopes.at(i + 1) - slopes.at(i))
    return total


def corners(node: CheckedNode, low: Numbers, high: Numbers) -> list[Numbers]:
    """The ends, and the kinks clamped to [low, high]: the points where a piecewise linear function may be extreme."""
    kinks = [dyadic(np.full(low.n.shape, kink)) for kink in node.arrays["kinks"]]
    return [low, high, *(kink.maximum(low).minimum(high) for kink in kinks)]


# Maxima over windows [*out, k]


def greatest(windows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The largest element of each window among those `inside`, [*, k] -> [*]."""
    return np.where(inside, windows, windows.min(initial=0)).max(-1)


def _windows(node: CheckedNode, x: Numbers) -> Numbers:
    """The elements of each window.  [*in] -> [*out, k]"""
    return x.moved(lambda n: gather(n[None], node.arrays["index"])[0])


def _below_max(node: CheckedNode, plane: ClaimedPlane, low: Numbers, high: Numbers) -> bool:
    """Whether Σ wx + t ≤ max x on the whole box, and w is 0 on padding.

    For w ≥ 0, Σ wx ≤ (Σ w)·max x. Hence max x − Σ wx ≥ (1 − Σ w)·max x, and max x lies in [max l, max u].
    """
    inside = node.arrays["index"] >= 0
    w, t = dyadic(plane.slope), dyadic(plane.bias)
    if (w.n[:, ~inside] != 0).any() or (w.n < 0).any():
        return False
    least, most = (_windows(node, side).moved(lambda n: greatest(n, inside)) for side in (low, high))
    rest = ONE - w.moved(lambda n: n.sum(-1))
    return bool((rest.positive() * least + rest.negative() * most >= t).all())


def _above_max(node: CheckedNode, plane: ClaimedPlane, low: Numbers, high: Numbers) -> bool:
    """Whether Σ wx + t ≥ max x on the whole box, and w is 0 on padding.

    This holds if Σ wx + t − xᵢ ≥ 0 for each element i of the window. That form is least at a corner of the box: each
    element j adds the smaller of wⱼ·xⱼ at its two ends, and element i the smaller of (wᵢ − 1)·xᵢ.
    """
    inside = node.arrays["index"] >= 0
    w, t = dyadic(plane.slope), dyadic(plane.bias)
    if (w.n[:, ~inside] != 0).any():
        return False
    low, high = _windows(node, low), _windows(node, high)
    least = (w * low).minimum(w * high)
    own = ((w - ONE) * low).minimum((w - ONE) * high)
    all_places = (t + least.moved(lambda n: n.sum(-1))).at((..., None))
    excess = all_places - least + own
    return bool((excess.n[:, inside] >= 0).all())
