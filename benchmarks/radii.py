"""Certified and attacked radii of trained MNIST and CIFAR-10 networks on their first test images."""

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bounds
from benchmarks.certified import Batch, Question, batches, certify_batch, classified, collect
from benchmarks.record import Record, measured, options
from benchmarks.third_party import NETWORKS
from certnas.attacks import BUDGETS, smallest_adversarial

NAMES = tuple(name for name in NETWORKS if "5layer" not in name)
NORMS = ("linf", "l2")
ITERATIONS, BATCH, ATTACK, TOL = 5, 16, "quick", 1e-3
METHODS: dict[str, bounds.Method] = {
    "crown": bounds.Crown(),
    f"alpha-crown({ITERATIONS})": bounds.AlphaCrown(iterations=ITERATIONS),
    "zonotope, 16 kept": bounds.Zonotope(errors=16),
}


def attack(record: Record, name: str, norm: str, model: nn.Module, x: Tensor, y: Tensor, rows: Batch) -> None:
    """Attack images rows[0] … rows[1] − 1 of x [N, *shape], y [N], unless the record has them.

    The record stores the distance of each image's nearest adversarial example: 0 if misclassified, null if
    none was found.
    """

    def work() -> dict[str, Any]:
        part, labels = x[slice(*rows)], y[slice(*rows)]
        right = classified(model, part, labels)
        distance = torch.zeros(len(part), dtype=torch.float64)
        with measured() as cost:
            found = smallest_adversarial(model, part[right], labels[right], norm, budget=BUDGETS[ATTACK])
        distance[right] = found.distance
        times = {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds}
        return {"distance": distance.tolist(), "failed": list(found.failed), **times}

    record.once(f"{name} | {norm} | attack | {rows[0]}", work)


def attacked(record: Record, name: str, norm: str, count: int) -> np.ndarray | None:
    """The distances [count] of the first images; None if some of them were not attacked."""
    found: list[float | None] = []
    while (entry := record.entries.get(f"{name} | {norm} | attack | {len(found)}")) is not None:
        found += entry["distance"]
    if len(found) < count:
        return None
    return np.array([np.inf if d is None else d for d in found[:count]])


def table(record: Record) -> Table:
    """One line per network, norm and method with results."""
    result = Table(title="certified radii in [0, 1] pixel units; certified > attacked must be 0")
    for column in (
        "network", "norm", "method", "images", "correct", "mean (correct)", "mean (all)", "median (correct)",
        "attacked mean", "certified / attacked", "CPU s / image", "certified > attacked",
    ):  # fmt: skip
        result.add_column(column, justify="right")
    for norm in NORMS:
        for name in NAMES:
            for label, method in METHODS.items():
                found = collect(record, Question(name, norm, label, method))
                if found is None:
                    continue
                right = found.correct
                row = [name, norm, label, str(len(right)), str(int(right.sum()))]
                row += [f"{found.mean():.5f}", f"{found.mean(over_all=True):.5f}"]
                row.append(f"{np.median(found.radius[right]):.5f}" if right.any() else "-")
                distance = attacked(record, name, norm, len(right))
                if distance is None:
                    row += ["-", "-"]
                else:
                    row.append(f"{distance[right].mean():.5f}")
                    row.append(f"{(found.radius[right] / distance[right]).mean():.3f}")
                row.append(f"{found.cpu_seconds / len(right):.2f}")
                row.append("-" if distance is None else str(int((found.radius > distance).sum())))
                result.add_row(*row)
    return result


@click.command()
@options
@click.option("--network", "names", multiple=True, type=click.Choice(NAMES), help="Default: every one.")
@click.option("--norm", "norms", multiple=True, type=click.Choice(NORMS), help="Default: both.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), default=["crown"])
@click.option("--images", default=100, show_default=True, type=click.IntRange(1, 100))
@click.option("--batch", default=BATCH, show_default=True, type=click.IntRange(min=1))
def main(
    out: Path,
    quick: bool,
    threads: int,
    names: tuple[str, ...],
    norms: tuple[str, ...],
    methods: tuple[str, ...],
    images: int,
    batch: int,
) -> None:
    """Certified and attacked radii of the first test images.

    Each batch covers the images of every network before the next batch starts, so that an interrupted run
    has results for all.
    """
    torch.set_num_threads(threads)
    record = Record.open(out, "radii", {"attack": ATTACK, "tol": TOL})
    console = Console()
    names = names or NAMES[: 1 if quick else None]
    loaded = {name: (NETWORKS[name].module(), *NETWORKS[name].images(100)) for name in names}
    for norm in norms or NORMS:
        for rows in batches(batch, 4 if quick else images):
            for name, (model, x, y) in loaded.items():
                for method in methods:
                    question = Question(name, norm, method, METHODS[method])
                    certify_batch(record, question, model, x, y, rows)
                    console.print(f"{question.key} | {rows[0]}", highlight=False)
                attack(record, name, norm, model, x, y, rows)
    console.print(table(record))


if __name__ == "__main__":
    main()
