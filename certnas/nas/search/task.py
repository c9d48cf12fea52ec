"""What a search algorithm is given, what it says on its way, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from certnas.certifier.request import chosen
from certnas.errors import UserError
from certnas.layout import laid_out_network
from certnas.nas.metrics import Metric
from certnas.nas.search.config import SearchConfig
from certnas.nas.search.stream import Stream
from certnas.nas.space import SPACES, Genotype, SearchSpace, Supernet
from certnas.parallel import ProcessGroup, share_batch_norm
from certnas.runs import RunFolder


@dataclass(frozen=True)
class Progress:
    """Where a search is after a step.

    figures: what the step found, by name: `loss` and `accuracy` on the batch of the weight step, `held_out_loss`
    and `held_out_accuracy` on that of the architecture step, `metric` (R), `gradient_loss` and `gradient_metric`
    (the norms of ∇_α L and ∇_α R), `gamma` (the weight of R), and what the metric adds, such as its ε; a name is
    absent where the step had no such figure.  left: seconds to go, at the pace so far.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    figures: dict[str, float]
    genotype: Genotype
    seconds: float
    left: float


@dataclass(frozen=True)
class Found:
    """The genotype that a search found, and the supernet at its end where the algorithm has one."""

    genotype: Genotype
    supernet: Supernet | None = None


@dataclass(frozen=True)
class Task:
    """One search, checked and ready: its images, metric, device, and where its state and progress go."""

    config: SearchConfig
    metric: Metric
    train: Stream
    held_out: Stream
    classes: int
    device: torch.device
    processes: ProcessGroup
    folder: RunFolder | None = None
    progress: Callable[[Progress], None] | None = None
    checkpoint_every: int | None = None
    pictures: bool = True

    @property
    def space(self) -> SearchSpace:
        """The configured search space.  Raises UserError for an unknown name."""
        return chosen("supernet.space", self.config.supernet.space, SPACES)

    def supernet(self, *, partial: int = 1) -> Supernet:
        """A new supernet of the configured sizes.  Raises UserError for sizes that fit no network or these images."""
        sizes, channels = self.config.supernet, self.train.x.shape[1]
        supernet = Supernet(
            sizes.channels,
            sizes.layers,
            self.classes,
            space=self.space,
            nodes=sizes.nodes,
            in_channels=channels,
            mean=self.config.data.mean,
            std=self.config.data.std,
            partial=partial,
            reductions=sizes.reductions,
        )
        self._check_halving(sum(bool(cell.reduction) for cell in supernet.cells))
        if self.processes.size > 1:
            share_batch_norm(supernet)
        return laid_out_network(supernet.to(self.device))

    def _check_halving(self, reductions: int) -> None:
        height, width = self.train.x.shape[2:]
        side = min(height, width)
        for done in range(reductions):
            if side < 2:
                raise UserError(
                    f"data: images of {height}×{width} can be halved {done} times, the supernet has {reductions} "
                    "reduction cells; take larger images or set supernet.reductions"
                )
            side = (side + 1) // 2


class Algorithm(Protocol):
    """A search algorithm: a frozen dataclass of its own settings.  It knows no metric by name."""

    def run(self, task: Task) -> Found:
        """Searches.  Raises UserError for settings that do not fit, and where the loss ceases to be finite."""
