"""PC-DARTS: partial channels and edge weights (Xu et al. 2020)."""

from dataclasses import dataclass
from functools import partial

from certnas.errors import UserError
from certnas.nas.search.darts import first_order
from certnas.nas.search.loop import descend
from certnas.nas.search.task import Found, Task


@dataclass(frozen=True)
class PCDarts:
    """First-order DARTS on a supernet with partial channels and edge weights.

    Operators act on one k-th of the channels. The published warm-up is the setting alpha.warmup (15 of 50
    epochs).
    """

    k: int = 4
    """The operators act on 1/k of the channels; k must divide the channels."""

    def __post_init__(self) -> None:
        if self.k < 2:
            raise UserError(f"algorithm pc-darts: k is {self.k}; give 2 or more")

    def run(self, task: Task) -> Found:
        """Run the search. Raises UserError if k does not divide the channels, and as every algorithm does."""
        return descend(task, partial(task.supernet, partial=self.k), first_order)
