"""One CROWN call at a fixed ε against auto_LiRPA, in turns in the same process: the same bounds, and their times.

A record is named after the version of auto_LiRPA that Python imports. A checkout at the start of PYTHONPATH
comes first.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bounds
from benchmarks.images import png
from benchmarks.record import Record, options
from benchmarks.seeded import SEEDED
from benchmarks.third_party import NETWORKS, cifar10
from certnas.crosscheck import Converted, OracleUnusable, lirpa_version
from certnas.crosscheck.auto_lirpa import ConvMode
from certnas.runs import write_atomically

EPS = {
    "mnist_fc_3layer": 0.02,
    "mnist_cnn_small": 0.1,
    "mnist_a_adv": 0.1,
    "kw_mnist": 0.1,
    "cifar_2c2f": 2 / 255,
    "resnet2b": 1 / 255,
    **dict.fromkeys(SEEDED, 1 / 255),
}
RUNS, SHORT = 5, 1.0
"""Number of turns of each, and seconds. Faster jobs have up to five times as many turns within these seconds."""
AIM = 1 / 3
THEIRS = "auto_LiRPA "
BATCHES = (1, 16)
LARGE = ("conv4, seeded", "conv6, seeded")
MODES: dict[str, tuple[ConvMode, bool]] = {
    "patches": ("patches", False),
    "matrix": ("matrix", False),
    "patches one by one": ("patches", True),
}
"""auto_LiRPA's mode of convolutions, and whether it gets one image at a time."""
OURS: dict[int, dict[str, bounds.Method]] = {
    1: {"crown": bounds.Crown(), "crown, intersect=False": bounds.Crown(intersect=False)},
    16: {"crown": bounds.Crown()},
}

Timed = Callable[[], tuple[Tensor, float, float]]
"""A call -> lower bounds of the rows and of their negations [N, 2S], wall and CPU seconds."""


def network(name: str, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and its first test images with labels."""
    if name in SEEDED:
        return SEEDED[name](), *cifar10(batch)
    return NETWORKS[name].module(), *NETWORKS[name].images(batch)


def ours(
    method: bounds.Method, net: bounds.Network, x: Tensor, rows: Tensor, eps: float
) -> tuple[Tensor, float, float]:
    """The bounds by certnas's method."""
    began, cpu = perf_counter(), process_time()
    with torch.no_grad():
        both = bounds.lower_bounds(net, bounds.Linf(x, eps), torch.cat([rows, -rows], 1), method)
    return both, perf_counter() - began, process_time() - cpu


def modes(name: str, batch: int) -> tuple[str, ...]:
    """The modes of auto_LiRPA to measure; those that need many gigabytes or minutes are left out."""
    if batch == 1:
        return ("patches",) if name in LARGE else ("patches", "matrix")
    return ("patches one by one",) if name in LARGE else ("patches", "patches one by one")


def theirs(
    converted: Converted, size: int, x: Tensor, rows: Tensor, eps: float
) -> tuple[Tensor, float, float]:
    """The bounds by auto_LiRPA's CROWN, `size` images at a time. The seconds exclude its conversion."""
    parts = zip(x.split(size), rows.split(size), strict=True)
    found = [converted.bounds(some, eps, method="CROWN", rows=own) for some, own in parts]
    both = torch.cat([torch.cat([part.lower, -part.upper], 1) for part in found])
    return both, sum(part.seconds for part in found), sum(part.cpu_seconds for part in found)


def compare(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, tried: tuple[str, ...], runs: int
) -> dict[str, Any]:
    """Median times of all contestants, which take turns, and the differences between their bounds, in float32.

    against is the median over the turns of (certnas's time / auto_LiRPA's time), wall and CPU. above and
    below are the largest amounts by which a bound of certnas exceeds or falls short of auto_LiRPA's,
    relative to 1 + max |auto_LiRPA's bound|. certnas's bound is the better of CROWN and interval
    arithmetic, auto_LiRPA's is CROWN.
    """
    net, rows = bounds.trace(model, x[:1]).bind(), bounds.margins(y, 10)
    mine = OURS[len(x)]
    contestants: dict[str, Timed] = {
        key: partial(ours, method, net, x, rows, eps) for key, method in mine.items()
    }
    unusable: dict[str, str] = {}
    for mode in tried:
        conv_mode, single = MODES[mode]
        size = 1 if single else len(x)
        try:
            work = partial(
                theirs, Converted(model, x[:size], "linf", conv_mode=conv_mode), size, x, rows, eps
            )
            work()
        except OracleUnusable as error:
            unusable[mode] = error.why
        else:
            contestants[THEIRS + mode] = work
    turns: list[dict[str, list[float]]] = []  # wall and CPU seconds of each
    found: dict[str, Tensor] = {}
    spent = 0.0
    while len(turns) <= runs or (spent < SHORT and len(turns) <= 5 * runs):
        turns.append({})
        for key, contestant in contestants.items():
            found[key], *turns[-1][key] = contestant()
        spent += sum(cpu for _, cpu in turns[-1].values())
    turns = turns[1:]  # the first one warms up
    entry: dict[str, Any] = {
        "eps": eps,
        "batch": len(x),
        "runs": len(turns),
        "unusable": unusable,
        "against": {},
    }
    for place, clock in enumerate(("seconds", "cpu_seconds")):
        entry[clock] = {key: median(turn[key][place] for turn in turns) for key in contestants}
    for key, their in product(mine, [key for key in contestants if key not in mine]):
        gap = (found[key] - found[their]) / (1 + found[their].abs().max())
        entry["against"][f"{key} / {their.removeprefix(THEIRS)}"] = {
            "wall": median(turn[key][0] / turn[their][0] for turn in turns),
            "cpu": median(turn[key][1] / turn[their][1] for turn in turns),
            "above": max(0.0, float(gap.max())),
            "below": max(0.0, float(-gap.min())),
            "mean": float(gap.mean()),
        }
    return entry


def measure(name: str, batch: int, runs: int) -> dict[str, Any]:
    """`compare` for one of the networks."""
    return compare(*network(name, batch), EPS[name], modes(name, batch), runs)


def best(entry: dict[str, Any]) -> tuple[str, dict[str, float]] | None:
    """auto_LiRPA's faster mode and certnas's `crown` against it; None if auto_LiRPA has no bounds."""
    cpu = {key.removeprefix(THEIRS): s for key, s in entry["cpu_seconds"].items() if key.startswith(THEIRS)}
    if not cpu:
        return None
    mode = min(cpu, key=lambda key: cpu[key])
    return mode, entry["against"][f"crown / {mode}"]


def lines(key: str, entry: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table's rows for one network and batch."""
    place = (key.split(" | ")[0], str(entry["batch"]))
    fastest = best(entry)
    for mode, why in entry["unusable"].items():
        yield (*place, "crown", mode, f"{entry['cpu_seconds']['crown']:.3f}", f"fails: {why}", *4 * ("-",))
    for pair, against in entry["against"].items():
        own, mode = pair.split(" / ")
        star = " *" if fastest and (own, mode) == ("crown", fastest[0]) else ""
        times = (entry["cpu_seconds"][own], entry["cpu_seconds"][THEIRS + mode])
        yield (
            *place,
            own,
            mode,
            *(f"{value:.3f}" for value in times),
            f"{against['cpu']:.3f}{star}",
            f"{against['wall']:.3f}",
            *(f"{against[side]:.1e}" for side in ("above", "below")),
        )


def table(record: Record) -> Table:
    """Each method of certnas against each mode of auto_LiRPA, for each network and batch."""
    result = Table(
        title=f"CROWN, l∞, float32, against auto_LiRPA {record.settings['auto_LiRPA']}: medians (* against its "
        "faster mode); bounds apart over 1 + max |bound|"
    )
    for column in (
        "network", "batch", "ours", "theirs", "our CPU s", "their CPU s", "CPU ratio", "wall ratio", "above",
        "below",
    ):  # fmt: skip
        result.add_column(column, justify="right")
    for key, entry in record.entries.items():
        for line in lines(key, entry):
            result.add_row(*line)
    return result


def picture(record: Record) -> bytes:
    """certnas's CPU time relative to auto_LiRPA's faster mode; a cross if auto_LiRPA has no bounds."""
    from matplotlib.figure import Figure

    names = [name for name in EPS if any(key.startswith(f"{name} | ") for key in record.entries)]
    figure = Figure(figsize=(1.1 * len(names) + 2, 4), layout="constrained")
    plot = figure.add_subplot()
    for place, batch in enumerate(BATCHES):
        entries = {n: record.entries.get(f"{name} | batch {batch}") for n, name in enumerate(names)}
        found = {n: best(entry) for n, entry in entries.items() if entry is not None}
        shown = {n + 0.4 * place - 0.2: pair[1]["cpu"] for n, pair in found.items() if pair is not None}
        plot.bar(
            list(shown), list(shown.values()), 0.36, label="one image" if batch == 1 else f"{batch} images"
        )
        without = [n + 0.4 * place - 0.2 for n, pair in found.items() if pair is None]
        plot.plot(without, [AIM] * len(without), "kx")
    plot.axhline(1, color="black", linewidth=1)
    plot.axhline(AIM, color="black", linewidth=1, linestyle="--", label="the aim")
    plot.set_yscale("log")
    plot.set_yticks([0.1, 0.2, AIM, 0.5, 1, 2], ["0.1", "0.2", "1/3", "0.5", "1", "2"])
    plot.minorticks_off()
    plot.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names], fontsize="x-small")
    plot.set_ylabel(f"CPU time over that of auto_LiRPA\n{record.settings['auto_LiRPA']}'s faster mode")
    plot.legend(fontsize="x-small")
    return png(figure)


@click.command()
@options
@click.option("--network", "chosen", multiple=True, type=click.Choice(list(EPS)), help="All unless given.")
@click.option("--batch", "batches", multiple=True, type=click.Choice([str(batch) for batch in BATCHES]))
def main(out: Path, quick: bool, threads: int, chosen: tuple[str, ...], batches: tuple[str, ...]) -> None:
    """CROWN at a fixed ε against auto_LiRPA, in the same process."""
    torch.set_num_threads(threads)
    runs, version, console = 1 if quick else RUNS, lirpa_version(), Console()
    settings = {"runs": runs, "threads": threads, "auto_LiRPA": version}
    record = Record.open(out, f"bound_call_{version}", settings)
    for batch in (int(batch) for batch in batches or BATCHES[: 1 if quick else None]):
        for name in chosen or list(EPS)[: 2 if quick else None]:
            key = f"{name} | batch {batch}"
            found = best(record.once(key, partial(measure, name, int(batch), runs)))
            ratio = (
                "auto_LiRPA fails" if found is None else f"{found[1]['cpu']:.2f} of auto_LiRPA's {found[0]}"
            )
            console.print(f"{key}: {ratio}", highlight=False)
    console.print(table(record))
    write_atomically(out / f"bound_call_{version}.png", picture(record))


if __name__ == "__main__":
    main()
