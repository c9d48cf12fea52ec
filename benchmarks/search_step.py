"""Time and peak memory of one full search step, w and α, with each metric, against plain first-order DARTS."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, measured, options, trim
from benchmarks.third_party import cifar10
from certnas.data import Dataset
from certnas.nas.metrics.evaluation import classifier
from certnas.nas.search import SearchConfig, effective
from certnas.nas.search.darts import first_order
from certnas.nas.search.stream import Batch, split
from certnas.nas.search.task import Task
from certnas.nas.search.trial import Trial
from certnas.parallel import ProcessGroup
from certnas.runs import from_table

SIZES, QUICK = {"channels": 16, "layers": 8}, {"channels": 2, "layers": 2, "nodes": 2}
METRICS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "cb": {"name": "cb"},
    "cb, half of the images": {"name": "cb"},
    "cb, batch statistics": {"name": "cb", "options": {"bn": "batch"}},
    "cb, margin at fixed eps": {"name": "cb", "options": {"reading": "margin"}},
    "cb, gain": {"name": "cb", "options": {"reading": "gain"}},
    "jacobian": {"name": "jacobian"},
    "jacobian, all rows": {"name": "jacobian", "options": {"projections": 0}},
    "curvature": {"name": "curvature"},
    "curvature, half of the images": {"name": "curvature"},
}


class Search:
    """A first-order DARTS search with one metric, on one training and one held-out batch.

    At each step, the held-out labels are the supernet's own predictions, so that every image has a radius
    to search. This resembles a late stage of a search, where most predictions are correct.
    """

    def __init__(self, name: str, data: Dataset, batch: int, sizes: dict[str, int]) -> None:
        metric = METRICS[name]
        if "half" in name:
            metric = {**metric, "options": {"images": max(batch // 2, 1)}}
        table = {"batch_size": batch, "metric": metric, "supernet": sizes, "data": {"name": data.name}}
        config, _, found = effective(from_table(SearchConfig, table), data)
        device, alone = torch.device("cpu"), ProcessGroup()
        train, held_out = split(config, data, device, alone)
        torch.manual_seed(0)
        task = Task(config, found, train, held_out, data.classes, device, alone)
        self.trial = Trial(task, task.supernet())
        self.train, self.held_out = train.batch(0), held_out.batch(0)

    def step(self) -> dict[str, Any]:
        """One step: its CPU and wall seconds, and its peak memory beyond the process's previous use."""
        supernet, x = self.trial.supernet, self.held_out.x
        with classifier(supernet, getattr(self.trial.task.metric, "bn", "batch")) as f, torch.no_grad():
            own = Batch(x, f(x).argmax(1))
        trim()
        with measured() as held:
            pass
        with measured() as cost:
            first_order(self.trial, self.train, own)
        figures = {
            k: v
            for k, v in self.trial.figures.items()
            if k in ("evaluations", "images", "log_radius", "gradient_metric")
        }
        times = {"cpu_seconds": cost.cpu_seconds, "seconds": cost.seconds}
        return {**times, "gib": cost.peak_gib - held.peak_gib, **figures}


def table(record: Record, names: list[str], rounds: int) -> Table:
    """Medians over the rounds; ratios are computed round by round."""
    result = Table(title="one search step, relative to none: median of ratios in each round")
    heads = ("metric", "CPU s", "CPU ratio", "wall ratio", "GiB", "GiB ratio", "first step, CPU s")
    for head in heads:
        result.add_column(head, justify="left" if head == "metric" else "right")
    plain = [record.entries[f"none | {place}"] for place in range(rounds)]
    for name in names:
        own = [record.entries[f"{name} | {place}"] for place in range(rounds)]

        def ratio(figure: str, own: list[dict[str, Any]] = own) -> str:
            return f"{median(a[figure] / b[figure] for a, b in zip(own, plain, strict=True)):.2f}"

        result.add_row(
            name,
            f"{median(entry['cpu_seconds'] for entry in own):.2f}",
            ratio("cpu_seconds"),
            ratio("seconds"),
            f"{median(entry['gib'] for entry in own):.2f}",
            ratio("gib"),
            f"{record.entries[f'{name} | first']['cpu_seconds']:.1f}",
        )
    return result


@click.command()
@options
@click.option(
    "--batch", default=16, show_default=True, type=click.IntRange(min=2), help="Images of each step."
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--metric",
    "chosen",
    multiple=True,
    type=click.Choice(list(METRICS)),
    help="Beside none; all unless given.  May come several times.",
)
def main(out: Path, quick: bool, threads: int, batch: int, rounds: int, chosen: tuple[str, ...]) -> None:
    """One search step with each metric in turn, round by round, on a supernet of C = 16, L = 8 at 32×32.

    The first step of each metric traces the network and is timed separately.
    """
    torch.set_num_threads(threads)
    sizes = QUICK if quick else SIZES
    record = Record.open(out, "search_step", {"batch": batch, "supernet": sizes, "side": 32})
    x, y = cifar10(2 * batch)
    data = Dataset("cifar10", x, y, torch.arange(len(y)), 10)
    names, console = [name for name in METRICS if name == "none" or not chosen or name in chosen], Console()
    searches: dict[str, Search] = {}

    def step(name: str) -> dict[str, Any]:
        return searches[name].step()

    for place in ("first", *range(rounds)):
        for name in names:
            key = f"{name} | {place}"
            if key not in record.entries and name not in searches:
                searches[name] = Search(name, data, batch, sizes)
                if place != "first":
                    searches[name].step()  # a resumed run reads the graph again
            work: Callable[[], dict[str, Any]] = partial(step, name)
            console.print(key, record.once(key, work), highlight=False)
    console.print(table(record, names, rounds))


if __name__ == "__main__":
    main()
