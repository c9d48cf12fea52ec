"""`certnas run` searches a genotype, trains its network, certifies it, and writes a report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failure import INTERRUPTED, UNSOUND, Ended, refusals
from .names import METHOD, METRIC, NORM, PRESET, RECIPE
from .options import DATA_BY_CONFIGURATION, DATA_ROOT, DEVICE, DOWNLOAD, THREADS, set_threads, with_options
from .values import Number

if TYPE_CHECKING:
    from certnas.pipeline import RunConfig, Watch

SETTINGS = {
    "preset": "search.preset",
    "metric": "search.metric.name",
    "data": "search.data.name",
    "recipe": "train.recipe",
    "channels": "train.channels",
    "layers": "train.layers",
    "eps": "train.objective.eps",
    "norm": "certify.norm",
    "method": "certify.method",
    "images": "certify.images",
    "seed": "seed",
}
"""Option -> the configuration's value that it sets."""
WHAT = (
    click.option("--preset", type=PRESET, help=f"Published hyper-parameters of the search: {PRESET.text}."),
    click.option("--metric", type=METRIC, help=f"Robustness metric of the search: {METRIC.text}.  [default: none]"),
    DATA_BY_CONFIGURATION,
    click.option("--test-data", type=click.Path(path_type=Path),
                 help="Images to certify on, a folder or .npz file; the test part of --data by default."),
    DATA_ROOT,
    DOWNLOAD,
    click.option("--recipe", type=RECIPE,
                 help=f"Published hyper-parameters of the training: {RECIPE.text}.  [default: standard]"),
    click.option("--channels", type=int, help="Number of channels of the trained network's first cell."),
    click.option("--layers", type=int, help="Number of cells of the trained network."),
    click.option("--eps", type=Number(), help="Radius of the l∞ balls to train against, in [0, 1] pixels."),
    click.option("--norm", type=NORM, help=f"Norm of the certified radii: {NORM.text}.  [default: linf]"),
    click.option("--method", type=METHOD,
                 help=f"Bound method of the certificates: {METHOD.text}.  [default: crown]"),
    click.option("--images", type=int, help="Number of test images to certify.  [default: 20]"),
    click.option("--seed", type=int, help="Seed of all random choices.  [default: 0]"),
    click.option("--config", type=click.Path(path_type=Path),
                 help="TOML file with tables [search], [train], [certify]; the options above replace its values."),
    click.option("--set", "changes", metavar="KEY=VALUE", multiple=True,
                 help="Set any value, such as search.epochs=2 or train.lr=0.1, over all else; may be repeated."),
)  # fmt: skip
RUN = (
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder that the run writes to."),
    click.option("--resume", is_flag=True, help="Continue the run that --out holds, with its configuration."),
    DEVICE,
    THREADS,
)  # fmt: skip


@click.command()
@with_options(*WHAT, *RUN)
def run(**options: Any) -> None:
    """Search a genotype, train its network, certify it, and report.

    OUT/report.md will show the figures and pictures of all stages.
    """
    with refusals():
        set_threads(options["threads"])
        go(configured(options), options)


def configured(options: dict[str, Any]) -> RunConfig:
    """The configuration that the options describe, over that of --config, or else of the folder when resuming."""
    from certnas.pipeline import run_config
    from certnas.runs import merged, read_toml, setting
    from certnas.runs.folder import CONFIG

    from .search import nested

    table: dict[str, Any] = {}
    kept = options["out"] / CONFIG
    if options["config"] is not None:
        table = read_toml(options["config"])
    elif options["resume"] and kept.exists():
        table = read_toml(kept)
    for option, key in SETTINGS.items():
        if options[option] is not None:
            table = merged(table, nested(key, options[option]))
    for change in options["changes"]:
        table = merged(table, setting(change))
    return run_config(table)


def go(config: RunConfig, options: dict[str, Any]) -> None:
    """Runs the stages that are not done yet, and shows them."""
    from rich.console import Console

    from certnas import bounds
    from certnas.certifier import SoundnessError
    from certnas.certifier.results import keep_evidence
    from certnas.pipeline import run as ran

    from .show import summary
    from .show_run import watching

    out = options["out"]
    try:
        with ExitStack() as stack:
            watch: Watch = watching(Console(stderr=True), stack)
            outcome = ran(
                config,
                out,
                test=options["test_data"],
                root=options["data_root"],
                download=options["download"],
                resume=options["resume"],
                device=options["device"],
                watch=watch,
            )
    except SoundnessError as error:
        raise Ended(f"error: {error}; evidence in {keep_evidence(out, error.evidence)}", UNSOUND) from error
    except KeyboardInterrupt as error:
        line = f"interrupted: what is done is kept in {out}; continue with --out {out} --resume"
        raise Ended(line, INTERRUPTED) from error
    certificates = outcome.certificates
    title = f"{config.search.data.name} · {certificates.norm} · {certificates.method}"
    Console().print(summary(certificates, bounds.NORMS[certificates.norm].reported, title))
    click.echo(f"wrote {outcome.report}")
