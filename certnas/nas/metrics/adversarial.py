"""Adversarial losses of the supernet (Mok et al. 2021, AdvRush, table 5)."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certnas.nas.metrics.evaluation import BN, Classifier, classifier, input_gradient
from certnas.nas.metrics.metric import Momentary, at_least, draws, one_of, positive


@dataclass(frozen=True, kw_only=True)
class Adversarial(Momentary):
    """R = −(1/N) Σ_i ℓ(f(x'_i), y_i), x' an attack on the supernet within l∞ distance eps; −R replaces the loss.

    ℓ is the cross-entropy, in nats; eps in [0, 1] pixels; x' is a constant of the derivative.  on: `alpha`, the
    architecture step alone sees attacked images; `both`, the weight step is to be taken on `perturbed` images
    too. The paper leaves that open, and the mode of the attack: bn = `batch` attacks and evaluates by the batch's
    statistics, as training does, `running` by the running ones.  `none` keeps its weight, as in L.
    """

    replaces_loss: ClassVar[bool] = True
    bn: str = "batch"
    eps: float = 0.031
    on: str = "alpha"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("eps", self.eps)
        one_of("bn", self.bn, BN)
        one_of("on", self.on, ("alpha", "both"))

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        with classifier(network, self.bn, keep_none=True) as f:
            return -cross_entropy(f(self._attack(f, x.detach(), y, step)), y)

    def perturbed(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        """x', for the weight step of `on` = both; `step` picks the attack's random draws.  [N,C,H,W]"""
        with classifier(network, self.bn, keep_none=True) as f:
            return self._attack(f, x.detach(), y, step)

    @abstractmethod
    def _attack(self, f: Classifier, x: Tensor, y: Tensor, step: int) -> Tensor: ...

    def _ascend(self, f: Classifier, x: Tensor, at: Tensor, y: Tensor, step: float) -> Tensor:
        """One step up the loss from `at`, back into the ball round x and into [0, 1]."""
        with torch.enable_grad():
            at = at.detach().requires_grad_()
            gradient = input_gradient(cross_entropy(f(at), y, reduction="sum"), at, differentiable=False)
        moved = at.detach() + step * gradient.sign()
        return torch.clamp(torch.minimum(torch.maximum(moved, x - self.eps), x + self.eps), 0, 1)


@dataclass(frozen=True, kw_only=True)
class FGSM(Adversarial):
    """x' = clip(x + ε·sign ∇_x ℓ).  Goodfellow et al. 2015; eps as in AdvRush."""

    def _attack(self, f: Classifier, x: Tensor, y: Tensor, step: int) -> Tensor:
        return self._ascend(f, x, x, y, self.eps)


@dataclass(frozen=True, kw_only=True)
class PGD(Adversarial):
    """x' after `steps` sign steps of `step_size` within the ball, from x + start·N(0, 1).  Madry et al. 2018.

    Steps, sizes and start are AdvRush's: 7 of 0.01 pixels, from noise of 0.001.  seed: of the noise, new at each step.
    """

    steps: int = 7
    step_size: float = 0.01
    start: float = 0.001
    seed: int = 0

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
