"""The configuration of a search: every value that determines its result."""

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
    """The search algorithm and its settings."""

    name: str = "darts"
    """Key of `certnas.nas.search.ALGORITHMS`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of this algorithm by name."""


@dataclass(frozen=True)
class MetricConfig:
    """The metric R of the objective L − γ·R, and its weight. Raises UserError for γ < 0."""

    name: str = "none"
    """Key of `certnas.nas.metrics.METRICS`."""
    gamma: float = 0.01
    """γ ≥ 0, the weight of R."""
    scale_free: bool = False
    """True: γ is relative to the ratio of the gradient norms of L and R (see `GammaScale`)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of this metric by name."""

    def __post_init__(self) -> None:
        _need("metric.gamma", self.gamma, 0 <= self.gamma < float("inf"), "0 or more")


@dataclass(frozen=True)
class DataConfig:
    """The images of a search and their augmentation. Raises UserError for a value that gives no data."""

    name: str = "digits"
    """Data set, image folder or .npz file, as in `certnas.data.load`."""
    images: int | None = None
    """Number of images, drawn by the seed (None: all)."""
    split: float = 0.5
    """Share of the images that train the weights; the search chooses the architecture on the others."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel for normalisation (None: that of the images)."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel for normalisation (None: that of the images)."""
    crop: int | None = None
    """Padding of the random crop, in pixels (None: the published value for the data set)."""
    flip: bool | None = None
    """True: random horizontal flips (None: the published value for the data set)."""
    cutout: int | None = None
    """Side of the cutout square, in pixels, 0 for none (None: the published value for the data set)."""

    def __post_init__(self) -> None:
        _need("data.images", self.images, self.images is None or self.images > 0, "1 or more")
        _need("data.split", self.split, 0 < self.split < 1, "a share between 0 and 1")
        usual = AUGMENTATIONS.get(self.name, Augmentation())
        for name in ("crop", "flip", "cutout"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(usual, name))

    def augmentation(self) -> Augmentation:
        """The augmentation of the images."""
        return Augmentation(self.crop or 0, bool(self.flip), self.cutout or 0)


@dataclass(frozen=True)
class SupernetConfig:
    """The search space and the size of the supernet."""

    space: str = "darts"
    """Key of `certnas.nas.space.SPACES`."""
    channels: int = 16
    """Initial number of channels, before any reduction cell doubles it."""
    layers: int = 8
    """Number of cells."""
    nodes: int = 4
    """Number of intermediate nodes in a cell."""
    reductions: tuple[int, ...] | None = None
    """Indices of the reduction cells (None: those at one and two thirds)."""


@dataclass(frozen=True)
class WeightsConfig:
    """SGD of the network's weights, with a cosine schedule. Raises UserError for a value out of range."""

    lr: float = 0.025
    """Learning rate at the start."""
    lr_min: float = 0.001
    """Learning rate at the end."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 3e-4
    """Weight decay of SGD."""
    clip: float = 5.0
    """Largest l2 norm of the gradient; longer ones are scaled down to it (inf: no limit)."""

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
    """Adam of the architecture variables α. Raises UserError for a value out of range."""

    lr: float = 3e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's β₁ and β₂."""
    weight_decay: float = 1e-3
    """Weight decay of Adam."""
    clip: float = math.inf
    """Largest l2 norm of the gradient (inf: no limit)."""
    warmup: int = 0
    """Number of epochs at the start during which α does not change."""

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
    """The configuration of a search; together with the images it determines the genotype.

    The defaults are those of DARTS (Liu et al. 2019, appendix A.1). Raises UserError for a value out of
    range.
    """

    epochs: int = 50
    """Number of passes over the images that train the weights."""
    batch_size: int = 64
    """Number of images per batch, over all processes."""
    seed: int = 0
    """Seed of all random draws."""
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    """The search algorithm."""
    metric: MetricConfig = field(default_factory=MetricConfig)
    """The robustness metric and its weight."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    """The search space and the supernet's size."""
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    """The optimiser of the weights."""
    alpha: AlphaConfig = field(default_factory=AlphaConfig)
    """The optimiser of the architecture variables."""

    def __post_init__(self) -> None:
        _need("epochs", self.epochs, self.epochs > 0, "1 or more")
        _need("batch_size", self.batch_size, self.batch_size > 0, "1 or more")
        _need("seed", self.seed, self.seed >= 0, "0 or more")
