"""`certnas train`: from a genotype to a trained network in a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .failure import INTERRUPTED, Ended, refusals
from .values import Number

if TYPE_CHECKING:
    from certnas.training import Recipe

F = TypeVar("F", bound=Callable[..., Any])
RECIPES = "standard, darts, pc-darts, pgd-at, ibp or crown-ibp"
SETTINGS = {
    "channels": "channels",
    "layers": "layers",
    "epochs": "epochs",
    "batch_size": "batch",
    "lr": "lr",
    "eps": "objective.eps",
}
"""Option -> the setting of the recipe that it changes."""

RECIPE = (
    click.option("--recipe", "name", default="standard", show_default=True,
                 help=f"A paper's hyper-parameters: {RECIPES}; fitted to the data set where it is small."),
    click.option("--config", type=click.Path(path_type=Path),
                 help="A TOML file with a table [recipe], such as another run's config.toml; over the recipe."),
    click.option("--set", "changes", metavar="KEY=VALUE", multiple=True,
                 help="Any setting, such as augmentation.crop=2 or objective.kappa=0; over all else; may be repeated."),
    click.option("--channels", type=int, help="Of the network's first cell."),
    click.option("--layers", type=int, help="Cells of the network."),
    click.option("--epochs", type=int),
    click.option("--batch-size", type=int),
    click.option("--lr", type=Number(), help="Learning rate."),
    click.option("--eps", type=Number(), help="Radius trained against, l∞ in [0, 1] pixels: 0.05 or 8/255."),
)  # fmt: skip
DATA = (
    click.option("--data", default="digits", show_default=True, help="A data set's name, an image folder or .npz."),
    click.option("--data-root", type=click.Path(path_type=Path), help="Where torchvision's data sets lie."),
    click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there."),
    click.option("--images", type=int, help="How many training images, drawn by the seed; all by default."),
    click.option("--validation", type=float, default=0.1, show_default=True,
                 help="Share of the training images held out to choose the best epoch by."),
)  # fmt: skip
RUN = (
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run."),
    click.option("--resume", is_flag=True, help="Continue the run in --out; give the same options."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(1), help="Of the CPU."),
)  # fmt: skip


def with_options(*groups: tuple[Callable[[F], F], ...]) -> Callable[[F], F]:
    """Gives a command the options of all groups, in the order of the help text."""

    def given(function: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return given


@click.command()
@click.argument("genotype")
@with_options(RECIPE, DATA, RUN)
def train(**options: Any) -> None:
    """Train the network of a genotype.

    GENOTYPE is what `certnas show` takes, or the folder of a search.  OUT/best is the network of the epoch that did
    best on held-out training images: certnas certify OUT/best.
    """
    with refusals():
        set_threads(options["threads"])
        run(options)


def set_threads(threads: int | None) -> None:
    """How many threads torch's operators take."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def chosen_recipe(options: dict[str, Any]) -> Recipe:
    """The recipe that the options describe; later ones win: --recipe, --config, named options, --set."""
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
    """Trains, shows how it goes and what came of it; an early end loses no whole epoch."""
    from rich.console import Console

    from certnas.certifier.request import open_device
    from certnas.nas.search import GENOTYPE
    from certnas.nas.space import open_genotype
    from certnas.parallel import is_first_process
    from certnas.training import train as trained
    from certnas.training import training_images

    from .show_train import Display, summary

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
        with Display(Console(stderr=True)) as display:
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
