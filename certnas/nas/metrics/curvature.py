"""The curvature of the loss with respect to the input, as a metric (Mok et al. 2021, AdvRush, section 4.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certnas.nas.metrics.evaluation import classifier, input_gradient
from certnas.nas.metrics.metric import Momentary, at_least, positive


@dataclass(frozen=True, kw_only=True)
class Curvature(Momentary):
    """R = −(1/N) Σ_i ‖∇ℓ_i(x_i + h·z_i) − ∇ℓ_i(x_i)‖₂, where z_i = sign ∇ℓ_i(x_i) / ‖sign ∇ℓ_i(x_i)‖₂.

    ℓ_i is the cross-entropy of image i, ∇ its gradient with respect to the image, and z is a constant of
    the derivative. R is in loss per pixel unit.

    This is equation (10) of AdvRush. Where the equation leaves a choice open, the metric follows AdvRush's
    code: norms per image, their mean, running statistics. The code's undocumented factor 4 belongs to γ.
    The paper warms up for 50 of 60 epochs.
    """

    h: float = 0.37
    """l2 length of the step, in [0, 1] pixels. The paper's 1.5 refers to normalised images; with CIFAR-10's
    standard deviations that is 0.37, or 1.7/255 per pixel.
    """
    images: int = 0
    """Number of images to average over, from the start of the batch (0: all)."""
    keep_none: bool = False
    """True: the operator `none` keeps its share of softmax(α), which flattens the loss, as in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("h", self.h)
        at_least("images", self.images, 0)

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        x, y = (x[: self.images], y[: self.images]) if self.images else (x, y)
        with classifier(network, "running", keep_none=self.keep_none) as f:

            def gradient(at: Tensor) -> Tensor:
                loss = cross_entropy(f(at), y, reduction="sum")
                return input_gradient(loss, at, differentiable=True)

            x = x.detach().requires_grad_()
            here = gradient(x)
            sign = here.detach().sign()
            length = torch.linalg.vector_norm(sign.flatten(1), dim=1).clamp(min=1)
            step = self.h * sign / length.reshape(-1, *[1] * (x.dim() - 1))
            there = gradient((x + step).detach().requires_grad_())
        return -torch.linalg.vector_norm((there - here).flatten(1), dim=1).mean()
