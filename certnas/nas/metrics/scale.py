"""Scale-free γ: the weight of a metric relative to the ratio of gradient norms."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from certnas.errors import UserError
from certnas.nas.metrics.metric import State


class GammaScale:
    """weight = γ·exp(mean of log(‖∇L‖/‖∇R‖) over the first `batches` batches), constant afterwards.

    With γ = 1, loss and metric pull equally hard on the architecture, whatever the network, the bound and
    the unit of R. A batch whose norms are not positive and finite does not count. Before the first batch
    that counts, the weight is 0. Raises UserError for γ < 0 or batches < 1.
    """

    def __init__(self, gamma: float, batches: int = 10) -> None:
        if not 0 <= gamma < math.inf:
            raise UserError(f"gamma: got {gamma}; give a finite number from 0 on")
        if batches < 1:
            raise UserError(f"gamma batches: got {batches}; give 1 or more")
        self.gamma = gamma
        self.batches = batches
        self.counted = 0
        self.log_ratio = 0.0

    def observe(self, loss_norm: float, metric_norm: float) -> float:
        """Add one batch with the gradient norms ‖∇L‖ and ‖∇R‖, and return the current weight."""
        usable = 0 < loss_norm < math.inf and 0 < metric_norm < math.inf
        if self.counted < self.batches and usable:
            self.counted += 1
            self.log_ratio += (math.log(loss_norm / metric_norm) - self.log_ratio) / self.counted
        return self.weight

    @property
    def weight(self) -> float:
        """The current weight of R."""
        return self.gamma * math.exp(self.log_ratio) if self.counted else 0.0

    def state_dict(self) -> State:
        """The numbers that `load_state_dict` restores."""
        return {"counted": self.counted, "log_ratio": self.log_ratio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.counted, self.log_ratio = int(state["counted"]), float(state["log_ratio"])


def gradient_norm(gradients: Iterable[Tensor | None]) -> float:
    """The l2 norm ‖(g_1, g_2, …)‖₂ of all gradients together; None counts as zero."""
    return math.sqrt(sum(float(g.detach().double().square().sum()) for g in gradients if g is not None))
