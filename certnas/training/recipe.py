"""Recipes: all settings of a training, published ones by name, and their adaptation to small images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn, optim

from certnas.data.augmentation import Augmentation
from certnas.errors import UserError
from certnas.runs import from_table, merged, to_table
from certnas.training.objectives import OBJECTIVES, CertifiedTraining, Objective, Standard
from certnas.training.ramp import half_cosine, stairs

Parameters = Iterable[nn.Parameter]

OPTIMIZERS: dict[str, Callable[[Parameters, Recipe], optim.Optimizer]] = {
    "sgd": lambda p, r: optim.SGD(p, r.lr, momentum=r.momentum, weight_decay=r.weight_decay),
    "adamw": lambda p, r: optim.AdamW(p, r.lr, betas=(r.momentum, 0.999), weight_decay=r.weight_decay),
}
"""Optimiser name -> constructor from parameters and recipe."""


@dataclass(frozen=True)
class Recipe:
    """All settings of a training; the defaults are DARTS's for CIFAR-10 (Liu et al. 2019, appendix A.2).

    Raises UserError for values that give no training.
    """

    objective: Objective = field(default_factory=Standard)
    """The training objective."""
    epochs: int = 600
    """Number of passes over the training images."""
    batch: int = 96
    """Largest number of images per batch."""
    optimizer: str = "sgd"
    """Key of OPTIMIZERS: `sgd` or `adamw`."""
    lr: float = 0.025
    """Learning rate at the start."""
    decays: tuple[float, ...] = ()
    """Fractions of the training at which the learning rate falls tenfold; empty: half a cosine to 0."""
    momentum: float = 0.9
    """Momentum of SGD, or β₁ of AdamW."""
    weight_decay: float = 3e-4
    """Weight decay of the optimiser."""
    clip: float = 5.0
    """Largest l2 norm of the gradient; longer ones are scaled down to it."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy."""
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(crop=4, flip=True, cutout=16))
    """Augmentation of the training images."""
    drop_path: float = 0.2
    """Final drop-path probability; it rises linearly from 0 (0: no drop-path)."""
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss (0: no auxiliary head)."""
    normalize: bool = True
    """True: the first layer of the network that `train` builds normalises by the channels' mean and
    deviation.
    """
    channels: int = 36
    """Initial number of channels of the network that `train` builds."""
    layers: int = 20
    """Number of cells of the network that `train` builds."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr", "clip", "channels", "layers"):
            _accept(name, getattr(self, name), getattr(self, name) > 0, "more than 0")
        for name in ("weight_decay", "auxiliary"):
            _accept(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("momentum", "label_smoothing", "drop_path"):
            _accept(name, getattr(self, name), 0 <= getattr(self, name) < 1, "0 or more and below 1")
        inside = all(0 < at < 1 for at in self.decays)
        _accept("decays", list(self.decays), inside, "fractions of the training between 0 and 1")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"optimizer: got {self.optimizer!r}; accepted: {', '.join(OPTIMIZERS)}")
        if isinstance(self.objective, CertifiedTraining) and self.drop_path:
            raise UserError(
                f"drop_path: got {self.drop_path:g}; a bound holds for one network, and drop-path uses another for "
                "each image: give 0 with a certified objective"
            )

    def rate(self, t: float) -> float:
        """The learning rate at the fraction t of the training."""
        return self.lr * (stairs(t, self.decays) if self.decays else half_cosine(t))


def _accept(name: str, value: object, good: bool, accepted: str) -> None:
    if not good:
        raise UserError(f"{name}: got {value}; give {accepted}")


DARTS: dict[str, Any] = {"objective": {"name": "standard"}}
PLAIN: dict[str, Any] = {"drop_path": 0.0, "auxiliary": 0.0, "augmentation": {"cutout": 0}}
CERTIFIED: dict[str, Any] = {
    **PLAIN,
    "epochs": 200,
    "batch": 128,
    "optimizer": "adamw",
    "lr": 5e-4,
    "decays": [0.8, 0.9],
    "weight_decay": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "standard": {**DARTS, "batch": 128, "drop_path": 0.3},
    "darts": DARTS,
    "pc-darts": {**DARTS, "drop_path": 0.3},
    "pgd-at": {
        **PLAIN,
        "objective": {"name": "pgd-at"},
        "epochs": 200,
        "batch": 64,
        "lr": 0.1,
        "decays": [99 / 200, 149 / 200],
        "weight_decay": 1e-4,
        "normalize": False,
    },
    "ibp": {**CERTIFIED, "objective": {"name": "ibp"}},
    "crown-ibp": {**CERTIFIED, "objective": {"name": "crown-ibp"}},
}
"""Recipe name -> differences from `Recipe`'s defaults.

`standard` is DSRNA's: its batch size and drop-path, and DARTS's values for whatever DSRNA does not state.
`pgd-at` is that of AdvRush (Mok et al. 2021). `ibp` and `crown-ibp` take Adam and its learning rate from
Zhang et al. 2020.
"""

_SMALL: dict[str, Any] = {"auxiliary": 0.0, "channels": 8}
_DIGITS = {**_SMALL, "layers": 3, "augmentation": {"crop": 1, "flip": False, "cutout": 0}}
_MNIST = {**_SMALL, "layers": 5, "augmentation": {"crop": 2, "flip": False, "cutout": 0}}
_CLEAN: dict[str, Any] = {"epochs": 60, "drop_path": 0.1}
_ATTACKED: dict[str, Any] = {"epochs": 40, "objective": {"eps": 0.1, "step": 0.025}}
_CERTIFIED_DIGITS: dict[str, Any] = {"epochs": 60, "batch": 96, "lr": 0.005, "objective": {"eps": 0.05}}
_CERTIFIED_MNIST: dict[str, Any] = {"epochs": 60, "objective": {"eps": 0.1}}


def _each(network: dict[str, Any], certified: dict[str, Any]) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {
        "standard": _CLEAN,
        "darts": _CLEAN,
        "pc-darts": _CLEAN,
        "pgd-at": _ATTACKED,
    }
    changes |= {"ibp": certified, "crown-ibp": certified}
    return {name: {**network, **change} for name, change in changes.items()}


FITTED: dict[str, dict[str, dict[str, Any]]] = {
    "digits": _each(_DIGITS, _CERTIFIED_DIGITS),
    "mnist": _each(_MNIST, _CERTIFIED_MNIST),
    "fashion-mnist": _each(_MNIST, _CERTIFIED_MNIST),
    "svhn": {"pgd-at": {"lr": 0.01}},
}
"""Data set -> recipe -> further differences for its images: smaller networks, weaker augmentation, fewer
epochs.

The values for svhn are AdvRush's, the others our own.
"""


def recipe(name: str, data: str = "", changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with this name, adapted to the data set `data`, with `changes`, a table of settings.

    If `changes` has an objective with another `name`, it replaces the recipe's. Raises UserError for an
    unknown name or setting, or a wrong value.

    >>> recipe("crown-ibp", "digits", {"epochs": 5}).epochs
    5
    """
    if name not in RECIPES:
        raise UserError(f"recipe: unknown name {name!r}; accepted: {', '.join(RECIPES)}")
    table = recipe_table(Recipe())
    for layer in (RECIPES[name], FITTED.get(data, {}).get(name, {}), changes or {}):
        table = merged(table, layer)
    chosen = table["objective"]
    if not isinstance(chosen, Mapping) or chosen.get("name") not in OBJECTIVES:
        raise UserError(f"objective: got {chosen!r}; give a table with a name: {', '.join(OBJECTIVES)}")
    settings = {key: value for key, value in chosen.items() if key != "name"}
    objective = from_table(OBJECTIVES[chosen["name"]], settings, "objective.")
    return from_table(Recipe, {**table, "objective": objective})


def recipe_table(used: Recipe) -> dict[str, Any]:
    """All settings of a recipe as a table; `recipe(any name, changes=table)` restores the recipe."""
    names = {kind: name for name, kind in OBJECTIVES.items()}
    table: dict[str, Any] = to_table(used)
    return {**table, "objective": {"name": names[type(used.objective)], **table["objective"]}}
