"""`certnas crosscheck` bounds one network by certnas and by auto_LiRPA, and compares the bounds."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .bars import bar
from .engine import ENGINE, chosen_engine
from .failure import INTERRUPTED, UNSOUND, Ended, refusals
from .names import COMPARED_METHOD, DATA_LAYOUT, MODEL, NORM
from .opening import OPENING, opened
from .options import DATA, DATA_ROOT, THREADS, set_threads, with_options
from .values import NumberList, Several

if TYPE_CHECKING:
    from rich.table import Table

    from certnas.crosscheck import Comparison, Crosscheck, Part
    from certnas.engine import Engine

OPTIONS = (
    click.argument("model", type=MODEL),
    *OPENING,
    DATA,
    click.option("--data-layout", type=DATA_LAYOUT,
                 help=f"Layout of the images in an .npz file: {DATA_LAYOUT.text}."),
    DATA_ROOT,
    click.option("--images", type=click.IntRange(1), default=4, show_default=True,
                 help="Number of images, drawn by the seed."),
    click.option("--norm", type=NORM, default="linf", show_default=True, help=f"Norm of the balls: {NORM.text}."),
    click.option("--eps", type=NumberList(), default="0.01", show_default=True,
                 help="Radii of the balls: 1/255,8/255."),
    click.option("--methods", type=Several(COMPARED_METHOD), default=",".join(COMPARED_METHOD.listed),
                 show_default=True, help=f"Bound methods, between commas: {COMPARED_METHOD.text}."),
    click.option("--samples", type=click.IntRange(1), default=100, show_default=True,
                 help="Number of random points for each image."),
    click.option("--tolerance", type=float,
                 help="How much looser certnas may be, as a share of auto_LiRPA's width.  [default: 0.01]"),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the images and the points."),
    THREADS,
    click.option("--out", type=click.Path(path_type=Path), help="JSON file for all figures."),
    *ENGINE,
)  # fmt: skip


@click.command()
@with_options(*OPTIONS)
def crosscheck(**options: Any) -> None:
    """Compare the bounds of certnas and auto_LiRPA on MODEL.

    It compares clean outputs first, then bounds of every logit over balls that no box cuts.  It searches each ball for
    points whose outputs are outside of either tool's bounds.  The exit code is 1 where certnas is looser than the
    tolerance, or where a bound is unsound and that is no known mistake of auto_LiRPA.
    """
    with refusals():
        set_threads(options["threads"])
        _crosscheck(options)


def _crosscheck(options: dict[str, Any]) -> None:
    from certnas.crosscheck import TOLERANCE, Crosscheck, parts
    from certnas.data import load
    from certnas.errors import UserError

    data = load(
        options["data"],
        root=options["data_root"],
        count=options["images"],
        seed=options["seed"],
        layout=options["data_layout"],
    )
    model = opened(options["model"], options, tuple(data.x.shape[1:]))
    tolerance = TOLERANCE if options["tolerance"] is None else options["tolerance"]
    engine = chosen_engine(options)
    job = Crosscheck(model.module, options["norm"], options["methods"], options["samples"], options["seed"])
    work = parts(data.x, options["eps"])
    found: dict[int, list[Comparison]] = {}
    try:
        _compare(engine, job, work, found)
    except (KeyboardInterrupt, UserError) as error:
        if found:
            _report(options, _joined(found), tolerance)
        if isinstance(error, UserError):
            raise
        raise Ended(f"interrupted: {len(found)} of {len(work)} parts are compared", INTERRUPTED) from error
    failures = _report(options, _joined(found), tolerance)
    if failures:
        raise Ended("error: " + "; ".join(failures), UNSOUND)


def _compare(engine: Engine, job: Crosscheck, work: list[Part], found: dict[int, list[Comparison]]) -> None:
    """Adds the comparisons of each part to `found`, under its position."""
    from contextlib import closing

    from rich.console import Console

    with bar(Console(stderr=True), "[bold]comparing", "parts") as shown:
        task = shown.add_task("comparing", total=len(work))
        with closing(engine.run(job, work, lambda *_: None)) as results:
            for position, comparisons in results:
                found[position] = comparisons
                shown.update(task, completed=len(found))


def _joined(found: dict[int, list[Comparison]]) -> list[Comparison]:
    """One comparison for each radius and method, in the order of the parts."""
    from certnas.crosscheck import joined

    groups: dict[tuple[float, str], list[Comparison]] = {}
    for _, comparisons in sorted(found.items()):
        for one in comparisons:
            groups.setdefault((one.eps, one.method), []).append(one)
    return [joined(group) for group in groups.values()]


def _report(options: dict[str, Any], found: list[Comparison], tolerance: float) -> list[str]:
    """Shows and writes the comparisons; returns the failures among them."""
    from rich.console import Console

    failures = [line for one in found for line in one.failures(tolerance)]
    console = Console()
    console.print(_table(found))
    for reason in dict.fromkeys(one.known for one in found if one.known):
        console.print(f"auto_LiRPA is known to be wrong here, and is not compared: {reason}", markup=False)
    for reason in dict.fromkeys(one.unusable for one in found if one.unusable):
        console.print(f"auto_LiRPA has no bounds: {reason}", markup=False)
    if options["out"] is not None:
        _write(options, found, failures, tolerance)
    return failures


def _table(found: list[Comparison]) -> Table:
    from rich import box
    from rich.table import Table

    clean = max(one.clean for one in found)
    shown = Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True, title_justify="left"
    )
    shown.title = f"clean outputs agree to {clean:.1e} (relative); bounds of every logit"
    for header in ("method", "ε", "differ by", "of width", "tighter", "outside", "seconds"):
        shown.add_column(header, justify="left" if header in ("method", "tighter") else "right", no_wrap=True)
    for one in found:
        shown.add_row(
            one.method,
            f"{one.eps:.4g}",
            _figure(one.absolute),
            _figure(one.relative),
            one.tighter
            if one.tighter in ("equal", "not compared")
            else f"{one.tighter}, {abs(one.looser):.1%}",
            f"{one.our_violations} | {'–' if one.unusable else one.their_violations}",
            f"{one.our_seconds:.2f} | {_seconds(one.their_seconds)}",
        )
    shown.caption = (
        "outside: number of bounds that a point violates; outside and seconds: certnas | auto_LiRPA"
    )
    return shown


def _figure(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "–"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _write(options: dict[str, Any], found: list[Comparison], failures: list[str], tolerance: float) -> None:
    from certnas.crosscheck import lirpa_version
    from certnas.runs import finite, versions, write_atomically

    record = {
        "model": options["model"],
        "data": options["data"],
        "images": options["images"],
        "seed": options["seed"],
        "tolerance": tolerance,
        "versions": versions() | {"auto_LiRPA": lirpa_version()},
        "failures": failures,
        "comparisons": [asdict(one) | {"tighter": one.tighter} for one in found],
    }
    text = json.dumps(finite(record), indent=1, allow_nan=False) + "\n"
    write_atomically(options["out"], text)
