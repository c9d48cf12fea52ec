"""A small network, small images and a short recipe for the tests of training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from certnas.data import Dataset
from certnas.nas.space import Genotype
from certnas.training import Recipe, recipe

CELL = Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
)


TINY = {
    "epochs": 3,
    "batch": 20,
    "channels": 2,
    "layers": 2,
    "drop_path": 0.0,
    "auxiliary": 0.0,
    "augmentation": {"crop": 0, "flip": False, "cutout": 0},
}


def tiny(name: str = "standard", **changes: Any) -> Recipe:
    return recipe(name, changes=TINY | changes)


def bars(count: int = 60, size: int = 6, channels: int = 1) -> Dataset:
    """Images of a bright bar, by its row a class of three, in noise."""
    random = torch.Generator().manual_seed(5)
    y = torch.arange(count) % 3
    x = 0.3 * torch.rand(count, channels, size, size, generator=random)
    x[torch.arange(count), :, 1 + y] += 0.6
    return Dataset("bars", x, y, torch.arange(count), 3)


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(folder / name / "weights.safetensors")


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
