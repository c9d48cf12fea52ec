"""PC-DARTS: partial channels and weighed edges (Xu et al. 2020)."""

from dataclasses import dataclass
from functools import partial

from certnas.errors import UserError
from certnas.nas.search.darts import first_order
from certnas.nas.search.loop import descend
from certnas.nas.search.task import Found, Task


@dataclass(frozen=True)
class PCDarts:
    """First-order DARTS on a supernet whose operators see one k-th of the channels and whose edges are weighed.

    Its published warm-up is the setting alpha.warmup (15 of 50 epochs).
    """

    k: int = 4

    def __post_init__(self) -> None:
        if self.k < 2:
            raise UserError(f"algorithm pc-darts: k is {self.k}; give 2 or more")

    def run(self, task: Task) -> Found:
        """Searches.  Raises UserError where k does not divide the channels, and as every algorithm does."""
        return descend(task, partial(task.supernet, partial=self.k), first_order)
