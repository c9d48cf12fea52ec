"""A projection, not a measurement: the cost of certifying CIFAR-10's test set for the published cells at paper size."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

import bounds
from benchmarks.record import Record, options
from certnas.nas.space import GENOTYPES, DiscreteNetwork

SHAPE, CHANNELS, LAYERS, CLASSES = (3, 32, 32), 36, 20, 10
NAMES = tuple(name for name in GENOTYPES if ":" not in name)
"""The 14 cells of the literature, without one paper's searches on restricted spaces."""
METHODS = ("crown-ibp", "crown", "alpha-crown")
GPUS = (1, 8, 64)
BATCH = {"crown-ibp": 16, "crown": 1, "alpha-crown": 1}
"""Images of a shard. Smaller shards shorten the wait for the last one."""


@dataclass(frozen=True)
class Assumed:
    """The assumptions of the projection; replace them by measurements on the machine in question."""

    single: float = 10e12
    """Floating-point operations per second that one GPU sustains on bounds in float32 (an H100's peak is
    67·10¹²).
    """
    double: float = 5e12
    """The same in float64 (an H100's peak is 34·10¹²)."""
    unstable: float = 1.0
    """Share of units that cheaper bounds leave unstable; only these need specification rows of their own."""
    evaluations: float = 5.0
    """Bounds in float32 for a radius to 10⁻³: the median of `results/radii.json`."""
    proofs: float = 1.0
    """Bounds in float64 for a radius."""
    passes: float = 1637 + 2 * 852
    """Network evaluations in an image's attacks; a derivative counts as two (1,637 and 852 counted, l∞)."""
    start: float = 30.0
    """Seconds until a worker has loaded, opened and traced the network."""
    write: float = 0.15
    """Seconds to write 10,000 results once; a run writes all its results after each shard."""
    images: int = 10_000
    """Number of images."""


@dataclass(frozen=True)
class Projection:
    """The wall clock in hours, and its largest part."""

    hours: float
    limit: str


def needed(counts: dict[str, Any], method: str, assumed: Assumed) -> float:
    """Multiplications of one bound of one image."""
    settled = (1 - assumed.unstable) * counts[method]["per_unstable"]
    return float(counts[method]["multiplications"] - settled)


def projected(counts: dict[str, Any], method: str, gpus: int, assumed: Assumed) -> Projection:
    """The projection for one network's images; `counts` come from `counted`.

    image = 2·(bound·(evaluations/single + proofs/double) + passes·network/single) seconds. The wall clock
    is start + ⌈shards/GPUs⌉·(images of a shard)·image, or start plus the time to write all shards if that
    is longer.
    """
    shards = ceil(assumed.images / BATCH[method])
    each = 2 * ceil(shards / gpus) * BATCH[method]
    parts = {
        "bounds": each
        * needed(counts, method, assumed)
        * (assumed.evaluations / assumed.single + assumed.proofs / assumed.double),
        "attacks": each * assumed.passes * counts["network"] / assumed.single,
    }
    work, writing = sum(parts.values()), shards * assumed.write / 2
    parts |= {"loading": assumed.start, "writing": writing if writing > work else 0.0}
    seconds = assumed.start + max(work, writing)
    return Projection(seconds / 3600, max(parts, key=lambda part: parts[part]))


def counted(name: str) -> dict[str, Any]:
    """Multiplications of one bound by each method, and of one evaluation ("network"), from the sizes:
    `bounds.estimates`.
    """
    network = DiscreteNetwork(GENOTYPES[name], CHANNELS, LAYERS, CLASSES).eval().requires_grad_(False)
    graph = bounds.trace(network, torch.zeros(2, *SHAPE))
    found = bounds.estimates(graph.bind(), CLASSES - 1)
    kept = {method: asdict(found[method]) for method in METHODS}
    return {"network": found["ibp"].multiplications / 2, **kept}


def tables(entries: dict[str, dict[str, Any]], assumed: Assumed) -> list[str]:
    """Markdown: the wall clock by genotype, method and number of GPUs, with sums; then its largest parts."""
    on = " / ".join(map(str, GPUS))
    header = ["genotype", "network, 10⁹"]
    header += [f"{method}: {what}" for method in METHODS for what in ("10¹²", f"on {on} GPUs")]
    lines = [_row(header), _row(["---", "---:"] + ["---:"] * 2 * len(METHODS))]
    found = {
        (name, method, gpus): projected(counts, method, gpus, assumed)
        for name, counts in entries.items()
        for method in METHODS
        for gpus in GPUS
    }
    for name, counts in entries.items():
        cells = [name, f"{counts['network'] / 1e9:.2f}"]
        for method in METHODS:
            times = [_time(found[name, method, gpus].hours) for gpus in GPUS]
            cells += [_figure(needed(counts, method, assumed) / 1e12), " / ".join(times)]
        lines.append(_row(cells))
    sums = [f"all {len(entries)}", ""]
    for method in METHODS:
        hours = [sum(found[name, method, gpus].hours for name in entries) for gpus in GPUS]
        sums += ["", " / ".join(map(_time, hours))]
    lines += [_row(sums), "", _row(["most of it", *(f"on {gpus}" for gpus in GPUS)]), _row(["---"] * 4)]
    for method in METHODS:
        limits = [sorted({found[name, method, gpus].limit for name in entries}) for gpus in GPUS]
        lines.append(_row([method, *(", ".join(names) for names in limits)]))
    return lines


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _time(hours: float) -> str:
    """Minutes, hours, days or years, to two digits."""
    units = {"min": 1 / 60, "h": 1.0, "d": 24.0, "y": 24 * 365.25}
    name = next((unit for unit, size in reversed(units.items()) if hours >= 2 * size), "min")
    return f"{_figure(hours / units[name], 2)} {name}"


def _figure(value: float, digits: int = 3) -> str:
    return f"{float(f'{value:.{digits}g}'):,.10g}"


@click.command()
@options
def main(out: Path, quick: bool, threads: int) -> None:
    """Project the hours on 1, 8 and 64 GPUs. Networks are traced, but no bounds are computed."""
    torch.set_num_threads(threads)
    record = Record.open(out, "scale", {"channels": CHANNELS, "layers": LAYERS, "shape": SHAPE})
    for name in NAMES[: 1 if quick else None]:
        record.once(name, partial(counted, name))
    for line in tables(record.entries, Assumed()):
        Console(soft_wrap=True).print(line, highlight=False, markup=False)


if __name__ == "__main__":
    main()
