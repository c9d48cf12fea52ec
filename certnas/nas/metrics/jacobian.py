"""The Jacobian norm bound (Wang et al. 2021, DSRNA, section 3.1.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certnas.nas.metrics.evaluation import classifier, input_gradient
from certnas.nas.metrics.metric import Momentary, at_least, draws, one_of, positive

SUPPORTED = ("linf", "l2")
"""Threat norm p -> q with 1/p + 1/q = 1."""


@dataclass(frozen=True, kw_only=True)
class JacobianNorm(Momentary):
    """R = −(δ/N) Σ_i (1/K) Σ_k ‖J_k(x_i)‖_q^s, J_k = ∂f_k/∂x, q dual to the threat norm.  Equation (15) of DSRNA.

    By Hölder's inequality −R bounds, to first order, the mean change of a logit when pixels move by at most δ in
    the threat norm; R is in logits (in logits² / pixel for s = 2).  s = 1, or 2 with `squared`.

    projections = 0 takes the K rows one by one: K backward passes, exact.  projections = n > 0 replaces
    Σ_k ‖J_k‖_q^s by the mean over n random directions v of scale·‖vᵀJ‖_q^s, one backward pass each:

    * l2, squared: v uniform on the unit sphere, scale K.  E[K·‖vᵀJ‖₂²] = ‖J‖²_F = Σ_k ‖J_k‖₂² (Hoffman et al.
      2019, equation 10).
    * every other case: one row k of each image, uniform, scale K.  E[K·‖J_k‖_q^s] = Σ_k ‖J_k‖_q^s: a random row is
      unbiased for any norm, which a spherical projection is not (DSRNA takes Hoffman et al.'s for these too).

    Batch normalisation is by running statistics: by the batch's, Σ_i f_k(x_i) is almost a constant of the batch, and
    with it every row that one backward pass gives.  images: the mean is over the first
    so many of the batch (0: all).  keep_none: as the paper, let mass on `none` shrink J.  seed: of the directions,
    which are new at each step.
    """

    norm: str = "linf"
    delta: float = 1.0
    projections: int = 1
    images: int = 0
    squared: bool = False
    seed: int = 0
    keep_none: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("norm", self.norm, SUPPORTED)
        positive("delta", self.delta)
        at_least("projections", self.projections, 0)
        at_least("images", self.images, 0)

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        with classifier(network, "running", keep_none=self.keep_none) as f:
            x = (x[: self.images] if self.images else x).detach().requires_grad_()
            logits = f(x)
            terms = [self._length(logits, x, v) for v in self._directions(logits, step)]
        total = torch.stack(terms).sum(0)
        if self.projections:
            total = total / self.projections
        return -self.delta * total.mean() / logits.shape[1]

    def _directions(self, logits: Tensor, step: int) -> list[Tensor]:
        """Directions of the output, [N,K] each, scaled so that Σ of the terms estimates the sum over rows."""
        n, k = logits.shape
        rows = torch.eye(k, dtype=logits.dtype, device=logits.device)
        if self.projections == 0:
            return [row.expand(n, k) for row in rows]
        random = draws(self.seed, step, logits.device)
        if self.squared and self.norm == "l2":
            drawn = [self._normal(logits, random) for _ in range(self.projections)]
            return [k**0.5 * v / torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in drawn]
        power = 2 if self.squared else 1
        picked = [
            torch.randint(k, (n,), generator=random, device=logits.device) for _ in range(self.projections)
        ]
        return [k ** (1 / power) * rows[choice] for choice in picked]

    def _normal(self, like: Tensor, random: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=random, device=like.device, dtype=like.dtype)

    def _length(self, logits: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """‖vᵀJ‖_q^s of each image.  [N]"""
        gradient = input_gradient((logits * v).sum(), x, differentiable=True).flatten(1)
        if self.norm == "linf":
            length = gradient.abs().sum(1)
            return length.square() if self.squared else length
        return gradient.square().sum(1) if self.squared else torch.linalg.vector_norm(gradient, dim=1)
