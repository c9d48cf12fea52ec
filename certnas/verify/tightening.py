"""Certified radii raised towards the attacked ones by branch and bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import bounds
from bounds.memory import free_memory
from certnas.certifier import Certificates
from certnas.certifier.request import NORMS, Box, Norm
from certnas.errors import UserError
from certnas.verify.deadline import Deadline, OutOfTime
from certnas.verify.problem import Problem
from certnas.verify.search import Search
from certnas.verify.verification import LEAST_MEMORY, network_of

SHARE = 0.5
"""How much of an image's remaining time one radius may take."""
GROWTH = 1.5
"""The next radius to try where no attack bounds it from above."""


def tighten(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    certificates: Certificates,
    *,
    timeout: float,
    clip: Box | None = (0.0, 1.0),
    targets: Tensor | None = None,
    eps_max: float | None = None,
    tol: float = 1e-2,
    memory: int | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Certificates:
    """The certificates of images x [N, *shape], y [N], `radius_lower` raised as far as `timeout` seconds each allow.

    Every radius is proved as `certify` proves it, in float64 with its margin, at exactly that radius, by the cascade
    of `verify`: for every x' of the ball (and `clip`), f_y(x') > f_j(x') for all other j, or j = targets alone.
    An image is done where lower ≥ upper · (1 − tol).  `progress(image, lower, upper)` after each radius tried.
    clip, targets and eps_max are what the certificates were made with.  Raises UserError for a count that differs.
    """
    if not len(certificates) == len(x) == len(y):
        raise UserError(f"tighten: {len(certificates)} certificates for {len(x)} images and {len(y)} labels")
    network = network_of(model, tuple(x.shape[1:]))
    question = _Question(network, NORMS[certificates.norm], clip, memory)
    lower, seconds = certificates.radius_lower.copy(), certificates.seconds.copy()
    for i in range(len(x)):
        if certificates.label[i] != certificates.prediction[i]:
            continue
        deadline = Deadline(timeout)
        upper = min(float(certificates.radius_upper[i]), math.inf if eps_max is None else eps_max)
        rows = bounds.margins(y[i : i + 1], question.classes)
        if targets is not None:
            rows = bounds.targeted(y[i : i + 1], targets[i : i + 1], question.classes)
        about = (x[i : i + 1].double(), rows.double())
        lower[i] = _raised(question, *about, float(lower[i]), upper, tol, deadline, _told(progress, i))
        seconds[i] += deadline.spent
    status = tuple("certified" if r > 0 else s for r, s in zip(lower, certificates.status, strict=True))
    method = f"{certificates.method}, then branch and bound"
    return replace(certificates, method=method, radius_lower=lower, seconds=seconds, status=status)


def _told(progress: Callable[[int, float, float], None] | None, image: int) -> Callable[[float, float], None]:
    return lambda lower, upper: None if progress is None else progress(image, lower, upper)


def _raised(
    question: _Question,
    x: Tensor,
    rows: Tensor,
    lower: float,
    upper: float,
    tol: float,
    deadline: Deadline,
    tell: Callable[[float, float], None],
) -> float:
    """The largest radius proved from `lower`, proved already, to `upper`: bisected, each within a share of the time."""
    while deadline.left > 0 and lower < upper * (1 - tol):
        radius = (lower + upper) / 2 if math.isfinite(upper) else lower * GROWTH
        if not radius > lower:
            break
        share = SHARE * deadline.left if math.isfinite(deadline.left) else None
        if question.proved(x, rows, radius, share):
            lower = radius
        else:
            upper = radius
        tell(lower, upper)
    return lower


@dataclass(frozen=True)
class _Question:
    """Whether rows are positive throughout a ball of some norm."""

    network: bounds.Network
    norm: Norm
    clip: Box | None
    memory: int | None

    @property
    def classes(self) -> int:
        return self.network.graph.output_shape[0]

    def proved(self, x: Tensor, rows: Tensor, radius: float, seconds: float | None) -> bool:
        """Whether every row [1, S, K] is proved positive on the ball round x [1, *shape]."""
        box = {} if self.clip is None else {"lower": self.clip[0], "upper": self.clip[1]}
        region = self.norm.ball(x, radius, **box)
        coef = rows[0].unsqueeze(1)
        problem = Problem.of(
            self.network,
            region,
            torch.zeros(len(coef), dtype=torch.long),
            coef,
            torch.zeros(len(coef), 1, dtype=coef.dtype),
        )
        deadline = Deadline(seconds)

        def refuted(points: Tensor) -> bool:
            """Whether a point of the ball itself is a counterexample."""
            inside = points if self.clip is None else points.clamp(*self.clip)
            length = torch.linalg.vector_norm((inside - x).flatten(1), self.norm.order, dim=1)
            return bool(((length <= radius) & (search.problem.met_at(inside) <= 0)).any())

        memory = self.memory or max(free_memory(self.network.device) // 4, LEAST_MEMORY)
        search = Search(problem, deadline, memory, refuted, lambda problem, name: False)
        try:
            with deadline.enforced():
                search.go()
        except (OutOfTime, MemoryError):
            return False
        return not search.state.left
