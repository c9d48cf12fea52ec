"""What every robustness metric is: a frozen record of settings, and what it carries from step to step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from certnas.errors import UserError

State = dict[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """R(network, x, y), a scalar, larger for a more robust network; a search minimises L − γ·R.

    R is differentiable in the network's weights and architecture parameters. Measuring leaves the network's
    gradients, modes, buffers and the process's random state alone. x [N,C,H,W] in [0, 1] pixels, y [N].
    `replaces_loss`: the search minimises −R instead of L − γ·R.
    """

    replaces_loss: ClassVar[bool] = False

    @abstractmethod
    def session(self) -> "Session":
        """A fresh start of this metric's use in one search."""

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """R on one batch, without a history: the first step of a new session."""
        return self.session()(network, x, y)

    def active(self, epoch: int) -> bool:
        """Whether R takes part in the search in this epoch, counted from 0."""
        return True


class Session(ABC):
    """One search's use of a metric: step by step R, and whatever a next step needs of those before it.

    `figures` holds what the last step found besides R, for the log.
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    @abstractmethod
    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """R on this batch, scalar; a constant (no gradient) where nothing could be measured."""

    @abstractmethod
    def state_dict(self) -> State:
        """What a resumed search needs to go on as if it had not been interrupted; plain numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.  Raises UserError for a state that is not of this metric."""
        if set(state) != set(self.state_dict()):
            raise UserError(
                f"metric state: got {sorted(state)}, this metric keeps {sorted(self.state_dict())}; "
                "resume with the metric that the search was started with"
            )
        self._load(state)

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Measured(Metric):
    """A metric that evaluates the network, from epoch `warmup` of a search on (AdvRush, section 4.2).

    Raises UserError for a setting that is none.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        at_least("warmup", self.warmup, 0)

    def active(self, epoch: int) -> bool:
        return epoch >= self.warmup


@dataclass(frozen=True, kw_only=True)
class Momentary(Measured):
    """A metric of the present batch alone: from step to step only its random draws change."""

    def session(self) -> Session:
        return _Steps(self)

    @abstractmethod
    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        """R on one batch; `step` picks the random draws."""


def draws(seed: int, step: int, device: torch.device) -> torch.Generator:
    """A metric's random draws in one step of a search, apart from the process's random state."""
    return torch.Generator(device).manual_seed((seed << 32) + step)


class _Steps(Session):
    """A session that only counts its steps, so that each has draws of its own."""

    def __init__(self, metric: Momentary) -> None:
        super().__init__()
        self.metric = metric
        self.step = 0

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = self.metric.measure(network, x, y, self.step)
        self.step += 1
        return value

    def state_dict(self) -> State:
        return {"step": self.step}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])


def one_of(name: str, value: str, accepted: tuple[str, ...]) -> None:
    """Raises UserError unless `value` is accepted."""
    if value not in accepted:
        raise UserError(f"metric: {name} is {value!r}; accepted: {', '.join(accepted)}")


def at_least(name: str, value: float, least: float) -> None:
    """Raises UserError unless `value` is a finite number of at least `least`."""
    if not least <= value < float("inf"):
        raise UserError(f"metric: {name} is {value}; give a finite number from {least} on")


def positive(name: str, value: float) -> None:
    """Raises UserError unless `value` is a finite number above 0."""
    if not 0 < value < float("inf"):
        raise UserError(f"metric: {name} is {value}; give a finite number above 0")
