"""The configuration of a run from the search to certificates."""

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
    """Settings of the certification of the trained network; see `certnas.certify`.

    Raises UserError for a wrong value.
    """

    norm: str = "linf"
    """Norm of the ball: a key of `bounds.NORMS`."""
    method: str = "crown"
    """Bound method: a key of `bounds.METHODS`."""
    images: int = 20
    """Number of test images, drawn by the seed."""
    tol: float = 1e-3
    """Relative tolerance of the search for a certified radius."""
    eps_max: float | None = None
    """Largest radius to try, in [0, 1] pixels (None: no limit but the box)."""
    attack: bool = True
    """True: also attack the images, for an upper bound of each radius."""

    def __post_init__(self) -> None:
        chosen("certify.norm", self.norm, bounds.NORMS)
        resolve_method(self.method)
        check_numbers(self.tol, self.eps_max, 1, None)
        if self.images < 1:
            raise UserError(f"certify.images: got {self.images}; give 1 or more")


@dataclass(frozen=True)
class Shared:
    """Settings of all stages."""

    seed: int = 0
    """Seed of all stages."""
    validation: float = VALIDATION
    """Share of the training images that the training holds out."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed: got {self.seed}; give 0 or more")


@dataclass(frozen=True)
class RunConfig(Shared):
    """A search, the training of its genotype, and the certification of the trained network."""

    search: SearchConfig = field(default_factory=SearchConfig)
    """The search."""
    train: Recipe = field(default_factory=Recipe)
    """The training."""
    certify: CertifyConfig = field(default_factory=CertifyConfig)
    """The certification."""


def run_config(table: Mapping[str, Any]) -> RunConfig:
    """The configuration that a table describes: seed, validation, and the tables search, train and certify.

    search.preset is a key of `certnas.nas.search.PRESETS`, and train.recipe a recipe, adapted to the data
    set search.data.name. Other values in these tables override theirs. Raises UserError for an unknown name
    or setting, or a wrong value.
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
    """All settings as a table, which `run_config` reads."""
    table: dict[str, Any] = to_table(config)
    return {**table, "train": recipe_table(config.train)}


def _part(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = table.get(name, {})
    if not isinstance(part, Mapping):
        raise UserError(f"{name}: got {part!r}; it is a table of settings")
    return part
