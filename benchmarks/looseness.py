"""Looseness of each method on normal cells of DARTS_V2, with auto_LiRPA on the same networks for comparison."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bounds
from benchmarks.cells import linear_width, looseness, warmed
from benchmarks.record import Record, measured, options
from certnas.crosscheck import OracleUnusable, auto_lirpa_bounds
from certnas.crosscheck.auto_lirpa import Method
from certnas.nas.space import DiscreteNetwork, published_genotype

CELLS, EPS = (1, 2, 3), {"1e-4": 1e-4, "2/255": 2 / 255}
SHAPE, CHANNELS, CLASSES, IMAGES, SEEDS = (3, 8, 8), 4, 10, 3, 3
METHODS: dict[str, bounds.Method] = {
    "ibp": bounds.IBP(),
    "crown-ibp": bounds.CrownIBP(),
    "zonotope": bounds.Zonotope(),
    "zonotope, 64 kept": bounds.Zonotope(errors=64),
    "zonotope+crown": bounds.ZonotopeCrown(),
    "crown": bounds.Crown(),
    "alpha-crown(20)": bounds.AlphaCrown(iterations=20),
}
ORACLES: dict[str, Method] = {
    "auto_LiRPA IBP": "IBP",
    "auto_LiRPA CROWN-IBP": "CROWN-IBP",
    "auto_LiRPA CROWN": "CROWN",
}


def build(cells: int, seed: int) -> tuple[nn.Module, Tensor]:
    """A warmed network of normal cells, and the images [IMAGES, *SHAPE] float64 at the centres of the balls."""
    torch.manual_seed(seed)
    genotype = published_genotype("DARTS_V2")
    network = DiscreteNetwork(genotype, CHANNELS, cells, CLASSES, reductions=())
    return warmed(network, SHAPE, batch=64), torch.rand(IMAGES, *SHAPE, dtype=torch.float64)


def ours(method: bounds.Method, model: nn.Module, x: Tensor, eps: float) -> dict[str, Any]:
    """Looseness and cost of one of certnas's methods, float64, in an l∞ ball without a box."""
    network = bounds.trace(model, x.float()).bind(dtype=torch.float64)
    with measured() as cost, torch.no_grad():
        lower, upper = bounds.output_bounds(network, bounds.Linf(x, eps), method)
    ratio = looseness(lower, upper, linear_width(network, x, eps))
    return {"ratio": ratio, "seconds": cost.seconds, "peak_gib": cost.peak_gib}


def theirs(method: Method, model: nn.Module, x: Tensor, eps: float) -> dict[str, Any]:
    """Looseness and cost of auto_LiRPA in matrix mode, one image at a time, because its bounds depend on the batch."""
    network = bounds.trace(model, x.float()).bind(dtype=torch.float64)
    with measured() as cost:
        try:
            found = [
                auto_lirpa_bounds(model, image[None], eps, "linf", method=method, conv_mode="matrix")
                for image in x
            ]
        except OracleUnusable as error:
            return {"unusable": error.why}
    lower, upper = (torch.cat([getattr(part, side) for part in found]) for side in ("lower", "upper"))
    ratio = looseness(lower, upper, linear_width(network, x, eps))
    return {"ratio": ratio, "seconds": sum(part.seconds for part in found), "peak_gib": cost.peak_gib}


def table(record: Record, seeds: int) -> Table:
    """Mean ratio of each method over the seeds, with seconds per image."""
    result = Table(title="bound width / local-linear width (seconds per image)")
    result.add_column("method")
    columns = [(cells, eps) for eps in EPS for cells in CELLS]
    for cells, eps in columns:
        result.add_column(f"{cells} cells, {eps}", justify="right")
    for method in (*METHODS, *ORACLES):
        row = []
        for cells, eps in columns:
            keys = [f"{method} | {cells} cells | {eps} | seed {seed}" for seed in range(seeds)]
            found = [record.entries[key] for key in keys if "ratio" in record.entries.get(key, {})]
            if not found:
                row.append("-")
                continue
            ratio = sum(entry["ratio"] for entry in found) / len(found)
            seconds = sum(entry["seconds"] for entry in found) / len(found) / IMAGES
            row.append(f"{ratio:.4g} ({seconds:.2g})")
        result.add_row(method, *row)
    return result


@click.command()
@options
def main(out: Path, quick: bool, threads: int) -> None:
    """Looseness of each method on normal cells of DARTS_V2."""
    torch.set_num_threads(threads)
    seeds = 1 if quick else SEEDS
    settings = {
        "images": IMAGES,
        "seeds": seeds,
        "channels": CHANNELS,
        "shape": SHAPE,
        "genotype": "DARTS_V2",
    }
    record = Record.open(out, "looseness", settings)
    console = Console()
    for seed in range(seeds):
        for cells in CELLS[: 1 if quick else None]:
            model, x = build(cells, seed)
            for label, eps in EPS.items():
                work: dict[str, Callable[[], dict[str, Any]]] = {
                    name: partial(ours, method, model, x, eps) for name, method in METHODS.items()
                }
                work |= {name: partial(theirs, method, model, x, eps) for name, method in ORACLES.items()}
                for name, run in work.items():
                    key = f"{name} | {cells} cells | {label} | seed {seed}"
                    console.print(key, record.once(key, run), highlight=False)
    console.print(table(record, seeds))


if __name__ == "__main__":
    main()
