"""Certified radii raised towards the attacked ones by branch and bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import free_memory
from certnas.certifier import Certificates
from certnas.certifier.request import TARGETS, Box, chosen
from certnas.errors import UserError
from certnas.verifier.deadline import Deadline, OutOfTime
from certnas.verifier.problem import Problem
from certnas.verifier.proof import Proof
from certnas.verifier.search import Search
from certnas.verifier.verification import LEAST_MEMORY

BRANCHED = "branch and bound"
SHARE = 0.5
"""How much of an image's remaining time one radius may take."""
GROWTH = 1.5
"""The next radius to try where no attack bounds it from above."""


def tighten(
    network: bounds.Network,
    x: Tensor,
    y: Tensor,
    certificates: Certificates,
    *,
    timeout: float,
    clip: Box | None = (0.0, 1.0),
    targets: str = "all",
    eps_max: float | None = None,
    at: Sequence[float] = (),
    tol: float = 1e-2,
    seed: int = 0,
    memory: int | None = None,
    progress: Callable[[int, float, float], None] | None = None,
    proved: Callable[[int, Proof], None] | None = None,
) -> Certificates:
    """The certificates of images x [N, *shape], y [N], `radius_lower` raised as far as `timeout` seconds each allow.

    Every radius is proved as `certify` proves it, in float64 with its margin, at exactly that radius, by the cascade
    of `verify`: for every x' of the ball (and `clip`), f_y(x') > f_j(x') for all targets j.
    The radii `at`, and eps_max, are tried before others that lie between the same ends.
    An image is done where lower ≥ upper · (1 − tol).  `progress(image, lower, upper)` after each radius tried;
    `proved(image, proof)` for each raised one, at its last radius.
    network: `network_of(model, shape)`; clip, targets, eps_max, at and seed as `certify` was given them.  Raises
    UserError for a count that differs.
    """
    if not len(certificates) == len(x) == len(y):
        raise UserError(f"tighten: {len(certificates)} certificates for {len(x)} images and {len(y)} labels")
    question = _Question(network, bounds.NORMS[certificates.norm], clip, memory, proved is not None)
    x, y = x.detach().to(network.device, torch.float64), y.to(network.device)
    with torch.no_grad():
        logits = network(x)
    target, index = chosen("targets", targets, TARGETS), certificates.index.tolist()
    rows = bounds.margins(y, logits.shape[1], dtype=x.dtype)
    if target is not None:
        rows = bounds.targeted(y, target(logits, y, index, seed), logits.shape[1], dtype=x.dtype)
    asked = tuple(at) if eps_max is None else (*at, eps_max)
    lower, seconds = certificates.radius_lower.copy(), certificates.seconds.copy()
    for i in certificates.correct.nonzero()[0].tolist():
        deadline = Deadline(timeout)
        upper = min(float(certificates.radius_upper[i]), math.inf if eps_max is None else eps_max)
        tell = partial(progress or _silent, i)
        about = (x[i : i + 1], rows[i])
        ends = float(lower[i]), upper
        lower[i], proof = _raised(question, *about, ends, asked, tol, deadline, tell)
        seconds[i] += deadline.spent
        if proof is not None and proved is not None:
            proved(i, proof)
    status = tuple("certified" if r > 0 else s for r, s in zip(lower, certificates.status, strict=True))
    raised = lower > certificates.radius_lower
    by = tuple(
        f"{name}, then {BRANCHED}" if up else name
        for up, name in zip(raised, certificates.proved_by, strict=True)
    )
    method = f"{certificates.method}, then {BRANCHED}"
    return replace(
        certificates, method=method, proved_by=by, radius_lower=lower, seconds=seconds, status=status
    )


def _silent(image: int, lower: float, upper: float) -> None:
    """Tells nobody."""


def _raised(
    question: _Question,
    x: Tensor,
    rows: Tensor,
    ends: tuple[float, float],
    asked: Sequence[float],
    tol: float,
    deadline: Deadline,
    tell: Callable[[float, float], None],
) -> tuple[float, Proof | None]:
    """The largest radius proved from ends[0], proved already, to ends[1]: bisected, each within a share of the time.

    Radii asked for that lie between the ends are tried before others, the middle one first.
    """
    (lower, upper), last, left = ends, None, sorted({eps for eps in asked if ends[0] < eps <= ends[1]})
    while deadline.left > 0 and (left or lower < upper * (1 - tol)):
        radius = (lower + upper) / 2 if math.isfinite(upper) else lower * GROWTH
        if left:
            radius = left[len(left) // 2]
        if not radius > lower:
            break
        share = SHARE * deadline.left if math.isfinite(deadline.left) else None
        proof = question.proved(x, rows, radius, share)
        if proof is not None:
            lower, last = radius, proof
        else:
            upper = radius
        left = [eps for eps in left if lower < eps <= upper and eps != radius]
        tell(lower, upper)
    return lower, last


@dataclass(frozen=True)
class _Question:
    """Whether rows are positive throughout a ball of some norm; kept: with how each subproblem was proved."""

    network: bounds.Network
    norm: type[bounds.Region]
    clip: Box | None
    memory: int | None
    kept: bool

    def proved(self, x: Tensor, rows: Tensor, radius: float, seconds: float | None) -> Proof | None:
        """The proof that every row [S, K] is positive on the ball round x [1, *shape], if there is one."""
        box = {} if self.clip is None else {"lower": self.clip[0], "upper": self.clip[1]}
        region = self.norm(x, radius, **box)
        coef = rows.unsqueeze(1)
        problem = Problem.of(
            self.network,
            region,
            torch.zeros(len(coef), dtype=torch.long, device=coef.device),
            coef,
            torch.zeros(len(coef), 1, dtype=coef.dtype, device=coef.device),
        )
        deadline = Deadline(seconds)

        def refuted(points: Tensor) -> bool:
            """Whether a point of the ball itself is a counterexample."""
            inside = points if self.clip is None else points.clamp(*self.clip)
            length = torch.linalg.vector_norm((inside - x).flatten(1), self.norm.p, dim=1)
            return bool(((length <= radius) & (search.problem.met_at(inside) <= 0)).any())

        memory = self.memory or max(free_memory(self.network.device) // 4, LEAST_MEMORY)
        proof = Proof(problem, memory if self.kept else 0)
        search = Search(problem, deadline, memory, refuted, lambda problem, name: False, proof=proof)
        try:
            with deadline.enforced():
                search.go()
        except (OutOfTime, MemoryError):
            return None
        return None if search.state.left else proof
