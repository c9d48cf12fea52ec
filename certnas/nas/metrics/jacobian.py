"""The norm of the input Jacobian, as a metric (Wang et al. 2021, DSRNA, section 3.1.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certnas.nas.metrics.evaluation import classifier, input_gradient
from certnas.nas.metrics.metric import Momentary, at_least, draws, one_of, positive

SUPPORTED = ("linf", "l2")
"""Threat norms p. The Jacobian is measured in the dual norm q, 1/p + 1/q = 1."""


@dataclass(frozen=True, kw_only=True)
class JacobianNorm(Momentary):
    """R = −(δ/N) Σ_i (1/K) Σ_k ‖J_k(x_i)‖_q^s, where J_k = ∂f_k/∂x and q is dual to the threat norm.

    This is equation (15) of DSRNA. s is 1, or 2 with `squared`. By Hölder's inequality −R bounds, to first
    order, the mean change of a logit when the pixels move by at most δ in the threat norm. R is in logits
    (for s = 2, in logits² / pixel).

    Batch normalisation uses running statistics. With batch statistics, Σ_i f_k(x_i) is almost constant over
    the batch, so every row from one backward pass is almost zero.

    If projections = 0, the K rows cost K backward passes, and R is exact. If projections = n > 0, Σ_k
    ‖J_k‖_q^s is estimated by the mean over n random directions v of scale·‖vᵀJ‖_q^s, one backward pass
    each:

    * l2, squared: v is uniform on the unit sphere and the scale is K.  E[K·‖vᵀJ‖₂²] = ‖J‖²_F = Σ_k ‖J_k‖₂² (Hoffman et
      al. 2019, equation 10).
    * Otherwise: v selects one uniform row k per image and the scale is K.  E[K·‖J_k‖_q^s] = Σ_k ‖J_k‖_q^s.  A random
      row is unbiased for any norm; the spherical projection of Hoffman et al., which DSRNA uses here too, is not.
    """

    norm: str = "linf"
    """Threat norm: `linf` or `l2`."""
    delta: float = 1.0
    """δ, the size of the perturbation, in [0, 1] pixels of the threat norm."""
    projections: int = 1
    """Number of random directions (0: all K rows, exact)."""
    images: int = 0
    """Number of images to average over, from the start of the batch (0: all)."""
    squared: bool = False
    """True: s = 2."""
    seed: int = 0
    """Seed of the directions; they differ from search step to search step."""
    keep_none: bool = False
    """True: the operator `none` keeps its share of softmax(α), which shrinks J, as in the paper."""

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
        """Output directions, [N,K] each, scaled so that the terms sum to an estimate of the sum over rows."""
        n, k = logits.shape
        rows = torch.eye(k, dtype=logits.dtype, device=logits.device)
        if self.projections == 0:
            return [row.expand(n, k) for row in rows]
        random = draws(self.seed, step, logits.device)
        if self.squared and self.norm == "l2":
            drawn = [self._normal(logits, random) for _ in range(self.projections)]
            return [k**0.5 * v / torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in drawn]
        power = 2 if self.squared else 1
        choices = [
            torch.randint(k, (n,), generator=random, device=logits.device) for _ in range(self.projections)
        ]
        return [k ** (1 / power) * rows[choice] for choice in choices]

    def _normal(self, like: Tensor, random: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=random, device=like.device, dtype=like.dtype)

    def _length(self, logits: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """‖vᵀJ‖_q^s of each image. [N]"""
        gradient = input_gradient((logits * v).sum(), x, differentiable=True).flatten(1)
        if self.norm == "linf":
            length = gradient.abs().sum(1)
            return length.square() if self.squared else length
        return gradient.square().sum(1) if self.squared else torch.linalg.vector_norm(gradient, dim=1)
