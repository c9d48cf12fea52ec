"""The bilevel optimisation of a differentiable search: SGD of the weights and Adam of the architecture variables."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certnas.nas.metrics import AdversarialLoss, GammaScale, gradient_norm
from certnas.nas.search.stream import Batch
from certnas.nas.search.task import Task
from certnas.nas.space import Supernet


class NotFinite(Exception):
    """A quantity of the search is NaN or infinite; the text names the quantity."""


class Trial:
    """A supernet under optimisation. Gradients are means over all processes; `figures` holds the step's results."""

    def __init__(self, task: Task, supernet: Supernet) -> None:
        self.task, self.supernet = task, supernet.train()
        self.epoch = self.step = 0
        self.figures: dict[str, float] = {}
        config = task.config
        self.session = task.metric.session()
        self.scale = GammaScale(config.metric.gamma) if config.metric.scale_free else None
        self.alpha, self.weights = supernet.architecture_parameters(), supernet.weight_parameters()
        self.sgd = torch.optim.SGD(
            self.weights,
            lr=config.weights.lr,
            momentum=config.weights.momentum,
            weight_decay=config.weights.weight_decay,
        )
        self.adam = torch.optim.Adam(
            self.alpha, lr=config.alpha.lr, betas=config.alpha.betas, weight_decay=config.alpha.weight_decay
        )

    @property
    def alpha_moves(self) -> bool:
        """True once the architecture variables are past their warm-up."""
        return self.epoch >= self.task.config.alpha.warmup

    @property
    def lr(self) -> float:
        """The learning rate of the weights, lr_min + (lr − lr_min)·(1 + cos(π·epoch/epochs))/2."""
        w = self.task.config.weights
        return (
            w.lr_min + (w.lr - w.lr_min) * (1 + math.cos(math.pi * self.epoch / self.task.config.epochs)) / 2
        )

    def loss_gradients(self, batch: Batch, of: Sequence[Tensor], name: str = "") -> list[Tensor]:
        """∇L with respect to each tensor of `of`, where L is the batch's mean cross-entropy.

        Loss and accuracy are stored in `figures` with the prefix `name`.
        """
        with self._only(of):
            logits = self.supernet(batch.x)
        loss = cross_entropy(logits, batch.y)
        accuracy = (logits.argmax(1) == batch.y).float().mean()
        *gradients, loss, accuracy = self._mean([*_gradients(loss, of), loss, accuracy])
        self._note(**{f"{name}loss": float(loss), f"{name}accuracy": float(accuracy)})
        return gradients

    def objective_gradients(self, batch: Batch, of: Sequence[Tensor]) -> list[Tensor]:
        """∇(L − γR) with respect to each tensor of `of`, or −∇R if the metric replaces the loss.

        The first tensors must be α.
        """
        metric, alphas = self.task.metric, len(self.alpha)
        active = metric.active(self.epoch)
        if active and metric.replaces_loss:
            return [-gradient for gradient in self._metric_gradients(batch, of)]
        loss = self.loss_gradients(batch, of, "held_out_")
        norm = gradient_norm(loss[:alphas])
        self._note(gradient_loss=norm)
        if not active:
            return loss
        of_metric = self._metric_gradients(batch, of)
        gamma = self.task.config.metric.gamma
        if self.scale is not None:
            gamma = self.scale.observe(norm, self.figures["gradient_metric"])
        self._note(gamma=gamma)
        return [g - gamma * r for g, r in zip(loss, of_metric, strict=True)]

    def _metric_gradients(self, batch: Batch, of: Sequence[Tensor]) -> list[Tensor]:
        with self._only(of):
            value = self.session(self.supernet, batch.x, batch.y)
        found = _gradients(value, of) if value.requires_grad else [torch.zeros_like(tensor) for tensor in of]
        *gradients, value = self._mean([*found, value])
        self._note(metric=float(value), gradient_metric=gradient_norm(gradients[: len(self.alpha)]))
        self.figures |= self.session.figures
        return gradients

    def alpha_step(self, gradients: Sequence[Tensor]) -> None:
        """One Adam step of the architecture variables along these gradients."""
        self._descend(self.adam, self.alpha, gradients, self.task.config.alpha.clip)

    def weight_step(self, batch: Batch) -> None:
        """One SGD step of the weights, on adversarial examples if the metric requires them."""
        metric = self.task.metric
        if isinstance(metric, AdversarialLoss) and metric.on == "both" and metric.active(self.epoch):
            batch = Batch(metric.perturbed(self.supernet, batch.x, batch.y, self.step), batch.y)
        for group in self.sgd.param_groups:
            group["lr"] = self.lr
        gradients = self.loss_gradients(batch, self.weights)
        self._descend(self.sgd, self.weights, gradients, self.task.config.weights.clip)

    @contextmanager
    def moved(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Context manager: the supernet has these weights. On exit its own weights and buffers are restored."""
        held = [(tensor, tensor.detach().clone()) for tensor in (*self.weights, *self.supernet.buffers())]
        try:
            _copy(zip(self.weights, weights, strict=True))
            yield
        finally:
            _copy(held)

    @contextmanager
    def _only(self, of: Sequence[Tensor]) -> Iterator[None]:
        """Context manager: only these parameters require gradients, so that autograd stores nothing for the others."""
        wanted = {id(tensor) for tensor in of}
        still = [p for p in self.supernet.parameters() if p.requires_grad and id(p) not in wanted]
        try:
            for parameter in still:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in still:
                parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the next steps, of all processes."""
        return {
            "supernet": self.supernet.state_dict(),
            "sgd": self.sgd.state_dict(),
            "adam": self.adam.state_dict(),
            "metric": self.task.processes.gathered(self.session.state_dict()),
            "scale": None if self.scale is None else self.scale.state_dict(),
        }

    def load_state_dict(self, state: Any) -> None:
        """Continue from a `state_dict`."""
        self.supernet.load_state_dict(state["supernet"])
        self.sgd.load_state_dict(state["sgd"])
        self.adam.load_state_dict(state["adam"])
        self.session.load_state_dict(state["metric"][self.task.processes.rank])
        if self.scale is not None:
            self.scale.load_state_dict(state["scale"])

    def _descend(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        gradients: Sequence[Tensor],
        clip: float,
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        if not torch.isfinite(norm):
            raise NotFinite("the gradient")
        optimizer.step()
        optimizer.zero_grad()

    def _mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.task.processes.mean([tensor.detach() for tensor in tensors])

    def _note(self, **figures: float) -> None:
        for name, value in figures.items():
            if not math.isfinite(value):
                raise NotFinite(name.replace("_", " "))
        self.figures |= figures


def _gradients(value: Tensor, of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, of, allow_unused=True, materialize_grads=True)


@torch.no_grad()
def _copy(pairs: Any) -> None:
    for to, value in pairs:
        to.copy_(value)
