"""What decides a run from search to certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from certnas import bounds
from certnas.certifier.request import check_numbers, chosen, resolve_method
from certnas.errors import UserError
from certnas.nas.search import PRESETS, SearchConfig
from certnas.runs import from_table, merged, to_table
from certnas.training import VALIDATION, Recipe, recipe, recipe_table


@dataclass(frozen=True)
class CertifyConfig:
    """How the trained network is certified: as `certnas.certify`, on `images` test images drawn by the seed."""

    norm: str = "linf"
    method: str = "crown"
    images: int = 20
    tol: float = 1e-3
    eps_max: float | None = None
    attack: bool = True

    def __post_init__(self) -> None:
        chosen("certify.norm", self.norm, bounds.NORMS)
        resolve_method(self.method)
        check_numbers(self.tol, self.eps_max, 1, None)
        if self.images < 1:
            raise UserError(f"certify.images: got {self.images}; give 1 or more")


@dataclass(frozen=True)
class Shared:
    """seed is that of all stages; validation the share of the training images that the training holds out."""

    seed: int = 0
    validation: float = VALIDATION

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed: got {self.seed}; give 0 or more")


@dataclass(frozen=True)
class RunConfig(Shared):
    """A search, the training of what it finds, and its certificates."""

    search: SearchConfig = field(default_factory=SearchConfig)
    train: Recipe = field(default_factory=Recipe)
    certify: CertifyConfig = field(default_factory=CertifyConfig)


def run_config(table: Mapping[str, Any]) -> RunConfig:
    """The configuration of a table: seed, validation, and the tables search, train and certify.

    search.preset names published hyper-parameters (`certnas.nas.search.PRESETS`) and train.recipe a recipe, fitted to
    the data set search.data.name; other values of those tables are over theirs.
    Raises UserError for a name or setting that is unknown, or a value that is wrong.
    """
    parts = {name: dict(_part(table, name)) for name in ("search", "train", "certify")}
    preset, name = parts["search"].pop("preset", None), parts["train"].pop("recipe", "standard")
    searched = {} if preset is None else chosen("search.preset", preset, PRESETS)
    shared = from_table(Shared, {key: value for key, value in table.items() if key not in parts})
    searched = merged(merged(searched, parts["search"]), {"seed": shared.seed})
    search = from_table(SearchConfig, searched, "search.")
    return RunConfig(
        shared.seed,
        shared.validation,
        search,
        recipe(name, search.data.name, parts["train"]),
        from_table(CertifyConfig, parts["certify"], "certify."),
    )


def run_table(config: RunConfig) -> dict[str, Any]:
    """Every value as a table that `run_config` reads."""
    table: dict[str, Any] = to_table(config)
    return {**table, "train": recipe_table(config.train)}


def _part(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = table.get(name, {})
    if not isinstance(part, Mapping):
        raise UserError(f"{name}: got {part!r}; it is a table of settings")
    return part
