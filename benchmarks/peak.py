"""The throughput of CROWN's backward pass relative to that of the machine's convolutions, and a profile of its time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

import bounds
from benchmarks.darts_questions import network as darts
from benchmarks.images import png
from benchmarks.record import Record, options
from benchmarks.seeded import SEEDED
from certnas.runs import write_atomically

EPS, CLASSES, RUNS, LEAST, SIDE, TOP, SMALL = 1 / 255, 10, 5, 0.005, 1024, 8, 0.002
Shape = tuple[int, int, int]


def _darts(sizes: tuple[int, int], shape: Shape) -> tuple[nn.Module, Shape]:
    return darts("DARTS_V2", sizes, shape), shape


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Shape]]] = {
    **{name: lambda build=build: (build(), (3, 32, 32)) for name, build in SEEDED.items()},
    "DARTS_V2, C, L = 4,3, 16×16": partial(_darts, (4, 3), (3, 16, 16)),
    "DARTS_V2, C, L = 8,4, 32×32": partial(_darts, (8, 4), (3, 32, 32)),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Convolution:
    """The properties that determine a convolution's time.

    `arguments` are those of `aten.convolution` after the bias.
    """

    x: tuple[int, ...]
    weight: tuple[int, ...]
    arguments: tuple[Any, ...]
    out: tuple[int, ...]

    @property
    def flops(self) -> int:
        """Floating-point operations; a multiplication and an addition count as two."""
        return int(conv_flop_count(self.x, self.weight, self.out, self.arguments[3]))

    def plain(self, layout: torch.memory_format, device: str) -> Callable[[], Tensor]:
        """The same convolution with random numbers, on its own."""
        x, weight = (
            torch.rand(size, device=device).contiguous(memory_format=layout) for size in (self.x, self.weight)
        )
        stride, padding, dilation, transposed, output_padding, groups = self.arguments
        return partial(
            torch.convolution, x, weight, None, stride, padding, dilation, transposed, output_padding, groups
        )


class Convolutions(TorchDispatchMode):
    """Context manager that counts the convolutions computed within."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Convolution] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            given = tuple(tuple(value) if isinstance(value, list) else value for value in args[3:])
            self.counts[Convolution(tuple(args[0].shape), tuple(args[1].shape), given, tuple(out.shape))] += 1
        return out


def timed(work: Callable[[], Any], device: str, least: float = 0.0) -> float:
    """Mean seconds of one call, of as many as take `least` seconds: CPU time, or wall time on a GPU."""
    on_gpu = torch.device(device).type == "cuda"
    clock, count = perf_counter if on_gpu else process_time, 0
    if on_gpu:
        torch.cuda.synchronize(device)
    began = clock()
    while not count or clock() - began < least:
        work()
        count += 1
        if on_gpu:
            torch.cuda.synchronize(device)
    return (clock() - began) / count


def measure(name: str, device: str, runs: int) -> dict[str, Any]:
    """One CROWN call for one image's margins in float32, in turns with its convolutions on their own.

    flops counts convolutions and matrix products. plain_seconds is the time of all its convolutions, each
    in the faster of two layouts, with operands in the cache if they fit. matmul is the FLOP/s of a product
    of two matrices of side SIDE. shares are the profiler's shares of time by operator. All are medians over
    the runs.
    """
    model, shape = NETWORKS[name]()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, *shape, generator=generator).to(device)
    network = bounds.trace(model.to(device), x).bind(device=x.device)
    rows = bounds.margins(torch.zeros(1, dtype=torch.long), CLASSES).to(device)

    def bound() -> None:
        with torch.no_grad():
            bounds.lower_bounds(network, bounds.Linf(x, EPS), rows, bounds.Crown())

    with FlopCounterMode(display=False) as flops, Convolutions() as seen:
        bound()
    plain = {
        (convolution, layout): convolution.plain(form, device)
        for convolution in seen.counts
        for layout, form in LAYOUTS.items()
    }
    square = torch.rand(SIDE, SIDE, device=device)
    times: dict[Any, list[float]] = {key: [] for key in ("bound", "matmul", *plain)}
    for _ in range(runs):
        times["bound"].append(timed(bound, device))
        times["matmul"].append(timed(lambda: square @ square, device, LEAST))
        for key, work in plain.items():
            times[key].append(timed(work, device, LEAST))
    alone = {
        convolution: min(median(times[convolution, layout]) for layout in LAYOUTS)
        for convolution in seen.counts
    }
    return {
        "seconds": median(times["bound"]),
        "plain_seconds": sum(count * alone[convolution] for convolution, count in seen.counts.items()),
        "flops": {
            "convolutions": sum(count * convolution.flops for convolution, count in seen.counts.items()),
            "all": flops.get_total_flops(),
        },
        "calls": seen.counts.total(),
        "distinct": len(seen.counts),
        "matmul": 2 * SIDE**3 / median(times["matmul"]),
        "shares": shares(bound, device),
        "runs": runs,
    }


def shares(work: Callable[[], None], device: str) -> dict[str, float]:
    """Each operator's own share of the time, without the operators that it calls; sorted, and without
    shares below SMALL.
    """
    on_gpu = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiled:
        work()
    spent = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiled.key_averages()
        if event.device_type == DeviceType.CPU  # an operator has the time of its kernels
    }
    whole = sum(spent.values())
    return {
        key: spent[key] / whole
        for key in sorted(spent, key=lambda key: -spent[key])
        if spent[key] > SMALL * whole
    }


def in_convolutions(entry: dict[str, Any]) -> float:
    """The share of time in convolutions."""
    return sum(share for name, share in entry["shares"].items() if "conv" in name)


def table(record: Record) -> Table:
    """One line per network: FLOP/s in the bound, alone and in a matrix product, and the slowest operators."""
    result = Table(title="CROWN of one image: 10⁹ FLOP/s of its convolutions")
    for column in ("network", "seconds", "in the bound", "alone", "matmul", "fraction", "in convolutions"):
        result.add_column(column, justify="left" if column == "network" else "right")
    result.add_column("most of the rest")
    for name, entry in record.entries.items():
        flops = entry["flops"]["convolutions"] / 1e9
        rest = [(key, share) for key, share in entry["shares"].items() if "conv" not in key][:3]
        result.add_row(
            name,
            f"{entry['seconds']:.3g}",
            f"{flops / entry['seconds']:.3g}",
            f"{flops / entry['plain_seconds']:.3g}",
            f"{entry['matmul'] / 1e9:.3g}",
            f"{entry['plain_seconds'] / entry['seconds']:.0%}",
            f"{in_convolutions(entry):.0%}",
            ", ".join(f"{key.removeprefix('aten::')} {share:.0%}" for key, share in rest),
        )
    return result


def picture(record: Record) -> bytes:
    """The shares of each network's slowest operators, as stacked bars."""
    from matplotlib.figure import Figure

    entries = record.entries
    found = Counter[str]()
    for entry in entries.values():
        found.update({key: share for key, share in entry["shares"].items() if "conv" not in key})
    kinds = ["convolutions", *(key for key, _ in found.most_common(TOP)), "others"]
    figure = Figure(figsize=(9, 0.5 * len(entries) + 1.5), layout="constrained")
    plot = figure.add_subplot()
    left = [0.0] * len(entries)
    for place, kind in enumerate(kinds):
        own = [entry["shares"].get(kind, 0.0) for entry in entries.values()]
        if kind == "convolutions":
            own = [in_convolutions(entry) for entry in entries.values()]
        elif kind == "others":
            own = [1 - share for share in left]
        plot.barh(list(entries), own, left=left, label=kind.removeprefix("aten::"), color=f"C{place}")
        left = [before + share for before, share in zip(left, own, strict=True)]
    plot.set_xlabel("share of the time of one CROWN call")
    plot.set_xlim(0, 1)
    figure.legend(loc="outside right center", fontsize="x-small")
    return png(figure)


@click.command()
@options
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), default=list(NETWORKS))
@click.option("--device", default="cpu", show_default=True)
def main(out: Path, quick: bool, threads: int, names: tuple[str, ...], device: str) -> None:
    """FLOP/s of CROWN's convolutions against the same convolutions on their own, in one process."""
    torch.set_num_threads(threads)
    runs = 1 if quick else RUNS
    record = Record.open(out, "peak", {"runs": runs, "threads": threads, "eps": EPS, "device": device})
    console = Console()
    for name in names[: 1 if quick else None]:
        entry = record.once(name, partial(measure, name, device, runs))
        console.print(f"{name}: {entry['plain_seconds'] / entry['seconds']:.0%}", highlight=False)
    console.print(table(record))
    write_atomically(out / "peak.png", picture(record))


if __name__ == "__main__":
    main()
