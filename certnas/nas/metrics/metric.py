"""The base classes of robustness metrics: `Metric` holds the settings, `Session` the state from step to step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from certnas.errors import UserError

State = dict[str, float | int | None]
"""The state of a session: plain numbers by name."""


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A robustness metric R(network, x, y): a scalar that is larger for a more robust network.

    A search minimises L − γ·R. R is differentiable in the network's weights and in the architecture
    variables α. A measurement changes neither the network's gradients, modes and buffers nor the process's
    random state. x [N,C,H,W] is in [0, 1] pixels, y [N] are the labels.
    """

    replaces_loss: ClassVar[bool] = False
    """True: the search minimises −R instead of L − γ·R."""

    @abstractmethod
    def session(self) -> "Session":
        """A new session: the state of this metric in one search."""

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """R on one batch, as the first step of a new session. Scalar."""
        return self.session()(network, x, y)

    def active(self, epoch: int) -> bool:
        """True if R takes part in the search in this epoch (counted from 0)."""
        return True


class Session(ABC):
    """The state of a metric in one search; a call returns R of the next step.

    `figures` holds further results of the last step by name, for the log.
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    @abstractmethod
    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """R on this batch, a scalar. R is a constant without gradient if the metric cannot measure the batch."""

    @abstractmethod
    def state_dict(self) -> State:
        """The numbers that a resumed search needs to continue exactly."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. Raises UserError for the state of another metric."""
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
    """A metric that evaluates the network. Raises UserError for a value that a setting does not accept."""

    warmup: int = 0
    """The first epoch in which R takes part, counted from 0 (AdvRush, section 4.2)."""

    def __post_init__(self) -> None:
        at_least("warmup", self.warmup, 0)

    def active(self, epoch: int) -> bool:
        return epoch >= self.warmup


@dataclass(frozen=True, kw_only=True)
class Momentary(Measured):
    """A metric that depends on the current batch only; from step to step only its random draws change."""

    def session(self) -> Session:
        return _Steps(self)

    @abstractmethod
    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        """R on one batch; `step` selects the random draws."""


def draws(seed: int, step: int, device: torch.device) -> torch.Generator:
    """A generator for a metric's random draws in one step, independent of the process's random state."""
    return torch.Generator(device).manual_seed((seed << 32) + step)


class _Steps(Session):
    """A session that counts its steps, so that each step has its own random draws."""

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
    """Raises UserError unless `value` is one of the accepted values."""
    if value not in accepted:
        raise UserError(f"metric: {name} is {value!r}; accepted: {', '.join(accepted)}")


def at_least(name: str, value: float, least: float) -> None:
    """Raises UserError unless `value` is finite and not below `least`."""
    if not least <= value < float("inf"):
        raise UserError(f"metric: {name} is {value}; give a finite number from {least} on")


def positive(name: str, value: float) -> None:
    """Raises UserError unless `value` is finite and above 0."""
    if not 0 < value < float("inf"):
        raise UserError(f"metric: {name} is {value}; give a finite number above 0")
