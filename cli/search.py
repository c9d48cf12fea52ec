"""`certnas search` searches a genotype for a data set, by an algorithm and a metric, in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failure import INTERRUPTED, Ended, refusals
from .names import ALGORITHM, METRIC, PRESET, SPACE
from .options import DATA_BY_CONFIGURATION, DATA_ROOT, DEVICE, DOWNLOAD, THREADS, set_threads, with_options
from .values import Number

if TYPE_CHECKING:
    from certnas.data import Dataset
    from certnas.nas.search import SearchConfig

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
"""Option -> the configuration's value that it sets."""

WHAT = (
    click.option("--preset", type=PRESET, help=f"Hyper-parameters of a paper: {PRESET.text}."),
    click.option("--config", type=click.Path(path_type=Path), help="TOML file whose values replace the preset's."),
    click.option("--set", "changes", metavar="KEY=VALUE", multiple=True,
                 help="Set any value of the configuration, such as weights.lr=0.1, over all else; may be repeated."),
    click.option("--algo", type=ALGORITHM, help=f"Search algorithm: {ALGORITHM.text}.  [default: darts]"),
    click.option("--metric", type=METRIC, help=f"Robustness metric: {METRIC.text}.  [default: none]"),
    click.option("--gamma", type=Number(), help="Weight of the metric.  [default: 0.01]"),
    click.option("--scale-free/--no-scale-free", default=None,
                 help="Read --gamma as a ratio of gradient norms, which is the same for every network."),
    DATA_BY_CONFIGURATION,
    DATA_ROOT,
    DOWNLOAD,
    click.option("--images", type=int, help="Number of images, drawn by the seed; all by default."),
    click.option("--space", type=SPACE, help=f"Search space: {SPACE.text}.  [default: darts]"),
    click.option("--channels", type=int,
                 help="Channels of the supernet's first cell.  [default: 16; digits, mnist, fashion-mnist: 8]"),
    click.option("--layers", type=int,
                 help="Number of cells of the supernet.  [default: 8; digits: 3, mnist, fashion-mnist: 5]"),
    click.option("--nodes", type=int, help="Number of intermediate nodes of a cell.  [default: 4; digits: 3]"),
    click.option("--epochs", type=int, help="Number of epochs.  [default: 50]"),
    click.option("--batch-size", type=int, help="Number of images in a batch.  [default: 64]"),
    click.option("--seed", type=int, help="Seed of all random choices.  [default: 0]"),
)  # fmt: skip
RUN = (
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder that the run writes to."),
    click.option("--resume", is_flag=True, help="Continue the run that --out holds, with its configuration."),
    DEVICE,
    THREADS,
    click.option("--checkpoint-every", type=click.IntRange(1), metavar="STEPS",
                 help="Number of steps after which the state is kept, besides the end of each epoch."),
    click.option("--pictures/--no-pictures", default=True, show_default=True, help="Draw the cells of each epoch."),
)  # fmt: skip


@click.command()
@with_options(*WHAT, *RUN)
def search(**options: Any) -> None:
    """Search a genotype by the objective loss − γ·metric, with a robustness metric.

    The folder --out will hold genotype.json, config.toml (every value that was used), log.jsonl, tensorboard/ and
    pictures/.  Start the command by torchrun to use several GPUs.
    """
    with refusals():
        set_threads(options["threads"])
        config, data = configured(options)
        run(config, data, options)


def configured(options: dict[str, Any]) -> tuple[SearchConfig, Dataset]:
    """The configuration that the options describe, and its images.

    Later ones replace earlier ones: the preset, --config, the named options, --set.  Without a preset, the values that
    are fitted to the data set come first; when resuming, those of the folder.
    """
    from certnas.nas.search import FITTED, PRESETS, SearchConfig, open_data
    from certnas.nas.search.config import DataConfig
    from certnas.runs import from_table, merged, read_toml, setting
    from certnas.runs.folder import CONFIG

    table: dict[str, Any] = {}
    if options["preset"] is not None:
        table = PRESETS[options["preset"]]
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
    """The nested table in which a dotted key has this value."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def run(config: SearchConfig, data: Dataset, options: dict[str, Any]) -> None:
    """Searches, and shows the progress and the genotype; an early end loses no saved state."""
    from rich.console import Console

    from certnas.nas.search import GENOTYPE
    from certnas.nas.search import search as searched
    from certnas.parallel import is_first_process

    from .show_search import SearchDisplay, cells

    out = options["out"]
    try:
        with SearchDisplay(Console(stderr=True)) as display:
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
