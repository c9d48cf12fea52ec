"""From a genotype to a trained network in a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from certnas.data import Dataset
from certnas.models.trained import Sizes, figures_of, write_network
from certnas.nas.space import Genotype, RobNet
from certnas.parallel import processes
from certnas.runs import RunFolder
from certnas.training.images import channel_statistics, held_out
from certnas.training.loop import Progress, fit
from certnas.training.plots import curves, epochs_of
from certnas.training.recipe import Recipe, recipe_table

BEST, LAST, CURVES = "best", "last", "curves.png"
VALIDATION = 0.1


@dataclass(frozen=True)
class Trained:
    """Where the best and the last network are kept (`certnas.models.open_model` reads either), and their figures.

    Figures: epoch, loss, validation_accuracy, ... as in `Progress`; those of validation are of the held-out images.
    """

    best: Path
    last: Path
    best_figures: Mapping[str, float]
    last_figures: Mapping[str, float]


def train(
    genotype: Genotype | RobNet,
    data: Dataset,
    recipe: Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    validation: float = VALIDATION,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Trains the network of a genotype on the images by the recipe, and keeps it in the folder `out`.

    A share `validation` of the images, drawn by the seed, is held out; OUT/best is the network of the epoch with
    the highest measure on them (`Objective.measure`; among equals the highest accuracy, then the latest), OUT/last
    that of the last epoch.  The folder also holds config.toml, log.jsonl and tensorboard/ (a line and a point per
    epoch), curves.png, and last.pt, from which `resume` goes on after a kill: on a CPU to the same weights.
    The caller's random state is left as it was.  Started by torchrun, its processes share each batch (see `fit`); the
    first one alone writes, and calls progress.

    Raises UserError for data, recipe and network that do not fit, a folder that holds another run, or a loss that
    is not finite.

    >>> from certnas.data import load
    >>> from certnas.space import GENOTYPES
    >>> from certnas.train import recipe, train
    >>> digits = load("digits", train=True)
    >>> trained = train(GENOTYPES["DARTS_V2"], digits, recipe("crown-ibp", "digits"), "runs/darts")  # doctest: +SKIP
    """
    images, held = held_out(data, validation, seed)
    mean, std = channel_statistics(images.x) if recipe.normalize else (None, None)
    channels, height, width = data.x.shape[1:]
    sizes = Sizes(recipe.channels, recipe.layers, data.classes, (channels, height, width), mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = sizes.build(genotype, auxiliary=recipe.auxiliary > 0)
    config = {
        "seed": seed,
        "validation": validation,
        "data": {"name": data.name, "images": len(data.y)},
        "genotype": genotype.record(),
        "recipe": recipe_table(recipe),
    }
    with processes(torch.device(device)) as (group, place):
        trained = None
        if group.rank:
            fit(network, images, held, recipe, seed=seed, device=place, processes=group)
        else:
            environment = {"device": str(place), "processes": group.size}
            folder = RunFolder.open(Path(out), config, resume=resume, environment=environment)
            keeper = _Folder(folder, genotype, sizes, recipe)
            kept: dict[str, Any] = {"keeper": keeper, "progress": progress}
            try:
                fit(network, images, held, recipe, seed=seed, device=place, processes=group, **kept)
            finally:
                folder.close()
            trained = keeper.trained(f"{data.name} · {recipe.objective.measure.replace('_', ' ')}")
        found: Trained = group.gathered(trained)[0]
        return found


class _Folder:
    """Keeps a training in a run folder."""

    def __init__(self, folder: RunFolder, genotype: Genotype | RobNet, sizes: Sizes, recipe: Recipe) -> None:
        self.folder, self.genotype, self.sizes, self.recipe = folder, genotype, sizes, recipe

    def trained(self, title: str) -> Trained:
        """What is kept, once all epochs are; draws their curves."""
        path = self.folder.path
        self.folder.write(CURVES, curves(epochs_of(path), title))
        return Trained(path / BEST, path / LAST, figures_of(path / BEST), figures_of(path / LAST))

    def restore(self) -> Mapping[str, Any] | None:
        return None if self.folder.checkpoint is None else self.folder.checkpoint.state

    def keep(
        self,
        network: nn.Module,
        epoch: int,
        state: Mapping[str, Any],
        figures: Mapping[str, float],
        best: bool,
    ) -> None:
        kept = {
            "recipe": recipe_table(self.recipe),
            "figures": {"epoch": epoch, **figures},
        }
        self.folder.log("epoch", epoch, figures)
        for name in (BEST, LAST) if best else (LAST,):
            write_network(self.folder.path / name, network, self.genotype, self.sizes, kept)
        self.folder.save(epoch, state)
