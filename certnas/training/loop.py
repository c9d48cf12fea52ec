"""The training loop. Each epoch is a function of the state before it, so that a training can be resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from certnas.data import Dataset
from certnas.errors import UserError
from certnas.layout import laid_out, laid_out_network, usual
from certnas.nas.space import DiscreteNetwork
from certnas.parallel import ProcessGroup, share_batch_norm
from certnas.training.images import batch_count, batches
from certnas.training.recipe import OPTIMIZERS, Recipe

EVALUATED = 256  # images per batch of the evaluation
ALONE = ProcessGroup()


@dataclass(frozen=True)
class TrainingProgress:
    """The state of a training after a step."""

    step: int
    """Number of steps done."""
    steps: int
    """Number of steps in the whole training."""
    epoch: int
    """The current epoch, counted from 1."""
    epochs: int
    """Number of epochs in the whole training."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Results so far by name: `loss` and `accuracy` of the epoch, the learning rate `lr`, and the
    objective's schedule.

    After a whole epoch, also `validation_accuracy`, and the objective's measure as `validation_<measure>`,
    on the held-out images.
    """


class Keeper(Protocol):
    """Stores the state of a training between epochs."""

    def restore(self) -> Mapping[str, Any] | None:
        """The state that an earlier run stored; None to start from the beginning."""

    def keep(
        self,
        network: nn.Module,
        epoch: int,
        state: Mapping[str, Any],
        figures: Mapping[str, float],
        best: bool,
    ) -> None:
        """Store the state after `epoch` epochs; `best` is True if the network is the best so far."""


def fit(
    network: nn.Module,
    data: Dataset,
    held: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    processes: ProcessGroup = ALONE,
    keeper: Keeper | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> None:
    """Train the network in position by the recipe.

    Args:
        network: a classifier of images; one with drop-path or an auxiliary head must be a `DiscreteNetwork`.
            It ends in evaluation mode, with the weights of the last epoch.
        data: training images [N,C,H,W] in [0, 1] with labels.
        held: held-out images.  After each epoch they select the best network: the highest value of the objective's
            measure, then the highest accuracy, then the latest epoch.
        recipe: the settings of the training.
        seed: seed of all random draws.
        device: "cpu", "cuda", "cuda:1", …
        processes: the processes that share each batch and average their gradients.  Batch norm uses the statistics of
            the whole batch, by layers that replace the network's own.  Up to rounding, the weights are those of a
            single process, except for draws per image (drop-path, the start of an attack).
        keeper: stores the state after each epoch; only the first process has one.
        progress: called after every step.

    Raises:
        UserError: a batch has fewer images than there are processes, or the loss or its gradient is not finite.  In
            the latter case the network's weights are unusable, but the stored state is intact.

    Each epoch is a function of the seed, the epoch's number and the state before it.  A training that is
    stored and resumed on a CPU therefore ends in the same weights.  The caller's random state does not
    change.
    """
    if processes.size > 1:
        share_batch_norm(network)
    network = laid_out_network(network.to(device))
    training = _Training(network, data, recipe, seed, torch.device(device), processes)
    state = processes.shared(keeper.restore() if keeper is not None else None)
    tell = progress or (lambda _: None)
    first, best = training.load(state) if state is not None else (0, None)
    cuda = [training.device] if training.device.type == "cuda" else []
    for epoch in range(first, recipe.epochs):
        with torch.random.fork_rng(devices=cuda):
            seeded(seed * 1_000_003 + epoch + (processes.rank << 40), training.device)
            figures = training.epoch(epoch, tell)
            figures |= training.measure(held)
        score = [figures[training.measured_by], figures["validation_accuracy"]]
        better = best is None or score >= best
        best = score if better else best
        if keeper is not None:
            keeper.keep(network, epoch + 1, training.state(epoch + 1, best), figures, better)
        tell(training.progress((epoch + 1) * training.per_epoch, figures))
    usual(network).eval()


def seeded(seed: int, device: torch.device) -> None:
    """Seed the CPU's and this device's generators. Unlike torch.manual_seed, it seeds no other device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class _Training:
    """A network with its optimiser and its objective."""

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        processes: ProcessGroup,
    ) -> None:
        self.network, self.data, self.recipe, self.seed, self.device = network, data, recipe, seed, device
        self.processes = processes
        if not isinstance(network, DiscreteNetwork) and (recipe.drop_path or recipe.auxiliary):
            raise UserError(
                f"training: a {type(network).__name__} has neither drop-path nor an auxiliary head; give "
                "drop_path=0 and auxiliary=0"
            )
        self.optimizer = OPTIMIZERS[recipe.optimizer](network.parameters(), recipe)
        self.aim = recipe.objective.on(network, data.x[:2].to(device))
        self.fill = data.x.mean((0, 2, 3))
        self.per_epoch = batch_count(len(data.y), recipe.batch)
        if len(data.y) // self.per_epoch < processes.size:
            raise UserError(
                f"training: batches of {len(data.y) // self.per_epoch} images do not divide over {processes.size} "
                "processes; give a larger batch size"
            )
        self.measured_by = f"validation_{recipe.objective.measure}"

    def progress(self, step: int, figures: Mapping[str, float]) -> TrainingProgress:
        """The state of the training after `step` steps."""
        epoch = -(-step // self.per_epoch)
        return TrainingProgress(step, self.per_epoch * self.recipe.epochs, epoch, self.recipe.epochs, figures)

    def state(self, epoch: int, best: list[float] | None) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "best": best,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> tuple[int, list[float] | None]:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["epoch"], state["best"]

    def epoch(self, epoch: int, tell: Callable[[TrainingProgress], None]) -> dict[str, float]:
        """Run one pass over the images: returns the mean loss, the accuracy before each step, and the schedules."""
        recipe, steps = self.recipe, self.per_epoch * self.recipe.epochs
        self.network.train()
        loss_sum = right = seen = 0.0
        figures: dict[str, float] = {}
        for position, (rows, random) in enumerate(batches(len(self.data.y), recipe.batch, self.seed, epoch)):
            step = epoch * self.per_epoch + position
            x = recipe.augmentation(self.data.x[rows].to(self.device), self.fill, random)
            loss, correct = self._step(laid_out(x), self.data.y[rows].to(self.device), step, steps)
            loss_sum, right, seen = loss_sum + loss * len(rows), right + correct, seen + len(rows)
            figures = {"loss": loss_sum / seen, "accuracy": right / seen, "lr": recipe.rate(step / steps)}
            figures |= recipe.objective.schedule(step / steps)
            # `fit` reports the last step, once the epoch is measured and stored
            if position + 1 < self.per_epoch:
                tell(self.progress(step + 1, figures))
        return figures

    def _step(self, whole: Tensor, labels: Tensor, step: int, steps: int) -> tuple[float, int]:
        """Run one step; returns the loss of the batch and the number of images classified correctly."""
        recipe, t, correct, ours = self.recipe, step / steps, 0, self.processes
        x, y = whole[ours.share], labels[ours.share]

        def cross_entropy(images: Tensor, labels: Tensor) -> Tensor:
            nonlocal correct
            logits, more = self._forward(images, recipe.drop_path * t)
            correct = int((logits.detach().argmax(1) == labels).sum())
            terms = [
                functional.cross_entropy(out, labels, label_smoothing=recipe.label_smoothing)
                for out in (logits, *more)
            ]
            return terms[0] + recipe.auxiliary * sum(terms[1:])

        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(t)
        loss = self.aim.loss(x, y, cross_entropy, t, whole) * (len(x) * ours.size / len(whole))
        found = ours.mean([loss.detach(), loss.new_tensor(correct * ours.size)])
        value, right = float(found[0]), round(float(found[1]))
        self.optimizer.zero_grad()
        if math.isfinite(value):
            loss.backward()
            trained = [p for p in self.network.parameters() if p.grad is not None]
            gradients = ours.mean([p.grad for p in trained if p.grad is not None])
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip))
        if not math.isfinite(value) or not math.isfinite(norm):
            what = f"the loss is {value}" if not math.isfinite(value) else f"its gradient's norm is {norm}"
            raise UserError(
                f"training: {what} at step {step + 1} of {steps} (epoch {step // self.per_epoch + 1}); the state "
                "stored after the previous epoch is intact: give a smaller lr or a longer warm-up"
            )
        self.optimizer.step()
        return value, right

    def _forward(self, x: Tensor, drop_path: float) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The logits, and those of the auxiliary head if there is one."""
        if not isinstance(self.network, DiscreteNetwork):
            return self.network(x), ()
        if self.recipe.auxiliary:
            logits, auxiliary = self.network.with_auxiliary(x, drop_path)
            return logits, (auxiliary,)
        return self.network(x, drop_path), ()

    def measure(self, held: Dataset) -> dict[str, float]:
        """The accuracy and the objective's measure on the held-out images."""
        self.network.eval()
        right = measured = 0
        parts = list(zip(held.x.split(EVALUATED), held.y.split(EVALUATED), strict=True))
        for x, y in parts[self.processes.share]:
            x, y = laid_out(x.to(self.device)), y.to(self.device)
            with torch.no_grad():
                right += int((self.network(x).argmax(1) == y).sum())
            measured += int(self.aim.correct(x, y).sum())
        right, measured = (
            sum(counts) for counts in zip(*self.processes.gathered((right, measured)), strict=True)
        )
        count = len(held.y)
        return {"validation_accuracy": right / count, self.measured_by: measured / count}
