"""The attack of adversarial training."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from certnas.ascent import sign_step


def pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step: float, steps: int, start: Tensor
) -> Tensor:
    """Adversarial examples x' with ‖x' − x‖∞ ≤ eps in [0, 1], by projected gradient ascent on the cross-entropy.

    x, start and x' are [N,C,H,W] in [0, 1] pixels, y [N] the labels, eps and step in pixels. The attack
    takes `steps` sign steps of size `step`, from `start` projected onto ball and box. The model is attacked
    in evaluation mode; its mode and gradients are restored. Madry et al. 2018.
    """
    lower, upper = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    modes = {module: module.training for module in model.modules()}
    model.eval()

    def loss(points: Tensor) -> Tensor:
        return functional.cross_entropy(model(points), y, reduction="sum")

    def project(points: Tensor) -> Tensor:
        return torch.clamp(points, lower, upper)

    attacked = project(start).detach()
    for _ in range(steps):
        attacked, _ = sign_step(loss, attacked, step, project)
    for module, mode in modes.items():
        module.training = mode
    return attacked
