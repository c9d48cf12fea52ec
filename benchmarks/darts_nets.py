"""Every published genotype at three sizes by each method: time, memory and radius, or the reason of a refusal."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.darts_questions import (
    EPS,
    IMAGES,
    LIRPA_MODES,
    LIRPA_SHAPE,
    LIRPA_SIZE,
    METHODS,
    SHAPE,
    SIZES,
    TOL,
    bounded,
    certified,
    lirpa,
    opened,
)
from benchmarks.images import png
from benchmarks.record import Record, options
from benchmarks.watched import Watched
from certnas.nas.space import GENOTYPES
from certnas.runs import write_atomically

RADIUS = 10
"""Approximate number of bound evaluations for a radius, with the proof in double precision."""
FAR = 2
"""A prediction above this multiple of the limit is not run."""
OPENING = 1800.0
"""Seconds to build, warm and trace a network, on top of any limit."""


def spent(entry: dict[str, Any]) -> float:
    """Seconds of a bound without those in which other processes had the processor."""
    return float(min(entry["seconds"], entry["cpu_seconds"]))


@dataclass
class Run:
    """One run over genotypes, sizes and methods. A question refused under a lower time limit runs again."""

    record: Record
    watched: Watched
    device: str
    limit: float

    def once(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The entry with this key; a refused one stores the limit that refused it."""
        if self.record.entries.get(key, {}).get("limit", self.limit) < self.limit:
            del self.record.entries[key]

        def limited() -> dict[str, Any]:
            entry = work()
            return entry | {"limit": self.limit} if "refused" in entry else entry

        return self.record.once(key, limited)

    def bound(self, name: str, size: str, method: str) -> dict[str, Any]:
        """An entry of `bounded`, or the reason why there is none."""
        it = self.watched.ask(OPENING, opened, name, size, self.device)
        if "refused" in it:
            return {"refused": f"opening: {it['refused']}"}
        work = it["multiplications"][method]
        known = [
            spent(entry) / entry["multiplications"]
            for key, entry in self.record.entries.items()
            if key.endswith(f"| {method} | bound") and "refused" not in entry
        ]
        if known and median(known) * work > FAR * self.limit:
            return {"refused": f"not run: predicted {median(known) * work:.2g} s"}
        found = self.watched.ask(self.limit, bounded, name, size, self.device, method)
        return found | {"multiplications": work}

    def radius(self, name: str, size: str, method: str, bound: dict[str, Any]) -> dict[str, Any]:
        """An entry of `certified`, or the reason why there is none."""
        if "refused" in bound:
            return {"refused": bound["refused"]}
        predicted = RADIUS * IMAGES * spent(bound)
        if predicted > FAR * self.limit:
            return {"refused": f"not run: predicted {predicted:.2g} s"}
        it = self.watched.ask(OPENING, opened, name, size, self.device)
        if "refused" in it:
            return {"refused": f"opening: {it['refused']}"}
        return self.watched.ask(self.limit, certified, name, size, self.device, method)


def tables(record: Record, names: Sequence[str]) -> list[Table]:
    """For each size one line per genotype; then auto_LiRPA's refusals, without names and numbers, and their
    counts.
    """
    result = []
    for size in SIZES:
        own = [name for name in names if any(key.startswith(f"{name} | {size} |") for key in record.entries)]
        if not own:
            continue
        table = Table(title=f"C, L = {size}: seconds, GiB of a bound (width / linear width); mean l∞ radius")
        table.add_column("genotype")
        for method in METHODS:
            table.add_column(method, justify="right")
        for name in own:
            table.add_row(name, *(_cell(record, f"{name} | {size} | {method}") for method in METHODS))
        result.append(table)
    said = Table(title=f"auto_LiRPA's CROWN at C, L = {LIRPA_SIZE}, images {LIRPA_SHAPE}")
    said.add_column("mode")
    said.add_column("genotypes", justify="right")
    said.add_column("what it says")
    answers = [record.entries[key] for name in names if (key := f"{name} | auto_LiRPA") in record.entries]
    for mode in LIRPA_MODES:
        texts = [
            re.sub(r"/\S+|\d[\d.e-]*", "…", entry.get(mode, entry.get("refused", ""))) for entry in answers
        ]
        for text in dict.fromkeys(texts):
            said.add_row(mode, str(texts.count(text)), text)
    return [*result, said]


def _cell(record: Record, key: str) -> str:
    bound, radius = (record.entries.get(f"{key} | {what}") for what in ("bound", "radius"))
    if bound is None:
        return "-"
    if "refused" in bound:
        return str(bound["refused"])
    good = "" if bound["inside"] else "NOT SOUND "
    ratio = f"{bound['ratio']:.3g}" if bound["finite"] else "overflows"
    memory = "" if bound["gib"] is None else f", {bound['gib']:.2f} GiB"
    proved = (
        "-" if radius is None else radius["refused"] if "refused" in radius else f"{radius['radius']:.3g}"
    )
    return f"{good}{spent(bound):.2g} s{memory} ({ratio}); {proved}"


def picture(record: Record, names: Sequence[str]) -> bytes:
    """Seconds of a bound by each method over the genotypes, one panel per size; a cross at the limit is a
    refusal.
    """
    from matplotlib.figure import Figure

    sizes = [size for size in SIZES if any(f" | {size} | " in key for key in record.entries)]
    figure = Figure(figsize=(0.18 * len(names) * len(sizes) + 2, 4.5), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for panel, size in zip(panels, sizes, strict=True):
        for place, method in enumerate(METHODS):
            entries = [record.entries.get(f"{name} | {size} | {method} | bound", {}) for name in names]
            times = [spent(entry) if "seconds" in entry else math.nan for entry in entries]
            limits = [entry.get("limit", math.nan) for entry in entries]
            panel.semilogy(range(len(names)), times, "o", markersize=4, color=f"C{place}", label=method)
            panel.semilogy(range(len(names)), limits, "x", markersize=4, color=f"C{place}")
        panel.set_title(f"C, L = {size}")
        panel.set_xticks(range(len(names)), names, rotation=90, fontsize="xx-small")
    panels[0].set_ylabel("seconds of one bound")
    panels[0].legend(fontsize="x-small")
    return png(figure, dpi=100)


@click.command()
@options
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), default=list(SIZES))
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), default=list(METHODS))
@click.option(
    "--genotype", "names", multiple=True, type=click.Choice(list(GENOTYPES)), default=list(GENOTYPES)
)
@click.option("--limit", default=300.0, show_default=True, help="Seconds of one entry, at most.")
@click.option("--gib", default=8.0, show_default=True, help="Resident memory of one entry, at most.")
@click.option("--device", default="cpu", show_default=True)
def main(
    out: Path,
    quick: bool,
    threads: int,
    sizes: tuple[str, ...],
    methods: tuple[str, ...],
    names: tuple[str, ...],
    limit: float,
    gib: float,
    device: str,
) -> None:
    """Published genotypes × sizes × methods; each runs in a process that is stopped at the limits."""
    if quick:
        sizes, methods, names = sizes[:1], methods[:2], names[:1]
    settings = {
        "shape": SHAPE,
        "eps": EPS,
        "images": IMAGES,
        "tol": TOL,
        "threads": threads,
        "device": device,
    }
    record, console = Record.open(out, "darts_nets", settings), Console()
    watched = Watched(threads, gib)
    run = Run(record, watched, device, limit)
    try:
        for name in names:
            console.print(name, run.once(f"{name} | auto_LiRPA", partial(watched.ask, limit, lirpa, name)))
        for size in sizes:
            for name in names:
                for method in methods:
                    key = f"{name} | {size} | {method}"
                    bound = run.once(f"{key} | bound", partial(run.bound, name, size, method))
                    radius = run.once(f"{key} | radius", partial(run.radius, name, size, method, bound))
                    console.print(key, bound, radius, highlight=False)
    finally:
        watched.close()
    for table in tables(record, list(GENOTYPES)):
        console.print(table)
    write_atomically(out / "darts_nets.png", picture(record, list(GENOTYPES)))


if __name__ == "__main__":
    main()
