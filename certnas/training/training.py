"""Training from a genotype to a trained network in a run folder."""

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
from certnas.training.loop import TrainingProgress, fit
from certnas.training.plots import curves, epochs_of
from certnas.training.recipe import Recipe, recipe_table

BEST, LAST, CURVES = "best", "last", "curves.png"
VALIDATION = 0.1
"""Default share of held-out images."""


@dataclass(frozen=True)
class Trained:
    """The best and the last network of a training; `certnas.models.open_model` opens their folders."""

    best: Path
    """Folder of the best network."""
    last: Path
    """Folder of the last epoch's network."""
    best_figures: Mapping[str, float]
    """Results of the best network's epoch by name, as in `TrainingProgress.figures`, with `epoch`."""
    last_figures: Mapping[str, float]
    """Results of the last epoch by name."""


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
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Trained:
    """Train the network of a genotype, and store it in the folder `out`.

    Args:
        genotype: the cells of the network.
        data: images [N,C,H,W] in [0, 1] with labels.
        recipe: the settings of the training and the size of the network; see `recipe`.
        out: run folder.  It receives config.toml, log.jsonl and tensorboard/ (one entry per epoch), curves.png, the
            networks best/ and last/, and the checkpoint last.pt.
        seed: seed of all random draws.
        validation: share of the images to hold out, drawn by the seed.
        resume: continue the training in `out` from its last checkpoint.
        device: "cpu", "cuda", "cuda:1", …
        progress: called after every step.

    Returns:
        The folders and the results of the best and the last network.  The best one has the highest measure on the
        held-out images (`Objective.measure`), then the highest accuracy, then the latest epoch.

    Raises:
        UserError: data, recipe and network do not fit together, the folder has another run, or a loss is not finite.

    The caller's random state does not change.  On a CPU, a resumed training ends in the same weights.
    Under torchrun the processes share each batch (see `fit`); only the first one writes files and calls
    `progress`.

    >>> from certnas.data import load
    >>> from certnas.nas.space import GENOTYPES
    >>> from certnas.training import recipe, train
    >>> digits = load("digits", train=True, count=40, seed=0)
    >>> settings = recipe("standard", "digits", {"epochs": 1, "layers": 1, "channels": 2})
    >>> trained = train(GENOTYPES["DARTS_V2"], digits, settings, "runs/digits")
    >>> trained.best_figures["epoch"]
    1
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
    with processes(torch.device(device)) as (group, local_device):
        trained = None
        if group.rank:
            fit(network, images, held, recipe, seed=seed, device=local_device, processes=group)
        else:
            environment = {"device": str(local_device), "processes": group.size}
            folder = RunFolder.open(Path(out), config, resume=resume, environment=environment)
            keeper = _Folder(folder, genotype, sizes, recipe)
            kept: dict[str, Any] = {"keeper": keeper, "progress": progress}
            try:
                fit(network, images, held, recipe, seed=seed, device=local_device, processes=group, **kept)
            finally:
                folder.close()
            trained = keeper.trained(f"{data.name} · {recipe.objective.measure.replace('_', ' ')}")
        found: Trained = group.gathered(trained)[0]
        return found


class _Folder:
    """Stores a training in a run folder."""

    def __init__(self, folder: RunFolder, genotype: Genotype | RobNet, sizes: Sizes, recipe: Recipe) -> None:
        self.folder, self.genotype, self.sizes, self.recipe = folder, genotype, sizes, recipe

    def trained(self, title: str) -> Trained:
        """Draw the curves and return the stored networks; call this after the last epoch."""
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
