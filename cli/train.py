"""`certnas train` trains the network of a genotype, in a run folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failure import INTERRUPTED, Ended, refusals
from .names import GENOTYPE, RECIPE
from .options import DATA, DATA_ROOT, DEVICE, DOWNLOAD, THREADS, set_threads, with_options
from .values import Number

if TYPE_CHECKING:
    from certnas.training import Recipe

SETTINGS = {
    "channels": "channels",
    "layers": "layers",
    "epochs": "epochs",
    "batch_size": "batch",
    "lr": "lr",
    "eps": "objective.eps",
}
"""Option -> the recipe's setting that it changes."""

TRAINING = (
    click.option("--recipe", "name", type=RECIPE, default="standard", show_default=True,
                 help=f"Hyper-parameters of a paper: {RECIPE.text}; they are fitted to small data sets."),
    click.option("--config", type=click.Path(path_type=Path),
                 help="TOML file with a table [recipe], such as another run's config.toml, over the recipe."),
    click.option("--set", "changes", metavar="KEY=VALUE", multiple=True,
                 help="Set any value, such as augmentation.crop=2 or objective.kappa=0, over all else; repeatable."),
    click.option("--channels", type=int, help="Number of channels of the network's first cell."),
    click.option("--layers", type=int, help="Number of cells of the network."),
    click.option("--epochs", type=int, help="Number of epochs."),
    click.option("--batch-size", type=int, help="Number of images in a batch."),
    click.option("--lr", type=Number(), help="Learning rate."),
    click.option("--eps", type=Number(), help="Radius of the l∞ balls to train against, in [0, 1] pixels: 8/255."),
)  # fmt: skip
IMAGES = (
    DATA,
    DATA_ROOT,
    DOWNLOAD,
    click.option("--images", type=int, help="Number of training images, drawn by the seed; all by default."),
    click.option("--validation", type=float, default=0.1, show_default=True,
                 help="Share of the training images that are held out, to choose the best epoch by."),
)  # fmt: skip
RUN = (
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
                 help="Seed of all random choices."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder that the run writes to."),
    click.option("--resume", is_flag=True, help="Continue the run that --out holds; give the same options."),
    DEVICE,
    THREADS,
)  # fmt: skip


@click.command()
@click.argument("genotype", type=GENOTYPE)
@with_options(*TRAINING, *IMAGES, *RUN)
def train(**options: Any) -> None:
    """Train the network of a genotype.

    GENOTYPE is one that `certnas show` accepts, or the folder of a search.  OUT/best will hold the network of the epoch
    that did best on held-out training images; certify it with: certnas certify OUT/best.
    """
    with refusals():
        set_threads(options["threads"])
        run(options)


def chosen_recipe(options: dict[str, Any]) -> Recipe:
    """The recipe that the options describe; later ones replace earlier: --recipe, --config, named options, --set."""
    from certnas.errors import UserError
    from certnas.runs import merged, read_toml, setting
    from certnas.training import recipe

    from .search import nested

    table: dict[str, Any] = {}
    if options["config"] is not None:
        table = read_toml(options["config"])
        if not isinstance(table.get("recipe"), dict):
            raise UserError(f"configuration {options['config']}: has no table [recipe]; add one")
        table = table["recipe"]
    for option, key in SETTINGS.items():
        if options[option] is not None:
            table = merged(table, nested(key, options[option]))
    for change in options["changes"]:
        table = merged(table, setting(change))
    return recipe(options["name"], options["data"], table)


def run(options: dict[str, Any]) -> None:
    """Trains, and shows the progress and the result; an early end loses no whole epoch."""
    from rich.console import Console

    from certnas.certifier.request import open_device
    from certnas.nas.search import GENOTYPE
    from certnas.nas.space import open_genotype
    from certnas.parallel import is_first_process
    from certnas.training import train as trained
    from certnas.training import training_images

    from .show_train import TrainDisplay, summary

    given, out = options["genotype"], options["out"]
    genotype = open_genotype(Path(given) / GENOTYPE if os.path.isdir(given) else given)
    recipe = chosen_recipe(options)
    device = open_device(options["device"])
    data = training_images(
        options["data"],
        root=options["data_root"],
        download=options["download"],
        count=options["images"],
        seed=options["seed"],
    )
    try:
        with TrainDisplay(Console(stderr=True)) as display:
            result = trained(
                genotype,
                data,
                recipe,
                out,
                seed=options["seed"],
                validation=options["validation"],
                resume=options["resume"],
                device=device,
                progress=display.update,
            )
    except KeyboardInterrupt as error:
        line = f"interrupted: whole epochs are kept in {out}; continue with --resume"
        raise Ended(line, INTERRUPTED) from error
    if is_first_process():
        Console().print(summary(result, recipe))
        click.echo(f"certify it with: certnas certify {result.best} --data {options['data']}")
