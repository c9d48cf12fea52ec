"""Detection of slower bounds: short jobs, relative to a plain computation next to them, against stored ratios."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bounds
from benchmarks.cells import warmed
from benchmarks.record import Record, machine, options
from benchmarks.scaling import Sizes, build
from certnas.nas.space import DiscreteNetwork, published_genotype

METHODS: dict[str, bounds.Method] = {
    "ibp": bounds.IBP(),
    "crown-ibp": bounds.CrownIBP(),
    "zonotope": bounds.Zonotope(),
    "crown": bounds.Crown(),
}
EPS, IMAGES, SEED = 0.01, 2, 0
TURNS, LEAST = 7, 0.03
"""Number of turns of each job, and the least CPU seconds of its repetitions in a turn."""
SLOWER = 1.3
"""The factor above which a job is reported."""

Job = Callable[[], object]


def convolutions() -> tuple[nn.Module, Tensor]:
    """Three convolutions of 8 channels on 12×12 images."""
    model, sizes = build(Sizes()), Sizes()
    return model, torch.rand(IMAGES, 1, sizes.side, sizes.side, generator=torch.Generator().manual_seed(SEED))


def cell() -> tuple[nn.Module, Tensor]:
    """One normal cell of DARTS_V2, 4 channels on 8×8 images."""
    torch.manual_seed(SEED)
    network = DiscreteNetwork(published_genotype("DARTS_V2"), 4, 1, 10, reductions=())
    return warmed(network, (3, 8, 8), batch=16), torch.rand(IMAGES, 3, 8, 8)


def bound(net: bounds.Network, x: Tensor, rows: Tensor, method: bounds.Method) -> Tensor:
    """One bound call without gradients."""
    with torch.no_grad():
        return bounds.lower_bounds(net, bounds.Linf(x, EPS, 0.0, 1.0), rows, method)


def jobs() -> dict[str, Job]:
    """Every method on both networks."""
    found: dict[str, Job] = {}
    for name, (model, x) in {"convolutions": convolutions(), "DARTS cell": cell()}.items():
        net, rows = bounds.trace(model, x[:1]).bind(), bounds.margins(torch.arange(len(x)), 10)
        found |= {f"{key}, {name}": partial(bound, net, x, rows, method) for key, method in METHODS.items()}
    return found


def plain() -> Job:
    """The plain computation: convolutions, matrix products, and many small operations."""
    generator = torch.Generator().manual_seed(SEED)
    x, kernel = torch.rand(32, 16, 16, 16, generator=generator), torch.rand(16, 16, 3, 3, generator=generator)
    matrix, small = torch.rand(256, 256, generator=generator), torch.rand(8, 8, generator=generator)

    def work() -> None:
        with torch.no_grad():
            for _ in range(4):
                torch.nn.functional.conv2d(x, kernel, padding=1).clamp_(min=0)
                matrix @ matrix
            for _ in range(200):
                small.clamp(min=0) + small

    return work


def timed(job: Job, least: float) -> float:
    """CPU seconds of one run, averaged over as many runs as take `least` seconds."""
    count, began = 0, process_time()
    while True:
        job()
        count, spent = count + 1, process_time() - began
        if spent >= least:
            return spent / count


def ratios(work: Mapping[str, Job], turns: int, least: float = LEAST) -> dict[str, float]:
    """Time of each job relative to the plain computation just before it; medians over the turns."""
    reference = plain()
    found: dict[str, list[float]] = {name: [] for name in work}
    for job in (reference, *work.values()):
        job()  # warms up
    for _ in range(turns):
        for name, job in work.items():
            unit = timed(reference, least)
            found[name].append(timed(job, least) / unit)
    return {name: median(values) for name, values in found.items()}


def machine_class() -> str:
    """The properties that make ratios comparable: processor, cores, and torch's version and threads."""
    here = machine()
    torch_version, threads = here["versions"]["torch"], here["torch_threads"]
    return f"{here['processor']} | {here['cores']} cores | torch {torch_version} | {threads} threads"


@dataclass(frozen=True)
class Verdict:
    """A job's ratio now and as stored (None: not stored), and whether it exceeds the factor."""

    job: str
    now: float
    stored: float | None
    slower: bool


def verdicts(now: Mapping[str, float], stored: Mapping[str, float], factor: float) -> list[Verdict]:
    """One verdict per job that ran."""
    return [
        Verdict(job, ratio, stored.get(job), job in stored and ratio > factor * stored[job])
        for job, ratio in now.items()
    ]


def table(found: list[Verdict]) -> Table:
    """Jobs with their ratios, now and stored."""
    result = Table(title="CPU time in units of the plain computation")
    for head in ("job", "now", "stored", "factor", ""):
        result.add_column(head, justify="left" if head == "job" else "right")
    for each in found:
        before = "-" if each.stored is None else f"{each.stored:.3f}"
        factor = "-" if each.stored is None else f"{each.now / each.stored:.2f}"
        result.add_row(each.job, f"{each.now:.3f}", before, factor, "slower" if each.slower else "")
    return result


@click.command()
@options
@click.option("--store", is_flag=True, help="Keep the ratios as those of this class of machine.")
@click.option(
    "--factor", default=SLOWER, show_default=True, type=click.FloatRange(min=1), help="What to report."
)
def main(out: Path, quick: bool, threads: int, store: bool, factor: float) -> None:
    """Report the jobs that became slower than stored for this class of machine; the exit code is always 0.

    A job that seems slower is measured again, and the smaller ratio counts.
    """
    torch.set_num_threads(threads)
    turns, console = 1 if quick else TURNS, Console()
    record = Record.open(out, "guard", {"turns": turns, "seconds": LEAST})
    own, work = machine_class(), jobs()
    now = ratios(work, turns)
    if store:
        record.entries.pop(own, None)
        record.once(own, lambda: {"ratios": now})
        console.print(table(verdicts(now, {}, factor)), f"stored for {own}", highlight=False)
        return
    stored: dict[str, Any] = record.entries.get(own, {}).get("ratios", {})
    again = [each.job for each in verdicts(now, stored, factor) if each.slower]
    for job, ratio in ratios({job: work[job] for job in again}, turns).items():
        now[job] = min(now[job], ratio)
    found = verdicts(now, stored, factor)
    console.print(table(found))
    slower = [each.job for each in found if each.slower]
    if not stored:
        console.print(f"nothing is stored for {own}: --store keeps these", highlight=False)
    elif slower:
        console.print(f"slower by more than {factor:g}: {'; '.join(slower)}", highlight=False)
    else:
        console.print(f"none is slower by more than {factor:g}", highlight=False)


if __name__ == "__main__":
    main()
