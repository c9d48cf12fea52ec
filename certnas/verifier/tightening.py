"""Raises certified radii towards the attacked radii by branch and bound."""

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
"""The share of an image's remaining time that one radius may take."""
GROWTH = 1.5
"""The factor to the next radius if no attack bounds it from above."""


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
    """Raises `radius_lower` of certificates by branch and bound, as far as the time limit allows.

    Every radius is proved as by `certify`, in float64 with its margin at exactly that radius, by the stages of
    `verify`: for every x' of the ball (and `clip`), f_y(x') > f_j(x') for all target classes j. An image is finished
    when lower ≥ upper · (1 − tol).

    network: the result of `network_of(model, shape)`.
    x, y: images [N, *shape] and labels [N].
    certificates: the certificates of these images.
    timeout: the time limit of each image, in seconds.
    clip, targets, eps_max, seed: the arguments that `certify` was called with; eps_max is in input units.
    at: radii that are tried, like eps_max, before others between the same ends.
    tol: the relative gap between certified and attacked radius at which an image is finished.
    memory: the budget in bytes.
    progress: is called as progress(image, lower, upper) after each radius.
    proved: is called as proved(image, proof) for each image whose radius was raised, with the proof of the last
        radius.

    Returns the certificates with raised radii. Raises UserError if the numbers of images differ.
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
    """Ignores the progress."""


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
    """The largest proved radius between ends[0], which is proved already, and ends[1], and its proof.

    The radii are bisected, each within a share of the remaining time. Radii in `asked` that lie between the ends are
    tried first, starting with the middle one.
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
    """Proves that rows are positive on a ball around an image."""

    network: bounds.Network
    """The network in float64."""
    norm: type[bounds.Region]
    """The kind of ball."""
    clip: Box | None
    """The lower and upper limit of every input; None for no box."""
    memory: int | None
    """The memory budget in bytes; None for a share of the free memory."""
    kept: bool
    """Whether the proof records every subproblem."""

    def proved(self, x: Tensor, rows: Tensor, radius: float, seconds: float | None) -> Proof | None:
        """The proof that every row [S, K] is positive on the ball around x [1, *shape]; None if none is found in
        time.
        """
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
            """Whether a point of the ball is a counterexample."""
            inside = points if self.clip is None else points.clamp(*self.clip)
            length = torch.linalg.vector_norm((inside - x).flatten(1), self.norm.p, dim=1)
            return bool(((length <= radius) & (search.problem.least_excess(inside) <= 0)).any())

        memory = self.memory or max(free_memory(self.network.device) // 4, LEAST_MEMORY)
        proof = Proof(problem, memory if self.kept else 0)
        search = Search(problem, deadline, memory, refuted, lambda problem, name: False, proof=proof)
        try:
            with deadline.enforced():
                search.go()
        except (OutOfTime, MemoryError):
            return None
        return None if search.state.left else proof
