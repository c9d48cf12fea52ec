"""Comparison of certnas and auto_LiRPA on the same network, images, specification and radius."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.crosscheck.auto_lirpa import LirpaBounds, Method, OracleUnusable, auto_lirpa_bounds
from certnas.errors import UserError
from certnas.testing.points import Reached, reached

METHODS: dict[str, tuple[bounds.Method, Method]] = {
    "ibp": (bounds.IBP(), "IBP"),
    "crown-ibp": (bounds.CrownIBP(), "CROWN-IBP"),
    "crown": (bounds.Crown(), "CROWN"),
}
"""Name -> (certnas's method, auto_LiRPA's method)."""
TOLERANCE = 1e-2
"""Accepted mean excess width of certnas, relative to auto_LiRPA's width.

The excess need not be 0: tighter intermediate bounds may flip the adaptive slope of a ReLU, after which a
single row can be looser (`bounds.Crown`).
"""
VIOLATED = 1e-9
"""A point violates a bound if it exceeds the bound by more than this × (1 + |bound|), in float64."""
CLEAN = 1e-9
"""Accepted relative difference between the traced network and the model."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of one method at one radius. NaN stands for values that need auto_LiRPA's bounds but lack them."""

    method: str
    """Name of the method, a key of METHODS."""
    norm: str
    """Norm of the ball."""
    eps: float
    """Radius of the ball, in input units."""
    clean: float
    """Relative difference between the traced network and the model at the images."""
    images: int = 1
    """Number of images."""
    known: str = ""
    """Reason why auto_LiRPA is known to be wrong here; empty otherwise."""
    unusable: str = ""
    """Reason why auto_LiRPA has no bounds here; empty otherwise."""
    absolute: float = float("nan")
    """Largest absolute difference between two bounds."""
    relative: float = float("nan")
    """Largest difference between two bounds relative to auto_LiRPA's width."""
    looser: float = float("nan")
    """Mean excess width of certnas relative to auto_LiRPA's width; negative if certnas is tighter."""
    worst: float = float("nan")
    """Largest excess width of certnas at one bound, relative to auto_LiRPA's width."""
    our_violations: int = 0
    """Number of certnas's bounds that some point violates."""
    our_beyond: float = 0.0
    """Largest violation of certnas's bounds."""
    their_violations: int = 0
    """Number of auto_LiRPA's bounds that some point violates."""
    their_beyond: float = 0.0
    """Largest violation of auto_LiRPA's bounds."""
    our_seconds: float = float("nan")
    """certnas's seconds for all images."""
    their_seconds: float = float("nan")
    """auto_LiRPA's seconds for all images."""

    @property
    def tighter(self) -> str:
        """The tighter of the two on average, or "equal"; "not compared" if auto_LiRPA has no valid bounds."""
        if self.unusable or self.known:
            return "not compared"
        if abs(self.looser) <= 1e-6:
            return "equal"
        return "auto_LiRPA" if self.looser > 0 else "certnas"

    def failures(self, tolerance: float = TOLERANCE) -> list[str]:
        """Messages about unsound bounds and too much excess width; a known error of auto_LiRPA is no
        failure.
        """
        found = []
        if not self.clean <= CLEAN:
            found.append(f"certnas evaluates the network {self.clean:.2g} (relative) away from the model")
        if self.our_violations:
            found.append(f"certnas is unsound: {self.our_violations} bounds, by up to {self.our_beyond:.3g}")
        if self.their_violations and not self.known:
            found.append(
                f"auto_LiRPA is unsound: {self.their_violations} bounds, by up to {self.their_beyond:.3g}"
            )
        if not self.known and not self.unusable and not self.looser <= tolerance:
            found.append(
                f"certnas is looser by {self.looser:.3g} of auto_LiRPA's width, more than {tolerance:g}"
            )
        return [f"{self.method}, {self.norm} {self.eps:g}: {line}" for line in found]


def compare(
    model: nn.Module,
    x: Tensor,
    eps: float,
    norm: str = "linf",
    *,
    methods: Sequence[str] = tuple(METHODS),
    samples: int = 100,
    seed: int = 0,
) -> list[Comparison]:
    """Compare certnas's and auto_LiRPA's bounds of every logit over ‖x' − x‖ ≤ eps, in float64.

    Args:
        model: maps [N, *shape] to [N, K].  It is copied and never changed.
        x: images [N, *shape].  The balls are not intersected with a box, because auto_LiRPA does not support that.
        eps: radius, in units of x.
        norm: a key of `bounds.NORMS`.
        methods: keys of METHODS.
        samples: number of random points per image that test soundness.
        seed: seed of the points.

    Returns:
        One `Comparison` per method.

    Raises:
        UserError: an unknown method, or auto_LiRPA is not installed.

    auto_LiRPA gets one image at a time, because its bounds of an image depend on the other images of the
    batch.

    >>> import torch
    >>> from certnas.crosscheck import compare
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> (found,) = compare(model, torch.rand(1, 2), 0.1, methods=("crown",))
    >>> found.failures()
    []
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(f"method {name!r} cannot be compared; accepted: {', '.join(METHODS)}")
    model = copy.deepcopy(model).eval().double()
    x = x.detach().double()
    network = bounds.trace(model, x[:1]).bind()
    with torch.no_grad():
        expected, got = model(x), network(x)
    clean = float((expected - got).abs().max() / (1 + expected.abs().max()))
    rows = bounds.logits(len(x), expected.shape[1], dtype=torch.float64)
    region = bounds.NORMS[norm](x, eps)
    found = reached(model, region, rows, samples=samples, seed=seed)
    return [_compared(model, network, region, rows, found, name, norm, eps, clean) for name in methods]


def _compared(
    model: nn.Module,
    network: bounds.Network,
    region: bounds.Region,
    rows: Tensor,
    found: Reached,
    name: str,
    norm: str,
    eps: float,
    clean: float,
) -> Comparison:
    ours, theirs = METHODS[name]
    began = perf_counter()
    with torch.no_grad():
        both = bounds.lower_bounds(network, region, torch.cat([rows, -rows], 1), ours)
    our_seconds = perf_counter() - began
    lower, upper = both[:, : rows.shape[1]], -both[:, rows.shape[1] :]
    violations, beyond = _violations(lower, upper, found)
    mine = Comparison(name, norm, eps, clean, len(region.x), our_seconds=our_seconds)
    mine = replace(mine, our_violations=violations, our_beyond=beyond)
    known = ""
    try:
        try:
            given = _theirs(model, region.x, eps, norm, theirs, rows)
        except OracleUnusable as error:
            known = error.why
            given = _theirs(model, region.x, eps, norm, theirs, rows, allow_unsound=True)
    except OracleUnusable as error:
        return replace(mine, unusable=error.why)
    width = (given.upper - given.lower).clamp(min=torch.finfo(torch.float64).tiny)
    looser = torch.stack([given.lower - lower, upper - given.upper])
    violations, beyond = _violations(given.lower, given.upper, found)
    return replace(
        mine,
        known=known,
        absolute=float(looser.abs().max()),
        relative=float((looser.abs() / width).max()),
        looser=float((looser / width).mean()),
        worst=float((looser / width).max()),
        their_violations=violations,
        their_beyond=beyond,
        their_seconds=given.seconds,
    )


def _violations(lower: Tensor, upper: Tensor, found: Reached) -> tuple[int, float]:
    """The number of bounds that some point violates, and the largest violation. NaN counts as violated."""
    beyond = torch.stack([lower - found.lower, found.upper - upper])
    passed = ~(beyond <= VIOLATED * (1 + torch.stack([lower, upper]).abs()))
    return int(passed.sum()), float(beyond[passed].max()) if bool(passed.any()) else 0.0


def _theirs(
    model: nn.Module,
    x: Tensor,
    eps: float,
    norm: str,
    method: Method,
    rows: Tensor,
    *,
    allow_unsound: bool = False,
) -> LirpaBounds:
    """auto_LiRPA's bounds, computed one image at a time."""
    by_image = [
        auto_lirpa_bounds(
            model, x[n : n + 1], eps, norm, method=method, rows=rows[n : n + 1], allow_unsound=allow_unsound
        )
        for n in range(len(x))
    ]
    lower, upper, clean = (
        torch.cat([getattr(one, name) for one in by_image]) for name in ("lower", "upper", "clean")
    )
    seconds, cpu_seconds = sum(one.seconds for one in by_image), sum(one.cpu_seconds for one in by_image)
    return LirpaBounds(lower, upper, clean, by_image[0].version, seconds, cpu_seconds)
