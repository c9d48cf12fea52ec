"""The cost of certified radii by width, depth, image size, classes and images, and the cost model of `auto`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls
from torch import nn

import bounds
from benchmarks.images import png
from benchmarks.record import Record, measured, options
from bounds.extend import BoundState, budget
from certnas.certifier.batch import certify_batch
from certnas.certifier.certification import certification
from certnas.certifier.planning import SECONDS
from certnas.certifier.prover import prover
from certnas.certifier.request import describe
from certnas.runs import write_atomically


@dataclass(frozen=True)
class Sizes:
    """A network of `depth` 3×3 convolutions with ReLU, the last of stride 2, and a batch of images."""

    channels: int = 8
    depth: int = 3
    side: int = 12
    classes: int = 10
    images: int = 8


AXES: dict[str, tuple[int, ...]] = {
    "channels": (4, 8, 16),
    "depth": (1, 2, 3, 4),
    "side": (8, 12, 16),
    "classes": (2, 10, 40),
    "images": (1, 4, 8, 16),
}
ITERATIONS = 5
METHODS: dict[str, bounds.Method] = {
    "ibp": bounds.IBP(),
    "crown-ibp": bounds.CrownIBP(),
    "zonotope": bounds.Zonotope(),
    "crown": bounds.Crown(),
    "alpha-crown": bounds.AlphaCrown(iterations=ITERATIONS),
}
SEED = 0


def build(sizes: Sizes) -> nn.Module:
    """The network with torch's default initialisation."""
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for place in range(sizes.depth):
        stride = 2 if place == sizes.depth - 1 else 1
        layers += [nn.Conv2d(sizes.channels if place else 1, sizes.channels, 3, stride, padding=1), nn.ReLU()]
    side = (sizes.side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes.channels * side * side, sizes.classes)).eval()


def measure(sizes: Sizes, method: bounds.Method) -> dict[str, Any]:
    """CPU seconds per image of the l∞ radii of a batch without tracing, peak memory, and the estimated cost."""
    model = build(sizes)
    x = torch.rand(sizes.images, 1, sizes.side, sizes.side, generator=torch.Generator().manual_seed(SEED))
    y = model(x).argmax(1)
    request = certification(model, x, y, method=method, attack=False).request
    prove = prover(model, x, method, bounds.NORMS["linf"], request.clip, None)
    with measured() as held:
        pass
    with measured() as cost:
        found = certify_batch(request, prove, x, y, range(len(x)), lambda *_: None)
    network = bounds.trace(model, x[:1]).bind()
    radii = torch.from_numpy(found.radius_lower.copy()).float()
    costs = bounds.estimates(network, sizes.classes - 1, iterations=ITERATIONS)
    estimate = costs[describe(method).split("(")[0]]
    return {
        "sizes": asdict(sizes),
        "cpu_seconds": cost.cpu_seconds / sizes.images,
        "gib": cost.peak_gib - held.peak_gib,
        "radius": float(radii.mean()),
        "evaluations": float(found.evaluations.mean()),
        "unstable": share_unstable(network, x, radii),
        "multiplications": estimate.multiplications,
        "per_unstable": estimate.per_unstable,
        "visits": estimate.visits,
    }


def share_unstable(network: bounds.Network, x: torch.Tensor, radii: torch.Tensor) -> float:
    """The share of units that CROWN bounds at the certified radii, among those that it could bound."""
    region = bounds.Linf(x, radii, 0.0, 1.0)
    state = BoundState(network, region, budget(None, network.dtype, network.device), bounds.Slope.ADAPTIVE)
    unstable, units = 0.0, 0
    with torch.no_grad():
        for target in state.facts.readers:
            if target not in state.facts.prefix:
                mask = state.unstable(target)
                unstable, units = unstable + float(mask.sum()), units + mask.numel()
            state.refine(target)
    return unstable / units if units else math.nan


@dataclass(frozen=True)
class Fit:
    """Seconds of one image's radius ≈ per_multiplication · multiplications + per_visit · visits / images.

    unstable is the median share of unstable units, error the median ratio between prediction and
    measurement.
    """

    per_multiplication: float
    per_visit: float
    unstable: float
    error: float


def fit(entries: Sequence[dict[str, Any]]) -> Fit:
    """The fit by least squares of relative errors."""
    unstable = median(e["unstable"] for e in entries if e["unstable"] is not None)
    rows = [
        (
            e["multiplications"] - (1 - unstable) * e["per_unstable"],
            e["visits"] / e["sizes"]["images"],
            e["cpu_seconds"],
        )
        for e in entries
    ]
    matrix = np.array([[m / t, v / t] for m, v, t in rows])
    size = matrix.max(0)
    found, _ = nnls(matrix / size, np.ones(len(rows)))
    per_multiplication, per_visit = (float(value) for value in found / size)
    factors = [abs(math.log((per_multiplication * m + per_visit * v) / t)) for m, v, t in rows]
    return Fit(per_multiplication, per_visit, unstable, math.exp(median(factors)))


def exponent(values: Sequence[float], times: Sequence[float]) -> float:
    """The slope of log time over log value."""
    return float(np.polyfit(np.log(values), np.log(times), 1)[0])


def tables(record: Record, axes: dict[str, tuple[int, ...]]) -> list[Table]:
    """Exponents of each method along each axis, the fit, and the sizes at which CROWN exceeds auto's budget
    by the fit.
    """
    shown = Table(title="CPU seconds an image ∝ value^exponent (GiB at the largest value)")
    for head in ("method", *axes):
        shown.add_column(head, justify="left" if head == "method" else "right")
    for name in METHODS:
        row = []
        for axis, values in axes.items():
            found = [record.entries[f"{name} | {axis} {value}"] for value in values]
            slope = exponent(values, [entry["cpu_seconds"] for entry in found])
            row.append(f"{slope:.1f} ({found[-1]['gib']:.2f})")
        shown.add_row(name, *row)
    fitted = fit(list(record.entries.values()))
    model = Table(title="what certnas.certifier.planning takes")
    for head in ("seconds a multiplication", "seconds a visit", "unstable", "prediction off by, median"):
        model.add_column(head, justify="right")
    model.add_row(
        f"{fitted.per_multiplication:.2e}",
        f"{fitted.per_visit:.2e}",
        f"{fitted.unstable:.2f}",
        f"× {fitted.error:.1f}",
    )
    crossing = Table(
        title=f"where the radius of one image is predicted to take {SECONDS:g} s, all else as in the middle"
    )
    for head in ("method", "channels", "side", "depth"):
        crossing.add_column(head, justify="left" if head == "method" else "right")
    for name in ("crown-ibp", "crown"):
        crossing.add_row(
            name, *(str(_crossing(fitted, name, axis)) for axis in ("channels", "side", "depth"))
        )
    return [shown, model, crossing]


def _crossing(fitted: Fit, name: str, axis: str) -> str:
    """The first value that is too slow, by doubling from the smallest of the axis."""
    value = AXES[axis][0]
    while value <= 512:
        sizes = replace(Sizes(), **{axis: value})
        network = bounds.trace(build(sizes), torch.zeros(1, 1, sizes.side, sizes.side)).bind()
        cost = bounds.estimates(network, sizes.classes - 1)[name]
        work = cost.multiplications - (1 - fitted.unstable) * cost.per_unstable
        if fitted.per_multiplication * work + fitted.per_visit * cost.visits / sizes.images > SECONDS:
            return str(value)
        value *= 2
    return "> 512"


def picture(record: Record, axes: dict[str, tuple[int, ...]]) -> bytes:
    """CPU seconds per image along each axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(axes), 3), layout="constrained")
    for place, (axis, values) in enumerate(axes.items()):
        plot = figure.add_subplot(1, len(axes), place + 1)
        for name in METHODS:
            times = [record.entries[f"{name} | {axis} {value}"]["cpu_seconds"] for value in values]
            plot.loglog(values, times, marker="o", label=name)
        plot.set_xlabel(axis)
        plot.set_xticks(values, [str(value) for value in values])
        plot.minorticks_off()
    figure.axes[0].set_ylabel("CPU seconds an image")
    figure.axes[0].legend(fontsize="x-small")
    return png(figure)


@click.command()
@options
def main(out: Path, quick: bool, threads: int) -> None:
    """The cost of a certified radius along each axis of size."""
    torch.set_num_threads(threads)
    axes = {name: values[:2] for name, values in AXES.items()} if quick else AXES
    record = Record.open(out, "scaling", {"threads": threads, "base": asdict(Sizes()), "axes": axes})
    console = Console()
    for axis, values in axes.items():
        for value in values:
            for name, method in METHODS.items():
                key = f"{name} | {axis} {value}"
                entry = record.once(key, partial(measure, replace(Sizes(), **{axis: value}), method))
                console.print(f"{key}: {entry['cpu_seconds']:.3g} CPU s", highlight=False)
    for table in tables(record, axes):
        console.print(table)
    write_atomically(out / "scaling.png", picture(record, axes))


if __name__ == "__main__":
    main()
