"""Every published genotype of four nodes a cell: finite, sound bounds, their cost and looseness."""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import bounds
from benchmarks.cells import linear_width, looseness, warmed
from benchmarks.record import Record, measured, options
from certnas.space import GENOTYPES, DiscreteNetwork, published_genotype

SHAPE, CHANNELS, LAYERS, CLASSES, EPS = (3, 32, 32), 8, 4, 10, 1e-3
NODES, POINTS, STEPS = 4, 64, 5
NAMES = tuple(name for name, genotype in GENOTYPES.items() if len(genotype.normal) == 2 * NODES)
METHODS: dict[str, bounds.Method] = {
    "ibp": bounds.IBP(),
    "crown-ibp": bounds.CrownIBP(),
    "crown": bounds.Crown(),
    "zonotope, 64 kept": bounds.Zonotope(errors=64),
}
ON: dict[str, tuple[str, ...]] = {"crown": ("DARTS_V2", "PC_DARTS_cifar", "ADVRUSH")}
"""Method -> the genotypes it is tried on, where not all."""


@dataclass(frozen=True)
class Subject:
    """The warmed network of a genotype in both precisions, an image [1, *SHAPE], and logits [M, K] in its ball."""

    single: bounds.Network
    double: bounds.Network
    x: Tensor
    points: Tensor


@lru_cache(maxsize=1)
def subject(name: str) -> Subject:
    """The subject of a genotype's name; the last one is kept, for its other methods."""
    torch.manual_seed(0)
    network = DiscreteNetwork(published_genotype(name), CHANNELS, LAYERS, CLASSES)
    model, x = warmed(network, SHAPE, batch=32), torch.rand(1, *SHAPE)
    single = bounds.trace(model, x).bind()
    double = single.to(torch.float64)
    return Subject(single, double, x, reached(double, x.double(), EPS))


def reached(network: bounds.Network, x: Tensor, eps: float) -> Tensor:
    """Logits [M, K] at points of the l∞ ball: uniform ones, corners, gradient-sign ascents of ±logits."""
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand(2 * POINTS, *x.shape[1:], generator=generator, dtype=x.dtype) - 1
    noise[POINTS:] = noise[POINTS:].sign()
    with torch.no_grad():
        found = [network(x + eps * noise)]
    signs = torch.cat([torch.eye(CLASSES), -torch.eye(CLASSES)]).to(x)
    shift = torch.zeros(len(signs), *x.shape[1:], dtype=x.dtype)
    for step in range(STEPS):
        point = (x + shift).requires_grad_(True)
        (slope,) = torch.autograd.grad((signs * network(point)).sum(), point)
        rate = eps if step == 0 else eps / 2
        shift = (shift + rate * slope.sign()).clamp(-eps, eps)
        with torch.no_grad():
            found.append(network(x + shift))
    return torch.cat(found)


def measure(name: str, method: bounds.Method) -> dict[str, Any]:
    """Bounds of all logits in float32, against points that are evaluated in float64.

    ratio: width over local-linear width; inside: whether every point is in the bounds; filled: the largest
    share of a bound's width that the points span.
    """
    it = subject(name)
    with measured() as cost, torch.no_grad():
        lower, upper = bounds.output_bounds(it.single, bounds.Linf(it.x, EPS), method)
    lower, upper = lower.double(), upper.double()
    points, span = it.points, it.points.amax(0) - it.points.amin(0)
    return {
        "finite": bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()),
        "inside": bool(((points >= lower) & (points <= upper)).all()),
        "points": len(points),
        "ratio": looseness(lower, upper, linear_width(it.double, it.x.double(), EPS)),
        "filled": float((span / (upper - lower)).max()),
        "seconds": cost.seconds,
        "cpu_seconds": cost.cpu_seconds,
        "peak_gib": cost.peak_gib,
    }


def table(record: Record) -> Table:
    """One line for each genotype: ratio and seconds of each method."""
    result = Table(title=f"l∞ ε {EPS:g}: width / local-linear width (CPU seconds, peak GiB)")
    result.add_column("genotype")
    for method in METHODS:
        result.add_column(method, justify="right")
    result.add_column("finite, sound")
    for name in dict.fromkeys(key.split(" | ")[0] for key in record.entries):
        found = {m: record.entries.get(f"{name} | {m}") for m in METHODS}
        cells = [
            "-" if e is None else f"{e['ratio']:.4g} ({e['cpu_seconds']:.0f} s, {e['peak_gib']:.1f})"
            for e in found.values()
        ]
        good = all(e["finite"] and e["inside"] for e in found.values() if e is not None)
        result.add_row(name, *cells, "yes" if good else "NO")
    return result


@click.command()
@options
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), default=list(METHODS))
def main(out: Path, quick: bool, threads: int, methods: tuple[str, ...]) -> None:
    """Every published genotype with four nodes a cell at C=8, L=4, 3x32x32."""
    torch.set_num_threads(threads)
    settings = {"channels": CHANNELS, "layers": LAYERS, "shape": SHAPE, "eps": EPS}
    record = Record.open(out, "genotypes", settings)
    console = Console()
    for name in NAMES[: 1 if quick else None]:
        for label in methods:
            if name in ON.get(label, NAMES):
                key = f"{name} | {label}"
                console.print(key, record.once(key, partial(measure, name, METHODS[label])), highlight=False)
    console.print(table(record))


if __name__ == "__main__":
    main()
