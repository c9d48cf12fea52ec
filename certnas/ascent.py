"""The sign step of FGSM and PGD: the steepest ascent of an objective in l∞."""

from collections.abc import Callable

import torch
from torch import Tensor


def sign_step(
    objective: Callable[[Tensor], Tensor], at: Tensor, size: float, project: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Returns the projection of `at` + size·sign(∇ objective), and the objective at `at`.

    objective: maps points [N, *shape] to one value for each, [N], or to their sum.  One step from an image is FGSM
    (Goodfellow et al. 2015), several projected ones are PGD (Madry et al. 2018).  No gradient reaches the arguments.
    """
    at = at.detach().requires_grad_()
    with torch.enable_grad():
        value = objective(at)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    return project(at.detach() + size * gradient.sign()), value.detach()
