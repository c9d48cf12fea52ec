"""`certnas run`: search, derive, train, certify, report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failure import INTERRUPTED, UNSOUND, Ended, refusals
from .train import RECIPES, set_threads, with_options
from .values import Number

if TYPE_CHECKING:
    from certnas.pipeline import RunConfig, Watch

PRESETS = "darts, pc-darts, dsrna-cb, dsrna-jacobian or advrush"
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
"""Option -> the value of the configuration that it sets."""
WHAT = (
    click.option("--preset", help=f"The search's published hyper-parameters: {PRESETS}."),
    click.option("--metric", help="Of the search: none, cb, jacobian, curvature, fgsm or pgd."),
    click.option("--data", help="A data set's name, an image folder or .npz.  [default: digits]"),
    click.option("--test-data", type=click.Path(path_type=Path),
                 help="Images to certify on, a folder or .npz; by default the test part of --data."),
    click.option("--data-root", type=click.Path(path_type=Path), help="Where torchvision's data sets lie."),
    click.option("--download", is_flag=True, help="Fetch the data set into --data-root if it is not there."),
    click.option("--recipe", help=f"Of the training: {RECIPES}.  [default: standard]"),
    click.option("--channels", type=int, help="Of the trained network's first cell."),
    click.option("--layers", type=int, help="Cells of the trained network."),
    click.option("--eps", type=Number(), help="Radius trained against, l∞ in [0, 1] pixels."),
    click.option("--norm", help="Of the certificates: linf, l2 or l1.  [default: linf]"),
    click.option("--method", help="Of the certificates.  [default: crown]"),
    click.option("--images", type=int, help="Test images to certify.  [default: 20]"),
    click.option("--seed", type=int, help="Of all that is random.  [default: 0]"),
    click.option("--config", type=click.Path(path_type=Path),
                 help="A TOML file with tables [search], [train], [certify]; below the options above."),
    click.option("--set", "changes", metavar="KEY=VALUE", multiple=True,
                 help="Any value, such as search.epochs=2 or train.lr=0.1; over all else; may be repeated."),
)  # fmt: skip
RUN = (
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run."),
    click.option("--resume", is_flag=True, help="Continue the run in --out, with its configuration."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(1), help="Of the CPU."),
)  # fmt: skip


@click.command()
@with_options(WHAT, RUN)
def run(**options: Any) -> None:
    """Search a genotype, train its network, certify it, and report.

    OUT/report.md shows the figures and pictures of all stages.
    """
    with refusals():
        set_threads(options["threads"])
        go(configured(options), options)


def configured(options: dict[str, Any]) -> RunConfig:
    """The configuration that the options describe; when resuming without --config, over that of the folder."""
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
    """Runs what is not done yet, and shows it."""
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
