"""What decides the result of a search; every value has a name under which it can be set."""

import math
from dataclasses import dataclass, field
from typing import Any

from certnas.data.augmentation import AUGMENTATIONS, Augmentation
from certnas.errors import UserError


def _need(where: str, got: Any, good: bool, accepted: str) -> None:
    if not good:
        raise UserError(f"{where}: got {got}; give {accepted}")


@dataclass(frozen=True)
class AlgorithmConfig:
    """The algorithm's name and what only it reads."""

    name: str = "darts"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricConfig:
    """The metric R of the objective L − γ·R, its weight γ ≥ 0, and what only it reads.

    scale_free: γ is the ratio of the gradient norms of the two terms rather than a factor.
    """

    name: str = "none"
    gamma: float = 0.01
    scale_free: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _need("metric.gamma", self.gamma, 0 <= self.gamma < float("inf"), "0 or more")


@dataclass(frozen=True)
class DataConfig:
    """The images to search on: `images` of them (None: all), the first `split` of which train the weights.

    mean, std: one per channel; of the images themselves unless given.  crop, flip, cutout: those published for
    the data set unless given.
    """

    name: str = "digits"
    images: int | None = None
    split: float = 0.5
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: int | None = None
    flip: bool | None = None
    cutout: int | None = None

    def __post_init__(self) -> None:
        _need("data.images", self.images, self.images is None or self.images > 0, "1 or more")
        _need("data.split", self.split, 0 < self.split < 1, "a share between 0 and 1")
        usual = AUGMENTATIONS.get(self.name, Augmentation())
        for name in ("crop", "flip", "cutout"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(usual, name))

    def augmentation(self) -> Augmentation:
        """What the images are augmented by."""
        return Augmentation(self.crop or 0, bool(self.flip), self.cutout or 0)


@dataclass(frozen=True)
class SupernetConfig:
    """The supernet: a name of `certnas.nas.space.SPACES`, and the sizes of its cells and of the network."""

    space: str = "darts"
    channels: int = 16
    layers: int = 8
    nodes: int = 4
    reductions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class WeightsConfig:
    """SGD of the weights: a cosine from lr to lr_min over the epochs, gradients clipped to the norm `clip`."""

    lr: float = 0.025
    lr_min: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0

    def __post_init__(self) -> None:
        _need("weights.lr", self.lr, self.lr > 0, "a number above 0")
        _need(
            "weights.lr_min", self.lr_min, 0 <= self.lr_min <= self.lr, f"a number from 0 to lr ({self.lr})"
        )
        _need("weights.momentum", self.momentum, 0 <= self.momentum < 1, "a number from 0 to below 1")
        _need("weights.weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _need("weights.clip", self.clip, self.clip > 0, "a number above 0, inf for none")


@dataclass(frozen=True)
class AlphaConfig:
    """Adam of the architecture parameters; they stand still for the first `warmup` epochs."""

    lr: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-3
    clip: float = math.inf
    warmup: int = 0

    def __post_init__(self) -> None:
        _need("alpha.lr", self.lr, self.lr > 0, "a number above 0")
        _need(
            "alpha.betas",
            list(self.betas),
            all(0 <= b < 1 for b in self.betas),
            "two numbers from 0 to below 1",
        )
        _need("alpha.weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more")
        _need("alpha.clip", self.clip, self.clip > 0, "a number above 0, inf for none")
        _need("alpha.warmup", self.warmup, self.warmup >= 0, "0 or more epochs")


@dataclass(frozen=True)
class SearchConfig:
    """A search: with the images, all that decides its genotype.  Defaults: DARTS's (Liu et al. 2019, A.1)."""

    epochs: int = 50
    batch_size: int = 64
    seed: int = 0
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    metric: MetricConfig = field(default_factory=MetricConfig)
    data: DataConfig = field(default_factory=DataConfig)
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    alpha: AlphaConfig = field(default_factory=AlphaConfig)

    def __post_init__(self) -> None:
        _need("epochs", self.epochs, self.epochs > 0, "1 or more")
        _need("batch_size", self.batch_size, self.batch_size > 0, "1 or more")
        _need("seed", self.seed, self.seed >= 0, "0 or more")
