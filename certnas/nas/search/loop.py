"""The loop of the differentiable searches: steps, epochs, log, progress, checkpoints and interruption."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from certnas.errors import UserError
from certnas.layout import usual
from certnas.nas.search.stream import Batch
from certnas.nas.search.task import Found, SearchProgress, Task
from certnas.nas.search.trial import NotFinite, Trial
from certnas.nas.space import Supernet
from certnas.runs import held_interrupts

Step = Callable[[Trial, Batch, Batch], None]
"""One step of a search: (trial, batch of training images, batch of held-out images)."""


def descend(task: Task, build: Callable[[], Supernet], step: Step) -> Found:
    """Run `step` through all epochs, from the task's last checkpoint on, and derive the genotype.

    All random draws are functions of (seed, step), so an interrupted and resumed search gives the same
    result. The caller's random state does not change. Raises UserError if a loss is not finite, and
    KeyboardInterrupt after the state is saved.
    """
    with reproducible(task.device), held_interrupts() as interrupt:
        seed_all(task, 0)
        trial = Trial(task, build())
        loop = _Loop(task, trial)
        while trial.step < loop.steps:
            loop.take(step)
            if any(task.processes.gathered(interrupt.asked)):
                loop.save()
                raise KeyboardInterrupt
        return Found(trial.supernet.genotype(), usual(trial.supernet))


class _Loop:
    """The position of a trial, and the sums of the current epoch's figures."""

    def __init__(self, task: Task, trial: Trial) -> None:
        self.task, self.trial = task, trial
        self.steps = task.config.epochs * len(task.train)
        self.sums: dict[str, list[float]] = {}
        checkpoint = None if task.folder is None else task.folder.checkpoint
        state = task.processes.shared(None if checkpoint is None else checkpoint.state)
        if state is not None:
            trial.load_state_dict(state["trial"])
            trial.step, self.sums = state["step"], state["sums"]
        self.saved = self.first = trial.step
        self.began = time.monotonic()

    def take(self, step: Step) -> None:
        """Run one step, then whatever is due after it: log, progress, end of epoch, checkpoint."""
        task, trial = self.task, self.trial
        trial.epoch, trial.figures = trial.step // len(task.train), {}
        seed_all(task, 1 + trial.step)
        try:
            step(trial, task.train.batch(trial.step), task.held_out.batch(trial.step))
        except NotFinite as error:
            raise UserError(self._not_finite(str(error))) from error
        trial.step += 1
        for name, value in trial.figures.items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += 1
        ended = trial.step % len(task.train) == 0
        if task.folder is not None:
            task.folder.log("step", trial.step, {"epoch": trial.epoch + 1, **trial.figures})
        if task.progress is not None:
            task.progress(self._progress())
        if ended:
            self._end_epoch()
        every = task.checkpoint_every
        if ended or (every is not None and trial.step % every == 0):
            self.save()

    def save(self) -> None:
        """Save the state if there is a folder; all processes must call this."""
        state = {"trial": self.trial.state_dict(), "step": self.trial.step, "sums": self.sums}
        if self.task.folder is not None:
            self.task.folder.save(self.trial.step, state)
        self.saved = self.trial.step

    def _end_epoch(self) -> None:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        folder, trial = self.task.folder, self.trial
        if folder is None:
            return
        genotype = trial.supernet.genotype()
        values = {**means, "lr": trial.lr, "genotype": {"normal": genotype.normal, "reduce": genotype.reduce}}
        folder.log("epoch", trial.epoch + 1, values)
        if self.task.pictures:
            from certnas.nas.search.pictures import alpha_picture
            from certnas.nas.space.picture import cell_picture

            epoch = trial.epoch + 1
            folder.write(f"pictures/alpha-{epoch:03d}.png", alpha_picture(trial.supernet, epoch))
            folder.write(f"pictures/cells-{epoch:03d}.png", cell_picture(genotype, f"after epoch {epoch}"))

    def _progress(self) -> SearchProgress:
        trial, seconds = self.trial, time.monotonic() - self.began
        left = seconds / (trial.step - self.first) * (self.steps - trial.step)
        return SearchProgress(
            epoch=trial.epoch + 1,
            epochs=self.task.config.epochs,
            step=trial.step,
            steps=self.steps,
            figures=dict(trial.figures),
            genotype=trial.supernet.genotype(),
            seconds=seconds,
            left=left,
        )

    def _not_finite(self, what: str) -> str:
        position = self.trial.step % len(self.task.train) + 1
        kept = (
            "no folder keeps a state"
            if self.task.folder is None
            else (f"{self.task.folder.path} keeps the state after step {self.saved}")
        )
        return (
            f"{what} is not finite at epoch {self.trial.epoch + 1}, step {position} of {len(self.task.train)} "
            f"(step {self.trial.step + 1} in all); {kept}; lower weights.lr or metric.gamma"
        )


def seed_all(task: Task, step: int) -> None:
    """Seed torch for a step; step 0 initialises the supernet."""
    torch.manual_seed(int(np.random.default_rng([task.config.seed, step]).integers(2**62)))


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Context manager: deterministic kernels without TF32 (TF32 would round inside bounds).

    On exit the caller's settings are restored.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False, False
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
