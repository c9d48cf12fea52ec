"""Training objectives: settings, and for a given network a loss and a measure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.errors import UserError
from certnas.training.attack import pgd
from certnas.training.certified import BoxedCrossEntropy, FusedCrossEntropy
from certnas.training.ramp import smooth_ramp

CrossEntropy = Callable[[Tensor, Tensor], Tensor]
"""(images, labels) -> mean cross-entropy."""
EXAMPLE = 2
"""Number of images that trace a network."""


class Aim(ABC):
    """An objective for one network."""

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor, cross_entropy: CrossEntropy, t: float, whole: Tensor) -> Tensor:
        """The loss of a batch at the fraction t in [0, 1] of the training. Scalar.

        The network is in training mode. `cross_entropy` is the mean over the batch, with label smoothing
        and auxiliary head. `whole` [M,C,H,W] is the batch of all processes, which determines the batch-norm
        statistics; x [N,C,H,W] is this process's share of it.
        """

    @abstractmethod
    def correct(self, x: Tensor, y: Tensor) -> Tensor:
        """True for each image that counts as correct; the network is in evaluation mode. [N] of bool"""


class Objective(ABC):
    """The settings of a training objective."""

    measure: str
    """The name of the mean of `Aim.correct`; the highest measure selects the best network."""

    @abstractmethod
    def on(self, network: nn.Module, example: Tensor) -> Aim:
        """The objective for this network, whose input is like `example` [N,C,H,W]."""

    def schedule(self, t: float) -> dict[str, float]:
        """The scheduled values at the fraction t of the training, by name, for the log."""
        return {}


@dataclass(frozen=True)
class Standard(Objective):
    """The cross-entropy of the clean images."""

    measure = "accuracy"

    def on(self, network: nn.Module, example: Tensor) -> Aim:
        return _Clean(network)


@dataclass(frozen=True)
class AdversarialTraining(Objective):
    """The cross-entropy of PGD adversarial examples in an l∞ ball (Madry et al. 2018).

    The attack sees the network in evaluation mode. The defaults are AdvRush's. Raises UserError for a value
    out of range.
    """

    eps: float = 0.031
    """Radius of the ball, in [0, 1] pixels."""
    step: float = 0.01
    """Size of a sign step, in [0, 1] pixels."""
    steps: int = 7
    """Number of sign steps."""
    start: float = 0.001
    """Standard deviation of the initial noise, in [0, 1] pixels; the start is projected onto ball and box."""
    warmup: float = 0.0
    """Fraction of the training in which radius and step size grow linearly from 0."""
    measure = "adversarial_accuracy"
    """The share of held-out images that are correct under the attack."""

    def __post_init__(self) -> None:
        _positive(eps=self.eps, step=self.step, steps=self.steps)
        if self.start < 0:
            raise UserError(f"start: got {self.start:g}; give 0 or more")
        _fraction(warmup=self.warmup)

    def schedule(self, t: float) -> dict[str, float]:
        return {"eps": self.eps * (1.0 if t >= self.warmup else t / self.warmup)}

    def on(self, network: nn.Module, example: Tensor) -> Aim:
        return _Attacked(network, self)


@dataclass(frozen=True)
class CertifiedTraining(Objective):
    """κ·CE(f(x), y) + (1 − κ)·(upper bound of max CE(f(x'), y) over ‖x' − x‖∞ ≤ ε, x' in [0, 1]).

    During the warm-up, ε rises smoothly from 0 to `eps` and κ falls from 1 to `kappa` (Gowal et al. 2018;
    the ramp is that of Xu et al. 2020). A bound holds for one fixed network, so batch norm uses the mean
    and variance of the clean batch, as differentiable constants, for every image of the ball. The measure
    uses running statistics. Raises UserError for a value out of range.
    """

    eps: float = 2 / 255
    """Final radius of the ball, l∞, in [0, 1] pixels."""
    warmup: tuple[float, float] = (0.05, 0.6)
    """Fractions of the training at which the warm-up starts and ends."""
    kappa: float = 0.5
    """Final weight κ of the clean cross-entropy."""
    measure = "certified_accuracy"
    """The share of held-out images with a certificate at radius `eps`."""

    def __post_init__(self) -> None:
        _positive(eps=self.eps)
        first, last = self.warmup
        if not 0 <= first < last <= 1:
            raise UserError(f"warmup: got {first:g} to {last:g}; give rising fractions from 0 to 1")
        _fraction(kappa=self.kappa)

    def schedule(self, t: float) -> dict[str, float]:
        ramp = self.ramp(t)
        return {"eps": self.eps * ramp, "kappa": 1 - (1 - self.kappa) * ramp}

    def ramp(self, t: float) -> float:
        """The warm-up's progress at the fraction t of the training, from 0 to 1."""
        first, last = self.warmup
        return smooth_ramp((t - first) / (last - first))

    @abstractmethod
    def bound(self, t: float) -> bounds.Method:
        """The method that bounds −CE from below; its specification is the margins. [N, K−1, K] -> [N, 1]"""

    @property
    @abstractmethod
    def proof(self) -> bounds.Method:
        """The bound method of the certified accuracy."""

    def on(self, network: nn.Module, example: Tensor) -> Aim:
        return _Bounded(network, self, example[:EXAMPLE])


@dataclass(frozen=True)
class IntervalBounds(CertifiedTraining):
    """Certified training with interval bounds (IBP: Gowal et al. 2018)."""

    def bound(self, t: float) -> bounds.Method:
        return BoxedCrossEntropy()

    @property
    def proof(self) -> bounds.Method:
        return bounds.IBP()


@dataclass(frozen=True)
class FusedCrownIBP(CertifiedTraining):
    """Certified training with CROWN-IBP and loss fusion (Zhang et al. 2020; Xu et al. 2020).

    The bound is β·(fused CROWN-IBP) + (1 − β)·(interval bound). During the warm-up β falls from 1 to
    `beta`.
    """

    beta: float = 0.0
    """Final weight β of the CROWN-IBP bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _fraction(beta=self.beta)

    def schedule(self, t: float) -> dict[str, float]:
        return {**super().schedule(t), "beta": self._beta(t)}

    def _beta(self, t: float) -> float:
        return 1 - (1 - self.beta) * self.ramp(t)

    def bound(self, t: float) -> bounds.Method:
        return FusedCrossEntropy(self._beta(t))

    @property
    def proof(self) -> bounds.Method:
        return bounds.CrownIBP()


OBJECTIVES: dict[str, type[Objective]] = {
    "standard": Standard,
    "pgd-at": AdversarialTraining,
    "ibp": IntervalBounds,
    "crown-ibp": FusedCrownIBP,
}
"""Objective name -> class."""


class _Clean(Aim):
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def loss(self, x: Tensor, y: Tensor, cross_entropy: CrossEntropy, t: float, whole: Tensor) -> Tensor:
        return cross_entropy(x, y)

    def correct(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(x).argmax(1) == y


class _Attacked(_Clean):
    def __init__(self, network: nn.Module, objective: AdversarialTraining) -> None:
        super().__init__(network)
        self.objective = objective

    def _attack(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        o = self.objective
        start = x + o.start * torch.randn_like(x)
        return pgd(self.network, x, y, eps=eps, step=o.step * eps / o.eps, steps=o.steps, start=start)

    def loss(self, x: Tensor, y: Tensor, cross_entropy: CrossEntropy, t: float, whole: Tensor) -> Tensor:
        return cross_entropy(self._attack(x, y, self.objective.schedule(t)["eps"]), y)

    def correct(self, x: Tensor, y: Tensor) -> Tensor:
        return super().correct(self._attack(x, y, self.objective.eps), y)


class _Bounded(Aim):
    """Bounds of a network that is traced once in each mode and bound to its current parameters at every step."""

    def __init__(self, network: nn.Module, objective: CertifiedTraining, example: Tensor) -> None:
        self.objective = objective
        mode = network.training
        self.training = bounds.trace(network.train(), example)
        self.evaluation = bounds.trace(network.eval(), example)
        network.train(mode)

    def loss(self, x: Tensor, y: Tensor, cross_entropy: CrossEntropy, t: float, whole: Tensor) -> Tensor:
        now = self.objective.schedule(t)
        loss = cross_entropy(x, y)
        if now["eps"] == 0:
            return loss
        rows = self._margins(y)
        region = bounds.Linf(x, now["eps"], 0.0, 1.0)
        network = self.training.bind(batch=whole)
        bounded = -bounds.lower_bounds(network, region, rows, self.objective.bound(t)).mean()
        return now["kappa"] * loss + (1 - now["kappa"]) * bounded

    def correct(self, x: Tensor, y: Tensor) -> Tensor:
        region = bounds.Linf(x, self.objective.eps, 0.0, 1.0)
        with torch.no_grad():
            network = self.evaluation.bind()
            lower = bounds.lower_bounds(network, region, self._margins(y), self.objective.proof)
        return (lower > 0).all(1)

    def _margins(self, y: Tensor) -> Tensor:
        (classes,) = self.training.output_shape
        return bounds.margins(y, classes)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"{name}: got {value:g}; give more than 0")


def _fraction(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name}: got {value:g}; give a number from 0 to 1")
