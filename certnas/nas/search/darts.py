"""DARTS: differentiable architecture search by a continuous relaxation (Liu et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from certnas.errors import UserError
from certnas.nas.search.loop import descend
from certnas.nas.search.stream import Batch
from certnas.nas.search.task import Found, Task
from certnas.nas.search.trial import Trial

PERTURBATION = 0.01
"""l2 length of the weight perturbation in the finite difference (Liu et al. 2019, section 2.3)."""


@dataclass(frozen=True)
class Darts:
    """DARTS alternates two steps: α descends ∇_α J(w, α) on held-out images, w descends ∇_w L on training images.

    J = L − γR is the objective.
    """

    order: int = 1
    """1: ∇_α J at the current weights. 2: ∇_α J through one training step (see `unrolled_gradients`)."""

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise UserError(f"algorithm darts: order is {self.order}; give 1 or 2")

    def run(self, task: Task) -> Found:
        """Run the search. Raises UserError as every algorithm does."""
        return descend(task, task.supernet, first_order if self.order == 1 else second_order)


def first_order(trial: Trial, train: Batch, held_out: Batch) -> None:
    """One search step; the architecture gradient treats w as constant."""
    if trial.alpha_moves:
        trial.alpha_step(trial.objective_gradients(held_out, trial.alpha))
    trial.weight_step(train)


def second_order(trial: Trial, train: Batch, held_out: Batch) -> None:
    """One search step; the architecture gradient goes through one step of the weights."""
    if trial.alpha_moves:
        trial.alpha_step(unrolled_gradients(trial, train, held_out))
    trial.weight_step(train)


def unrolled_gradients(trial: Trial, train: Batch, held_out: Batch) -> list[Tensor]:
    """∇_α J(w'(α), α) for every architecture variable, where w' = w − η(μ·buffer + ∇_w L_train + λw).

    η is the current learning rate, μ the momentum and λ the weight decay. The product with the mixed second
    derivative is a central difference: ∇_α J(w', α) − η(∇_α L_train(w⁺) − ∇_α L_train(w⁻))/2r, where w^± =
    w ± r·v, v = ∇_{w'} J and r = 0.01/‖v‖. These are equations (6) to (8) of Liu et al. 2019, with the
    momentum and the weight decay of their code.
    """
    config, lr = trial.task.config.weights, trial.lr
    steps = trial.loss_gradients(train, trial.weights)
    ahead = []
    for weight, gradient in zip(trial.weights, steps, strict=True):
        buffer = trial.sgd.state[weight].get("momentum_buffer")
        pull = gradient + config.weight_decay * weight.detach()
        ahead.append(weight.detach() - lr * (pull if buffer is None else pull + config.momentum * buffer))
    with trial.moved(ahead):
        gradients = trial.objective_gradients(held_out, [*trial.alpha, *trial.weights])
    alpha, v = gradients[: len(trial.alpha)], gradients[len(trial.alpha) :]
    length = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in v])))
    if length == 0:
        return alpha
    r = PERTURBATION / length
    above, below = (_alpha_gradients(trial, train, v, sign * r) for sign in (1, -1))
    return [g - lr * (a - b) / (2 * r) for g, a, b in zip(alpha, above, below, strict=True)]


def _alpha_gradients(trial: Trial, batch: Batch, v: Sequence[Tensor], by: float) -> list[Tensor]:
    """∇_α L(w + by·v, α)."""
    with trial.moved([weight.detach() + by * part for weight, part in zip(trial.weights, v, strict=True)]):
        return trial.loss_gradients(batch, trial.alpha)
