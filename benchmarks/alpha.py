"""α-CROWN's bounds over time: certnas and auto_LiRPA in the same process, with the whole curve of each."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from math import nan
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import bounds
from benchmarks.images import png
from benchmarks.record import Record, options
from benchmarks.third_party import NETWORKS
from certnas.crosscheck import Ascent, Converted, lirpa_version
from certnas.runs import write_atomically

EPS = {"mnist_cnn_small": 0.1, "mnist_a_adv": 0.1, "cifar_2c2f": 2 / 255, "resnet2b": 1 / 255}
IMAGES = {"mnist_cnn_small": 5, "mnist_a_adv": 5, "cifar_2c2f": 5, "resnet2b": 1}
BUDGETS = (0, 1, 2, 5, 10, 20, 50)
"""Iterations of each run; 0 is CROWN."""
STEPS = (0.1, 0.5)
"""Adam's initial steps on slopes in [0, 1]. The larger one is the default of `bounds.AlphaCrown` and of
auto_LiRPA.
"""
OURS, THEIRS = "certnas", "auto_LiRPA"
EQUAL = 1e-5
"""Largest difference between equal bounds, relative to 1 + |bound|."""

Run = Callable[[int, float], tuple[Tensor, float, float]]
"""(iterations, step) -> lower bounds of the specification [1, S], wall and CPU seconds."""
Curve = list[tuple[float, float]]
"""CPU seconds and bound of each budget."""


def ours(net: bounds.Network, x: Tensor, rows: Tensor, eps: float) -> Run:
    """certnas's α-CROWN; each budget is a run from the start."""

    def run(iterations: int, step: float) -> tuple[Tensor, float, float]:
        method = bounds.AlphaCrown(iterations=iterations, step=step) if iterations else bounds.Crown()
        began, cpu = perf_counter(), process_time()
        lower = bounds.lower_bounds(net, bounds.Linf(x, eps), rows, method).detach()
        return lower, perf_counter() - began, process_time() - cpu

    return run


def theirs(converted: Converted, x: Tensor, rows: Tensor, eps: float) -> Run:
    """auto_LiRPA's CROWN-Optimized, lower bounds only. The time excludes its conversion."""

    def run(iterations: int, step: float) -> tuple[Tensor, float, float]:
        bound = partial(converted.bounds, x, eps, rows=rows, upper=False)
        if iterations:
            found = bound(method="CROWN-Optimized", ascent=Ascent(iterations, step))
        else:
            found = bound(method="CROWN")
        return found.lower, found.seconds, found.cpu_seconds

    return run


def measure(name: str, place: int, budgets: Iterable[int]) -> dict[str, Any]:
    """The curves of both libraries for one test image. Budgets alternate, and within a budget the libraries.

    bound and worst are the mean and the smallest lower bound of the nine margins, in logits.
    """
    trained = NETWORKS[name]
    model, (x, y) = trained.module().requires_grad_(False), trained.images(place + 1)
    x, rows = x[place:], bounds.margins(y[place:], 10)
    net = bounds.trace(model, x).bind()
    sides = {
        OURS: ours(net, x, rows, EPS[name]),
        THEIRS: theirs(Converted(model, x, "linf", conv_mode="patches"), x, rows, EPS[name]),
    }
    for side in sides.values():  # warms up
        side(2, STEPS[0])
    points: dict[str, dict[str, dict[str, float]]] = {
        f"{side}, step {step}": {} for side, step in product(sides, STEPS)
    }
    for budget, step, (side, run) in product(budgets, STEPS, sides.items()):
        lower, seconds, cpu = run(budget, step)
        points[f"{side}, step {step}"][str(budget)] = {
            "bound": float(lower.mean()),
            "worst": float(lower.min()),
            "cpu_seconds": cpu,
            "seconds": seconds,
        }
    return {"eps": EPS[name], "points": points}


def curves(record: Record, name: str) -> dict[str, Curve]:
    """The curve of each library: means over the measured images."""
    found = [entry["points"] for key, entry in record.entries.items() if key.startswith(f"{name} | ")]
    result: dict[str, Curve] = {}
    for contestant in found[0] if found else ():
        for budget in found[0][contestant]:
            own = [points[contestant][budget] for points in found]
            means = (sum(point[figure] for point in own) / len(own) for figure in ("cpu_seconds", "bound"))
            result.setdefault(contestant, []).append(tuple(means))
    return result


def at_their_times(found: Mapping[str, Curve]) -> list[tuple[str, float, float, float]]:
    """For each point of auto_LiRPA: its step, time and bound, and certnas's best bound up to that time, −∞
    if there is none.

    The best bound is over all of certnas's steps, which favours a user who knows the better step.
    """
    mine = [point for contestant, curve in found.items() if contestant.startswith(OURS) for point in curve]
    return [
        (contestant, time, bound, max((b for t, b in mine if t <= time), default=-torch.inf))
        for contestant, curve in found.items()
        if contestant.startswith(THEIRS)
        for time, bound in curve
    ]


def behind(bound: float, own: float) -> bool:
    """True if certnas's bound is looser by more than rounding."""
    return own < bound - EQUAL * (1 + abs(bound))


def tables(record: Record, names: Iterable[str]) -> list[Table]:
    """All points of all curves; then auto_LiRPA's points against certnas's bounds at that time."""
    shown = Table(title="mean lower bound of the margins (CPU seconds an image) by iterations")
    budgets = [str(budget) for budget in record.settings["budgets"]]
    for head in ("network", "by", *budgets):
        shown.add_column(head, justify="right")
    compared = Table(
        title="at each time of theirs: our bound, in shares of the most that either gained on CROWN"
    )
    for head in ("network", "their points", "ahead or equal", "behind", "none yet", "least", "greatest"):
        compared.add_column(head, justify="right")
    for name in names:
        found = curves(record, name)
        for contestant, curve in found.items():
            shown.add_row(name, contestant, *(f"{bound:.4f} ({time:.3f})" for time, bound in curve))
        points = at_their_times(found)
        every = [bound for curve in found.values() for _, bound in curve]
        gained = max(every) - min(every)
        there = [(bound, own) for _, _, bound, own in points if own > -torch.inf]
        shares = [(own - bound) / gained for bound, own in there]
        lost = sum(behind(bound, own) for bound, own in there)
        counts = (len(points), len(there) - lost, lost, len(points) - len(there))
        compared.add_row(
            name,
            *map(str, counts),
            *(f"{share:+.3f}" for share in (min(shares, default=nan), max(shares, default=nan))),
        )
    return [shown, compared]


def picture(record: Record, names: list[str]) -> bytes:
    """Bounds over CPU seconds, one panel per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    for place, name in enumerate(names):
        plot = figure.add_subplot(1, len(names), place + 1)
        for contestant, curve in curves(record, name).items():
            own, small = contestant.startswith(OURS), contestant.endswith(str(STEPS[0]))
            style = {"color": "C0" if own else "C1", "linestyle": "--" if small else "-", "marker": "."}
            plot.plot(*zip(*curve, strict=True), label=contestant, **style)
        plot.set_xscale("log")
        plot.set_title(f"{name}, ε {EPS[name]:.3g}", fontsize="small")
        plot.set_xlabel("CPU seconds an image")
    figure.axes[0].set_ylabel("mean lower bound of the margins")
    figure.axes[0].legend(fontsize="x-small")
    return png(figure)


@click.command()
@options
@click.option("--network", "chosen", multiple=True, type=click.Choice(list(EPS)), help="All unless given.")
def main(out: Path, quick: bool, threads: int, chosen: tuple[str, ...]) -> None:
    """α-CROWN's bounds over time, certnas and auto_LiRPA, one image at a time."""
    torch.set_num_threads(threads)
    budgets = BUDGETS[:4] if quick else BUDGETS
    settings = {"threads": threads, "budgets": budgets, "steps": STEPS, "auto_LiRPA": lirpa_version()}
    record = Record.open(out, "alpha", settings)
    names, console = list(chosen or list(EPS)[: 1 if quick else None]), Console()
    for name in names:
        for place in range(1 if quick else IMAGES[name]):
            record.once(f"{name} | image {place}", partial(measure, name, place, budgets))
            console.print("done:", name, place, highlight=False)
    for table in tables(record, names):
        console.print(table)
    write_atomically(out / "alpha.png", picture(record, names))


if __name__ == "__main__":
    main()
