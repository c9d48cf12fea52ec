"""`certnas search`: a genotype for a data set, an algorithm and a metric, in a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .failure import INTERRUPTED, Ended, refusals
from .values import Number

if TYPE_CHECKING:
    from certnas.data import Dataset
    from certnas.nas.search import SearchConfig

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = {
    "algo": "algorithm.name",
    "metric": "metric.name",
    "gamma": "metric.gamma",
    "scale_free": "metric.scale_free",
    "data": "data.name",
    "images": "data.images",
    "space": "supernet.space",
    "channels": "supernet.channels",
    "layers": "supernet.layers",
    "nodes": "supernet.nodes",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "seed": "seed",
}
"""Option -> the value of the configuration that it sets."""

ALGORITHMS = "darts, pc-darts or random"
METRICS = "none, cb, jacobian, curvature, fgsm or pgd"
PRESETS = "darts, pc-darts, dsrna-cb, dsrna-jacobian or advrush"
WHAT = (
    click.option("--preset", help=f"A paper's hyper-parameters: {PRESETS}."),
    click.option("--config", type=click.Path(path_type=Path), help="A TOML file, over the preset."),
    click.option("--set", "changes", metavar="KEY=VALUE", multiple=True,
                 help="Any value of the configuration, such as weights.lr=0.1; over all else; may be repeated."),
    click.option("--algo", help=f"{ALGORITHMS}.  [default: darts]"),
    click.option("--metric", help=f"{METRICS}.  [default: none]"),
    click.option("--gamma", type=Number(), help="Weight of the metric.  [default: 0.01]"),
    click.option("--scale-free/--no-scale-free", default=None,
                 help="--gamma as a ratio of gradient norms, the same for every network."),
    click.option("--data", help="A data set's name, an image folder or .npz.  [default: digits]"),
    click.option("--data-root", type=click.Path(path_type=Path), help="Where torchvision's data sets lie."),
    click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there."),
    click.option("--images", type=int, help="How many, drawn by the seed; all by default."),
    click.option("--space", help="Search space.  [default: darts]"),
    click.option("--channels", type=int, help="Of the supernet's first cell.  [default: 16; digits, mnist: 8]"),
    click.option("--layers", type=int, help="Cells of the supernet.  [default: 8; digits: 3, mnist: 5]"),
    click.option("--nodes", type=int, help="Intermediate nodes of a cell.  [default: 4; digits: 3]"),
    click.option("--epochs", type=int, help="[default: 50]"),
    click.option("--batch-size", type=int, help="[default: 64]"),
    click.option("--seed", type=int, help="Of all that is random.  [default: 0]"),
)  # fmt: skip
RUN = (
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run."),
    click.option("--resume", is_flag=True, help="Continue the run in --out, with its configuration."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(1), help="Of the CPU."),
    click.option("--checkpoint-every", type=click.IntRange(1), metavar="STEPS",
                 help="Keep the state this often too, besides at the end of each epoch."),
    click.option("--pictures/--no-pictures", default=True, show_default=True, help="Draw the cells of each epoch."),
)  # fmt: skip


def with_options(function: F) -> F:
    """The command with all of its options, in the order of the help text."""
    for option in reversed(WHAT + RUN):
        function = option(function)
    return function


@click.command()
@with_options
def search(**options: Any) -> None:
    """Search a genotype by the loss and a robustness metric, loss − γ·metric.

    --out ends up with genotype.json, config.toml (every value that was used), log.jsonl, tensorboard/ and
    pictures/.  For several GPUs start it by torchrun.
    """
    with refusals():
        if options["threads"] is not None:
            import torch

            torch.set_num_threads(options["threads"])
        config, data = configured(options)
        run(config, data, options)


def configured(options: dict[str, Any]) -> tuple[SearchConfig, Dataset]:
    """The configuration that the options describe, and its images.

    Later ones win: the preset (without one: what is fitted to the data set, or the folder's when resuming),
    --config, named options, --set.
    """
    from certnas.certifier.request import chosen
    from certnas.nas.search import FITTED, PRESETS, SearchConfig, open_data
    from certnas.nas.search.config import DataConfig
    from certnas.runs import from_table, merged, read_toml, setting
    from certnas.runs.folder import CONFIG

    table: dict[str, Any] = {}
    if options["preset"] is not None:
        table = chosen("preset", options["preset"], PRESETS)
    elif options["resume"] and options["config"] is None and (options["out"] / CONFIG).exists():
        table = read_toml(options["out"] / CONFIG)
    if options["config"] is not None:
        table = merged(table, read_toml(options["config"]))
    for option, key in SETTINGS.items():
        if options[option] is not None:
            table = merged(table, nested(key, options[option]))
    for change in options["changes"]:
        table = merged(table, setting(change))
    if options["preset"] is None:
        name = table.get("data", {}).get("name", DataConfig.name)
        table = merged(FITTED.get(name, {}), table)
    config = from_table(SearchConfig, table)
    return config, open_data(config, root=options["data_root"], download=options["download"])


def nested(key: str, value: Any) -> dict[str, Any]:
    """The table in which a dotted key has this value."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def run(config: SearchConfig, data: Dataset, options: dict[str, Any]) -> None:
    """Searches, shows how it goes and what was found; an early end loses no saved state."""
    from rich.console import Console

    from certnas.nas.search import GENOTYPE
    from certnas.nas.search import search as searched
    from certnas.parallel import is_first_process

    from .show_search import Display, cells

    out = options["out"]
    try:
        with Display(Console(stderr=True)) as display:
            found = searched(
                config,
                data,
                out=out,
                resume=options["resume"],
                device=options["device"],
                progress=display.update,
                checkpoint_every=options["checkpoint_every"],
                pictures=options["pictures"],
            )
    except KeyboardInterrupt as error:
        line = f"interrupted: the state is kept in {out}; continue with --out {out} --resume"
        raise Ended(line, INTERRUPTED) from error
    if is_first_process():
        Console().print(cells(found.genotype))
        click.echo(f"wrote {GENOTYPE} to {out}")
