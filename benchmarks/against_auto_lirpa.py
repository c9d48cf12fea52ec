"""CROWN at a fixed ε against auto_LiRPA in the same process, turn by turn: the same bounds, in what time."""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bounds
from benchmarks.record import Record, options
from benchmarks.third_party import NETWORKS
from certnas.crosscheck import OracleUnusable, auto_lirpa_bounds
from certnas.crosscheck.auto_lirpa import ConvMode

EPS = {
    "mnist_fc_3layer": 0.02,
    "mnist_cnn_small": 0.1,
    "mnist_a_adv": 0.1,
    "kw_mnist": 0.1,
    "cifar_2c2f": 2 / 255,
    "resnet2b": 1 / 255,
}
RUNS = 5
MODES: dict[int, tuple[ConvMode, ...]] = {1: ("patches", "matrix"), 16: ("patches",)}
"""Batch -> auto_LiRPA's ways to bound convolutions; its dense one takes minutes for a batch of CIFAR-10."""
OURS = {"crown": bounds.Crown(), "crown, intersect=False": bounds.Crown(intersect=False)}

Timed = Callable[[], tuple[Tensor, float]]


def ours(
    method: bounds.Method, network: bounds.Network, x: Tensor, rows: Tensor, eps: float
) -> tuple[Tensor, float]:
    """Lower bounds of the rows and of their negations, [N, 2S], and the seconds they took."""
    began = perf_counter()
    with torch.no_grad():
        both = bounds.lower_bounds(network, bounds.Linf(x, eps), torch.cat([rows, -rows], 1), method)
    return both, perf_counter() - began


def theirs(mode: ConvMode, model: nn.Module, x: Tensor, rows: Tensor, eps: float) -> tuple[Tensor, float]:
    """The same of auto_LiRPA's CROWN; the seconds are those of its bounds, its conversion left out."""
    found = auto_lirpa_bounds(model, x, eps, "linf", method="CROWN", rows=rows, conv_mode=mode)
    return torch.cat([found.lower, -found.upper], 1), found.seconds


def compare(name: str, batch: int, runs: int) -> dict[str, Any]:
    """Medians of the times of all, which take turns, and how far apart their bounds are, float32.

    above, below: the greatest amounts by which one of our bounds of a row is above and below theirs, over
    1 + max |theirs|.  Ours is the better of CROWN's and interval arithmetic's, theirs is CROWN's.
    """
    trained = NETWORKS[name]
    model, (x, y) = trained.module(), trained.images(batch)
    network = bounds.trace(model, x[:1]).bind()
    rows, eps = bounds.margins(y, 10), EPS[name]
    contestants: dict[str, Timed] = {
        key: partial(ours, method, network, x, rows, eps) for key, method in OURS.items()
    }
    unusable: dict[str, str] = {}
    modes: list[ConvMode] = []
    for mode in MODES[batch]:
        work = partial(theirs, mode, model, x, rows, eps)
        try:
            work()
        except OracleUnusable as error:
            unusable[mode] = error.why
            continue
        modes.append(mode)
        contestants[f"auto_LiRPA {mode}"] = work
    times: dict[str, list[float]] = {key: [] for key in contestants}
    found: dict[str, Tensor] = {}
    for run in range(runs + 1):
        for key, contestant in contestants.items():
            found[key], seconds = contestant()
            if run:  # the first turn warms up
                times[key].append(seconds)
    medians = {key: median(values) for key, values in times.items()}
    entry: dict[str, Any] = {"eps": eps, "batch": batch, "runs": runs, "seconds": medians, "against": {}}
    entry["unusable"] = unusable
    for key, mode in product(OURS, modes):
        reference = found[f"auto_LiRPA {mode}"]
        gap = (found[key] - reference) / (1 + reference.abs().max())
        entry["against"][f"{key} / {mode}"] = {
            "time": medians[key] / medians[f"auto_LiRPA {mode}"],
            "above": max(0.0, float(gap.max())),
            "below": max(0.0, float(-gap.min())),
            "mean": float(gap.mean()),
        }
    return entry


def table(record: Record) -> Table:
    """One line for each network and batch."""
    result = Table(title="CROWN, l∞, float32: median seconds; bounds apart over 1 + max |bound|")
    for column in (
        "network", "eps", "batch", "ours", "theirs, in mode", "our s", "their s", "time ratio", "above", "below"
    ):  # fmt: skip
        result.add_column(column, justify="right")
    for key, entry in record.entries.items():
        for mode in entry.get("unusable", {}):
            mine = f"{entry['seconds']['crown']:.3f}"
            place = (key.split(" | ")[0], f"{entry['eps']:.4f}", str(entry["batch"]))
            result.add_row(*place, "crown", mode, mine, "fails", "-", "-", "-")
        for pair, against in entry["against"].items():
            own, mode = pair.split(" / ")
            times = (entry["seconds"][own], entry["seconds"][f"auto_LiRPA {mode}"], against["time"])
            result.add_row(
                key.split(" | ")[0],
                f"{entry['eps']:.4f}",
                str(entry["batch"]),
                own,
                mode,
                *(f"{value:.3f}" for value in times),
                *(f"{against[side]:.1e}" for side in ("above", "below")),
            )
    return result


@click.command()
@options
def main(out: Path, quick: bool, threads: int) -> None:
    """CROWN at a fixed ε against auto_LiRPA, in the same process."""
    torch.set_num_threads(threads)
    runs = 1 if quick else RUNS
    record = Record.open(out, "against_auto_lirpa", {"runs": runs, "threads": threads})
    console = Console()
    for batch in list(MODES)[: 1 if quick else None]:
        for name in list(EPS)[: 2 if quick else None]:
            key = f"{name} | batch {batch}"
            record.once(key, partial(compare, name, batch, runs))
            console.print("done:", key, highlight=False)
    console.print(table(record))


if __name__ == "__main__":
    main()
