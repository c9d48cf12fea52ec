"""What decides a run of the protocol: its sizes and images, and the metric of each arm that is searched."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from benchmarks.third_party import mnist
from certnas.data import Dataset, load, select
from certnas.nas.search import SearchConfig
from certnas.runs import from_table

RECIPES = ("standard", "crown-ibp")
NORMS = ("linf", "l2")
BATCH, ALPHA_LR = 64, 6e-3
CURVATURE_STEP = 1.7 / 255
"""AdvRush's step in each pixel; h is this times the square root of the number of pixels."""


@dataclass(frozen=True)
class Preset:
    """Sizes of a run.

    side: images are averaged down to side × side.  images: of the training part, on which cells are searched and
    networks trained.  tested: of the test part; certified: of those.  The α of the supernet, which has
    `search_channels`, stand still for `warmup` of `search_epochs`.  Networks have `channels`, unless another number
    of parameters is asked of them, and are trained for `epochs` by each recipe.  pgd: the l∞ radius of the attack,
    in [0, 1] pixels.  first: where seeds begin, of searches, draws and test images.
    """

    data: str
    side: int
    images: int
    tested: int
    certified: int
    seeds: int
    cells: int
    layers: int
    nodes: int
    search_channels: int
    search_epochs: int
    warmup: int
    channels: int
    epochs: Mapping[str, int]
    pgd: float
    first: int = 0

    @property
    def searched(self) -> range:
        """The seeds of the searches."""
        return range(self.first, self.first + self.seeds)

    @property
    def drawn(self) -> range:
        """The seeds of the random cells."""
        return range(self.first, self.first + self.cells)


DIGITS = Preset(
    data="digits",
    side=8,
    images=1198,
    tested=599,
    certified=32,
    seeds=5,
    cells=10,
    layers=3,
    nodes=2,
    search_channels=4,
    search_epochs=15,
    warmup=4,
    channels=4,
    epochs={"standard": 40, "crown-ibp": 20},
    pgd=0.05,
)
PRESETS = {
    "quick": Preset(
        data="digits",
        side=8,
        images=200,
        tested=40,
        certified=8,
        seeds=2,
        cells=2,
        layers=2,
        nodes=2,
        search_channels=2,
        search_epochs=2,
        warmup=1,
        channels=2,
        epochs={"standard": 2, "crown-ibp": 2},
        pgd=0.05,
    ),
    "digits": DIGITS,
    "digits-again": replace(DIGITS, first=100),
    "mnist": Preset(
        data="mnist",
        side=14,
        images=10000,
        tested=2000,
        certified=100,
        seeds=5,
        cells=10,
        layers=3,
        nodes=2,
        search_channels=4,
        search_epochs=6,
        warmup=2,
        channels=4,
        epochs={"standard": 10, "crown-ibp": 10},
        pgd=0.1,
    ),
}

_EQUAL: dict[str, Any] = {"gamma": 1.0, "scale_free": True}
_BATCH: dict[str, Any] = {**_EQUAL, "name": "cb", "options": {"images": 16, "bn": "batch"}}
ARMS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "cb": {**_EQUAL, "name": "cb", "options": {"images": 16}},
    "jacobian": {**_EQUAL, "name": "jacobian", "options": {"projections": 1}},
    "curvature": {**_EQUAL, "name": "curvature"},
    "cb-batch": _BATCH,
    "cb-batch-gamma-0.1": {**_BATCH, "gamma": 0.1},
    "cb-batch-picked": _BATCH,
    "cb-crown-ibp": {**_EQUAL, "name": "cb", "options": {"images": 8, "method": "crown-ibp"}},
    "cb-zonotope": {**_EQUAL, "name": "cb", "options": {"images": 8, "method": "zonotope"}},
    "cb-gain": {**_EQUAL, "name": "cb", "options": {"images": 16, "reading": "gain"}},
}
"""Arm -> metric.  Scale-free at γ = 1, loss and metric pull equally hard on the architecture, whatever the metric."""
PICKED = frozenset({"cb-batch-picked"})
"""Arms without a search of their own: the cell of the best metric among DRAWN random ones in the supernet of `none`."""
DRAWN = 50
DEFAULT_ARMS = ("none", "cb", "jacobian", "curvature")


def metric_of(arm: str, preset: Preset) -> dict[str, Any]:
    """The metric's table in a search configuration."""
    table = ARMS[arm]
    if table["name"] != "curvature":
        return table
    return {**table, "options": {"h": CURVATURE_STEP * preset.side}}


def search_config(preset: Preset, arm: str, seed: int) -> SearchConfig:
    """The search of an arm; what is not said here is DARTS's."""
    sizes = {"channels": preset.search_channels, "layers": preset.layers, "nodes": preset.nodes}
    table = {
        "epochs": preset.search_epochs,
        "batch_size": BATCH,
        "seed": seed,
        "metric": metric_of(arm, preset),
        "data": {"name": preset.data},
        "supernet": sizes,
        "alpha": {"lr": ALPHA_LR, "warmup": preset.warmup},
    }
    return from_table(SearchConfig, table)


def training_images(preset: Preset) -> Dataset:
    """The images of searches and trainings: no other decides anything."""
    return _smaller(_part(preset, train=True, count=preset.images), preset.side)


def test_images(preset: Preset) -> tuple[Dataset, Dataset]:
    """(the images that accuracies are of, those among them that are certified), drawn by the preset's seed."""
    part = _part(preset, train=False, count=None)
    tested = select(_smaller(part, preset.side), preset.tested, seed=preset.first)
    return tested, select(tested, preset.certified, seed=preset.first)


def _part(preset: Preset, *, train: bool, count: int | None) -> Dataset:
    """The first `count` images of a part, or all of it."""
    if preset.data != "mnist":
        return load(preset.data, train=train, count=count)
    x, y = mnist(10_000 if count is None else count, train=train)
    return Dataset("mnist", x, y, torch.arange(len(y)), 10)


def _smaller(data: Dataset, side: int) -> Dataset:
    factor = data.x.shape[2] // side
    x = data.x if factor == 1 else functional.avg_pool2d(data.x, factor)
    return Dataset(data.name, x, data.y, data.index, data.classes)
