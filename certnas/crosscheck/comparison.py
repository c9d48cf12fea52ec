"""certnas and auto_LiRPA on the same network, images, rows and radius: clean outputs first, then bounds."""

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
TOLERANCE = 1e-2
"""certnas may be looser by this share of auto_LiRPA's width, in the mean over all bounds: tighter intermediate bounds
may flip the adaptive slope of a ReLU, after which a single row is looser (`bounds.Crown`)."""
VIOLATED = 1e-9
"""A point is outside of a bound that it passes by more than this × (1 + |bound|), in float64."""
CLEAN = 1e-9


@dataclass(frozen=True)
class Comparison:
    """One method at one radius; nothing is said about auto_LiRPA where `unusable` says why it has no bounds.

    images: how many.  known: why auto_LiRPA is known to be wrong here, empty where it is not.  absolute, relative:
    greatest difference of two bounds, the second in widths of auto_LiRPA's.  looser: by how much of that width certnas
    is looser in the mean (negative: tighter), worst: at one bound.  violations: how many bounds some point passes;
    beyond: by how much at most.  seconds: for all images.
    """

    method: str
    norm: str
    eps: float
    clean: float
    images: int = 1
    known: str = ""
    unusable: str = ""
    absolute: float = float("nan")
    relative: float = float("nan")
    looser: float = float("nan")
    worst: float = float("nan")
    our_violations: int = 0
    our_beyond: float = 0.0
    their_violations: int = 0
    their_beyond: float = 0.0
    our_seconds: float = float("nan")
    their_seconds: float = float("nan")

    @property
    def tighter(self) -> str:
        """Which of the two is tighter in the mean, or "equal"; "not compared" where auto_LiRPA has no right bounds."""
        if self.unusable or self.known:
            return "not compared"
        if abs(self.looser) <= 1e-6:
            return "equal"
        return "auto_LiRPA" if self.looser > 0 else "certnas"

    def failures(self, tolerance: float = TOLERANCE) -> list[str]:
        """What must not be: an unsound bound, or certnas looser than the tolerance.  A known case is no failure."""
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
    """Both tools' bounds of every logit over ‖x' − x‖ ≤ eps, in float64; one `Comparison` a method.

    model maps [N, *shape] to [N, K] and is copied, never changed; x [N, *shape]; the ball is not cut to a box, which
    auto_LiRPA does not know.  auto_LiRPA sees one image at a time: its bounds of an image depend on its company.
    Raises UserError for an unknown method or where auto_LiRPA is not installed.
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
    """How many bounds some point passes, and by how much at most.  NaN is passed."""
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
    """auto_LiRPA's bounds, one image at a time."""
    alone = [
        auto_lirpa_bounds(
            model, x[n : n + 1], eps, norm, method=method, rows=rows[n : n + 1], allow_unsound=allow_unsound
        )
        for n in range(len(x))
    ]
    lower, upper, clean = (
        torch.cat([getattr(one, name) for one in alone]) for name in ("lower", "upper", "clean")
    )
    seconds, cpu_seconds = sum(one.seconds for one in alone), sum(one.cpu_seconds for one in alone)
    return LirpaBounds(lower, upper, clean, alone[0].version, seconds, cpu_seconds)
