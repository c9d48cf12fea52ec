"""Adversarial losses of the supernet as metrics (Mok et al. 2021, AdvRush, table 5)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certnas.ascent import sign_step
from certnas.nas.metrics.evaluation import BN, Classifier, classifier
from certnas.nas.metrics.metric import Momentary, at_least, draws, one_of, positive


@dataclass(frozen=True, kw_only=True)
class AdversarialLoss(Momentary):
    """R = −(1/N) Σ_i ℓ(f(x'_i), y_i), where x'_i is an adversarial example of x_i.

    −R replaces the loss in the objective. ℓ is the cross-entropy in nats. x' lies within l∞ distance `eps`
    of x and in [0, 1], and is a constant of the derivative. The operator `none` keeps its weight, as it
    does in L.

    AdvRush leaves two choices open, which are the settings `bn` and `on`.
    """

    replaces_loss: ClassVar[bool] = True
    """True: the search minimises −R instead of L − γ·R."""
    bn: str = "batch"
    """Statistics of batch normalisation in attack and evaluation: `batch`, as in training, or `running`."""
    eps: float = 0.031
    """Radius of the attack, l∞, in [0, 1] pixels."""
    on: str = "alpha"
    """Steps that use adversarial examples: `alpha`, the architecture step only; `both`, the weight step as
    well.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("eps", self.eps)
        one_of("bn", self.bn, BN)
        one_of("on", self.on, ("alpha", "both"))

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        with classifier(network, self.bn, keep_none=True) as f:
            return -cross_entropy(f(self._attack(f, x.detach(), y, step)), y)

    def perturbed(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Adversarial examples x' for the weight step when `on` is `both`. [N,C,H,W]

        `step` is the index of the search step and selects the random draws of the attack.
        """
        with classifier(network, self.bn, keep_none=True) as f:
            return self._attack(f, x.detach(), y, step)

    @abstractmethod
    def _attack(self, f: Classifier, x: Tensor, y: Tensor, step: int) -> Tensor: ...

    def _ascend(self, f: Classifier, x: Tensor, at: Tensor, y: Tensor, step: float) -> Tensor:
        """One sign step of size `step` up the loss, projected onto the l∞ ball around x and onto [0, 1]."""

        def loss(points: Tensor) -> Tensor:
            return cross_entropy(f(points), y, reduction="sum")

        def project(points: Tensor) -> Tensor:
            return torch.clamp(torch.minimum(torch.maximum(points, x - self.eps), x + self.eps), 0, 1)

        moved, _ = sign_step(loss, at, step, project)
        return moved


@dataclass(frozen=True, kw_only=True)
class FGSM(AdversarialLoss):
    """The fast gradient sign method: x' = clip(x + ε·sign ∇_x ℓ). Goodfellow et al. 2015; `eps` is AdvRush's."""

    def _attack(self, f: Classifier, x: Tensor, y: Tensor, step: int) -> Tensor:
        return self._ascend(f, x, x, y, self.eps)


@dataclass(frozen=True, kw_only=True)
class PGD(AdversarialLoss):
    """Projected gradient descent: `steps` sign steps in the ball, from x + start·N(0, 1). Madry et al. 2018.

    The defaults are AdvRush's.
    """

    steps: int = 7
    """Number of sign steps."""
    step_size: float = 0.01
    """Size of a step, in [0, 1] pixels."""
    start: float = 0.001
    """Standard deviation of the initial noise, in [0, 1] pixels."""
    seed: int = 0
    """Seed of the noise; the noise differs from search step to search step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("steps", self.steps, 1)
        positive("step_size", self.step_size)
        at_least("start", self.start, 0)

    def _attack(self, f: Classifier, x: Tensor, y: Tensor, step: int) -> Tensor:
        noise = torch.randn(
            x.shape, generator=draws(self.seed, step, x.device), device=x.device, dtype=x.dtype
        )
        at = torch.clamp(x + (self.start * noise).clamp(-self.eps, self.eps), 0, 1)
        for _ in range(self.steps):
            at = self._ascend(f, x, at, y, self.step_size)
        return at
