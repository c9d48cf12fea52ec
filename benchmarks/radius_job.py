"""Certified radii of many images: ours against auto_LiRPA's CROWN and bisection, an image or a batch at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bounds
import certnas
from benchmarks.certified import batches, classified
from benchmarks.images import png
from benchmarks.record import Record, measured, options
from benchmarks.third_party import NETWORKS
from certnas.crosscheck import Converted, OracleUnusable, auto_lirpa
from certnas.runs import write_atomically

IMAGES = {
    "mnist_fc_3layer": 100,
    "mnist_cnn_small": 100,
    "mnist_a_adv": 100,
    "kw_mnist": 100,
    "cifar_2c2f": 100,
    "resnet2b": 8,
}
NORMS: tuple[str, ...] = ("linf", "l2")
START = {"linf": 0.01, "l2": 0.1}
"""Where every bisection begins to look for its bracket, by doubling or halving."""
MODES: tuple[auto_lirpa.ConvMode, ...] = ("patches", "matrix")
SLOWER = 1.4
BATCH, ALONE, TOL = 16, 10, 1e-3
CONTESTANTS = ("ours", "batched", "one by one")


def bisect(lower_margin: Callable[[Tensor, Tensor], Tensor], count: int, start: float) -> Tensor:
    """The largest ε [count] found with `lower_margin(ε [M], image [M]) [M]` > 0, to the relative tolerance TOL.

    Doubled or halved from `start` to a bracket, then cut in the middle; images whose bracket is narrow drop out.
    """
    low, high = torch.zeros(count, dtype=torch.float64), torch.full((count,), torch.inf, dtype=torch.float64)
    eps = torch.full_like(low, start)
    while len(image := (high > low * (1 + TOL)).nonzero().flatten()):
        proved = lower_margin(eps[image], image).double() > 0
        low[image[proved]], high[image[~proved]] = eps[image[proved]], eps[image[~proved]]
        eps = torch.where(torch.isinf(high), 2 * low, (low + high) / 2)
    return low


@dataclass
class Peer:
    """auto_LiRPA's CROWN of one network in a norm, converted once; what its bounds have cost so far."""

    converted: Converted
    mode: auto_lirpa.ConvMode
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: int = 0

    def lower_margin(self, x: Tensor, rows: Tensor, eps: Tensor, image: Tensor) -> Tensor:
        """The least lower bound [M] of the rows over balls of radius eps [M] round x[image], by one call."""
        found = self.converted.bounds(x[image], eps, method="CROWN", rows=rows[image])
        self.seconds += found.seconds
        self.cpu_seconds += found.cpu_seconds
        self.calls += 1
        return found.lower.amin(1)

    def afresh(self) -> "Peer":
        return Peer(self.converted, self.mode)

    def timed(self, x: Tensor, rows: Tensor, norm: str) -> "Peer":
        """The same, having bounded every image at START once; a first call, not counted, warms up."""
        eps, every = torch.full((len(x),), START[norm]), torch.arange(len(x))
        self.lower_margin(x, rows, eps, every)
        again = self.afresh()
        again.lower_margin(x, rows, eps, every)
        return again


def peer(model: nn.Module, x: Tensor, rows: Tensor, norm: str) -> Peer:
    """auto_LiRPA for batches like x [N, *shape] in its faster mode, warmed up.  Raises OracleUnusable.

    A mode that takes more than SLOWER times the other's time for a single image is not tried on the batch.
    """
    usable, why = list[Peer](), list[OracleUnusable]()
    for mode in MODES:
        try:
            usable.append(Peer(Converted(model, x, norm, conv_mode=mode), mode).timed(x[:1], rows[:1], norm))
        except OracleUnusable as error:
            why.append(error)
    if not usable:
        raise why[0]
    least = min(one.cpu_seconds for one in usable)
    tried = [one.timed(x, rows, norm) for one in usable if one.cpu_seconds <= SLOWER * least]
    return min(tried, key=lambda one: one.cpu_seconds).afresh()


@dataclass
class Job:
    """One network's images that it classifies right, in a norm, and the peers for batches of each size, once needed."""

    name: str
    norm: str
    model: nn.Module
    x: Tensor
    y: Tensor
    peers: dict[int, Peer] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, norm: str, count: int) -> "Job":
        model, (x, y) = NETWORKS[name].module(), NETWORKS[name].images(count)
        right = classified(model, x, y)
        return cls(name, norm, model, x[right], y[right])

    def ours(self, count: int | None = None) -> dict[str, Any]:
        """Everything is paid for: reading the network, the search, the proof of every radius in float64."""
        with measured() as cost:
            found = certnas.certify(
                self.model, self.x[:count], self.y[:count], self.norm,
                method="crown", attack=False, clip=None, tol=TOL, batch_size=BATCH,
            )  # fmt: skip
        return {
            "radius": found.radius_lower.tolist(),
            "calls": int(found.evaluations.max()),
            "evaluations": float(found.evaluations.mean()),
            "seconds": cost.seconds,
            "cpu_seconds": cost.cpu_seconds,
        }

    def theirs(self, size: int, count: int | None = None) -> dict[str, Any]:
        """Its bounds alone are paid for, in float32, not its conversion; `size` images at a time."""
        x, y = self.x[:count], self.y[:count]
        rows = bounds.margins(y, 10)
        try:
            if size not in self.peers:
                self.peers[size] = peer(self.model, x[:size], rows[:size], self.norm)
            one = self.peers[size].afresh()
            radii = []
            for first, last in batches(size, len(x)):
                chosen = slice(first, last)
                work = partial(one.lower_margin, x[chosen], rows[chosen])
                radii.append(bisect(work, last - first, START[self.norm]))
        except OracleUnusable as error:
            return {"unusable": error.why}
        return {
            "radius": torch.cat(radii).tolist(),
            "mode": one.mode,
            "calls": one.calls,
            "seconds": one.seconds,
            "cpu_seconds": one.cpu_seconds,
        }

    def run(self, record: Record, place: int) -> None:
        """Round `place` of all contestants in turn; one by one only the first ALONE images."""
        key = f"{self.name} | {self.norm}"
        if f"{key} | ours | {place}" not in record.entries:
            self.ours(1)  # warms up what a process does once, such as the imports of a first trace
        record.once(f"{key} | ours | {place}", self.ours)
        record.once(f"{key} | batched | {place}", partial(self.theirs, BATCH))
        record.once(f"{key} | one by one | {place}", partial(self.theirs, 1, ALONE))


def rounds(record: Record, name: str, norm: str, contestant: str) -> list[dict[str, Any]]:
    """The finished rounds of a contestant."""
    start = f"{name} | {norm} | {contestant} | "
    return [entry for key, entry in record.entries.items() if key.startswith(start)]


def for_an_image(entry: dict[str, Any], figure: str = "cpu_seconds") -> float:
    """Seconds of a round, shared by its images."""
    return float(entry[figure] / len(entry["radius"]))


def compared(record: Record, name: str, norm: str, contestant: str) -> dict[str, float] | None:
    """Their cost for an image over ours, medians over rounds, and our radii over theirs; None where they gave none.

    One by one, few images are measured, and their cost for an image is set against ours for an image of all.
    """
    mine, other = (rounds(record, name, norm, who) for who in ("ours", contestant))
    if not mine or not other or any("unusable" in entry for entry in other):
        return None
    theirs = np.array(other[0]["radius"])
    ratio = np.array(mine[0]["radius"])[: len(theirs)] / theirs
    pairs = list(zip(mine, other, strict=False))
    cpu, wall = (
        [for_an_image(b, figure) / for_an_image(a, figure) for a, b in pairs]
        for figure in ("cpu_seconds", "seconds")
    )
    return {
        "images": len(theirs),
        "cpu": median(cpu),
        "least": min(cpu),
        "most": max(cpu),
        "wall": median(wall),
        "radius_min": float(ratio.min()),
        "radius_median": float(np.median(ratio)),
    }


def table(record: Record) -> Table:
    """One line for each network, norm and way to bisect."""
    result = Table(
        title=f"certified radii to {TOL}, float32 and ours proved in float64; CPU time, theirs over ours"
    )
    for column in (
        "network", "norm", "images", "our s/image", "our evaluations", "against", "of images", "mode",
        "CPU", "least", "most", "wall", "radius min", "radius median",
    ):  # fmt: skip
        result.add_column(column, justify="right")
    for name in IMAGES:
        for norm in NORMS:
            mine = rounds(record, name, norm, "ours")
            if not mine:
                continue
            spent = median(for_an_image(entry) for entry in mine)
            count, used = len(mine[0]["radius"]), mine[0]["evaluations"]
            place = (name, norm, str(count), f"{spent:.4f}", f"{used:.1f}")
            for contestant in CONTESTANTS[1:]:
                found, other = (
                    compared(record, name, norm, contestant),
                    rounds(record, name, norm, contestant),
                )
                if found is None:
                    result.add_row(*place, contestant, "-", "none" if other else "-")
                    continue
                figures = (f"{found[figure]:.1f}" for figure in ("cpu", "least", "most", "wall"))
                radii = (f"{found[figure]:.5f}" for figure in ("radius_min", "radius_median"))
                result.add_row(*place, contestant, str(found["images"]), other[0]["mode"], *figures, *radii)
    return result


def picture(record: Record) -> bytes:
    """Their CPU time over ours for each network and norm, both ways to bisect, beside what is aimed at."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    places = [(name, norm) for name in IMAGES for norm in NORMS]
    for shift, contestant in ((-0.2, "batched"), (0.2, "one by one")):
        found = [compared(record, *place, contestant) for place in places]
        bars = [0.0 if one is None else one["cpu"] for one in found]
        axes.bar([i + shift for i in range(len(places))], bars, 0.4, label=f"auto_LiRPA, {contestant}")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(places)), [f"{name}\n{norm}" for name, norm in places], rotation=60, fontsize=7)
    axes.set_ylabel("their CPU time / ours")
    axes.legend(frameon=False)
    return png(figure)


@click.command()
@options
@click.option(
    "--images", default=100, show_default=True, type=click.IntRange(1, 100), help="At most, of each network."
)
@click.option(
    "--network", "names", multiple=True, type=click.Choice(list(IMAGES)), help="Default: every one."
)
@click.option("--rounds", "count", default=3, show_default=True, type=click.IntRange(min=1))
def main(out: Path, quick: bool, threads: int, images: int, names: tuple[str, ...], count: int) -> None:
    """Certified radii by CROWN against auto_LiRPA's CROWN with bisection, in turns."""
    torch.set_num_threads(threads)
    record = Record.open(out, "radius_job", {"tol": TOL, "batch": BATCH, "start": START, "threads": threads})
    console = Console()
    names = names or tuple(IMAGES)[: 2 if quick else None]
    jobs = [Job.of(name, norm, min(4 if quick else images, IMAGES[name])) for name in names for norm in NORMS]
    for place in range(1 if quick else count):
        for job in jobs:
            job.run(record, place)
            console.print(f"{job.name} | {job.norm} | {place}", highlight=False)
    console.print(table(record))
    write_atomically(out / "radius_job.png", picture(record))


if __name__ == "__main__":
    main()
