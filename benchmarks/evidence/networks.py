"""The networks that are compared: which cells, and how wide."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from benchmarks.evidence.presets import ARMS, Preset
from certnas.nas.space import DARTS, Genotype, SearchSpace, parameter_count, parse_genotype, random_genotype

Entries = Mapping[str, Mapping[str, Any]]
RANDOM, FREE, AS, CLASSES = "random", "parameter-free", "-as-", 10
_FREE_OPERATORS = (("max_pool_3x3", "avg_pool_3x3", "skip_connect"),)
PARAMETER_FREE = SearchSpace(_FREE_OPERATORS, _FREE_OPERATORS)
MOST_CHANNELS = 64


@dataclass(frozen=True)
class Cell:
    """Cell `number` of an arm: the seed of its search or draw, and of its training.

    arm: of `ARMS`; `random`; `parameter-free`, random cells of pooling and skips; `none-as-ARM`, the cells of none in
    a network as wide as gives the parameters of ARM's of the same number; `random-as-ARM`, random cells likewise,
    with the mean of ARM's parameters.
    """

    arm: str
    number: int

    @property
    def key(self) -> str:
        return f"{self.arm} | {self.number}"

    @property
    def origin(self) -> str:
        """The arm that its genotype is of."""
        return self.arm.split(AS)[0]


def search_key(arm: str, seed: int) -> str:
    return f"search | {arm} | {seed}"


def cells(preset: Preset, arms: Sequence[str]) -> list[Cell]:
    """All networks of a run, number by number."""
    certified = [arm for arm in arms if ARMS[arm]["name"] == "cb"]
    by_seed = [*arms, FREE, *(f"none{AS}{arm}" for arm in certified if "none" in arms)]
    drawn = [RANDOM, *(f"{RANDOM}{AS}{arm}" for arm in certified)]
    return [
        Cell(arm, number)
        for number in max(preset.searched, preset.drawn, key=len)
        for arm, numbers in (
            *((arm, preset.searched) for arm in by_seed),
            *((arm, preset.drawn) for arm in drawn),
        )
        if number in numbers
    ]


def needs(preset: Preset, cell: Cell) -> tuple[str, ...]:
    """The keys of the searches that decide the network."""
    own = (search_key(cell.origin, cell.number),) if cell.origin in ARMS else ()
    if AS not in cell.arm:
        return own
    like = cell.arm.split(AS)[1]
    if cell.origin == RANDOM:
        return tuple(search_key(like, seed) for seed in preset.searched)
    return (*own, search_key(like, cell.number))


def network(preset: Preset, cell: Cell, entries: Entries) -> tuple[Genotype, int]:
    """The genotype of a network and its channels, once the searches that it needs are among the entries."""
    genotype = _genotype(preset, cell, entries)
    if AS not in cell.arm:
        return genotype, preset.channels
    targets = [
        parameters(preset, parse_genotype(entries[key]["genotype"], key), preset.channels)
        for key in needs(preset, cell)
        if key != search_key(cell.origin, cell.number)
    ]
    return genotype, width(fmean(targets), lambda channels: parameters(preset, genotype, channels))


def width(target: float, count: Callable[[int], int]) -> int:
    """The number of channels whose network comes nearest to `target` parameters, of 1 to MOST_CHANNELS."""
    return min(range(1, MOST_CHANNELS + 1), key=lambda channels: abs(count(channels) - target))


def parameters(preset: Preset, genotype: Genotype, channels: int) -> int:
    """The number of parameters of the trained network."""
    return parameter_count(genotype, channels, preset.layers, CLASSES, in_channels=1)


def _genotype(preset: Preset, cell: Cell, entries: Entries) -> Genotype:
    if cell.origin in ARMS:
        key = search_key(cell.origin, cell.number)
        return parse_genotype(entries[key]["genotype"], key)
    space = DARTS if cell.origin == RANDOM else PARAMETER_FREE
    generator = torch.Generator().manual_seed(cell.number)
    return random_genotype(space, generator, nodes=preset.nodes)
