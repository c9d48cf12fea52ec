"""The interface of a search algorithm: its input `Task`, its `SearchProgress` and its result `Found`."""

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
class SearchProgress:
    """The state of a search after a step."""

    epoch: int
    """The current epoch, counted from 1."""
    epochs: int
    """The number of epochs."""
    step: int
    """Number of steps done."""
    steps: int
    """Number of steps in the whole search."""
    figures: dict[str, float]
    """Results of the step by name; a name is absent if the step has no such result.

    `loss` and `accuracy` are measured on the batch of the weight step, `held_out_loss` and
    `held_out_accuracy` on the batch of the architecture step. `metric` is R, `gradient_loss` and
    `gradient_metric` are the norms of ∇_α L and ∇_α R, and `gamma` is the weight of R. A metric adds its
    own results, such as its ε.
    """
    genotype: Genotype
    """The genotype that the current α derives."""
    seconds: float
    """Seconds since the search started or resumed."""
    left: float
    """Estimated seconds to go, at the average pace so far."""


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    genotype: Genotype
    """The genotype."""
    supernet: Supernet | None = None
    """The supernet at the end of the search; None if the algorithm has none."""


@dataclass(frozen=True)
class Task:
    """One search with checked settings: images, metric, device, run folder and callbacks."""

    config: SearchConfig
    """The configuration with every default filled in."""
    metric: Metric
    """The metric R."""
    train: Stream
    """Batches that train the weights."""
    held_out: Stream
    """Batches that train the architecture variables."""
    classes: int
    """Number of classes."""
    device: torch.device
    """Device of the supernet and the images."""
    processes: ProcessGroup
    """The processes that share each batch."""
    folder: RunFolder | None = None
    """Run folder for checkpoints and logs (None: none)."""
    progress: Callable[[SearchProgress], None] | None = None
    """Callback after every step."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints (None: only at the end of an epoch)."""
    pictures: bool = True
    """True: write pictures after every epoch."""

    @property
    def space(self) -> SearchSpace:
        """The configured search space. Raises UserError for an unknown name."""
        return chosen("supernet.space", self.config.supernet.space, SPACES)

    def supernet(self, *, partial: int = 1) -> Supernet:
        """A new supernet of the configured size.

        Raises UserError for an invalid size, or one that does not fit the images.
        """
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
    """A search algorithm: a frozen dataclass of its own settings. It does not depend on the choice of metric."""

    def run(self, task: Task) -> Found:
        """Run the search. Raises UserError for settings that do not fit the task, and if the loss is not finite."""
