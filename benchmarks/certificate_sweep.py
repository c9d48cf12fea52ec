"""Certificates of third-party networks and properties: written by one process, checked by a fresh one, with times."""

import resource
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.kill_jobs import IMPORTED, run
from benchmarks.record import Record, options
from benchmarks.third_party import DATA, NETWORKS, cifar10, mnist
from certnas.models import open_model
from certnas.verifier.instances import Instance, read_instances

LIST = DATA / "vnnlib" / "instances.csv"
NORMS = ("linf", "l2", "l1")
WAYS: dict[str, tuple[str, ...]] = {
    "crown": ("--no-attack",),
    "alpha-crown": ("--no-attack", "--method", "alpha-crown", "--shared"),
    "complete": ("--complete", "--timeout", "20"),
}
"""How the radii are found that certificates are written of."""
ACAS_RANGE = (-0.5, 0.5)
"""What the networks of ACAS Xu take, about; points of it are drawn."""


def acas(file: str, count: int) -> tuple[Tensor, Tensor]:
    """Points x [count, 1, 1, 5] in [0, 1] for ACAS_RANGE, and the network's own answers to them."""
    x = torch.rand(count, 1, 1, 5, generator=torch.Generator().manual_seed(0))
    module = open_model(str(DATA / "checkpoints" / file), input_range=ACAS_RANGE).module
    with torch.no_grad():
        return x, module(x).argmax(1)


@dataclass(frozen=True)
class Stored:
    """A trained network: its file, what opens it, and its images."""

    file: str
    opening: tuple[str, ...]
    images: Callable[[int], tuple[Tensor, Tensor]]


OXFORD = ("--mean", "0.485,0.456,0.406", "--std", "0.225,0.225,0.225")
RESNET = ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2471,0.2435,0.2616")
POINTS = ("--input-range", ",".join(map(str, ACAS_RANGE)))
ACAS = {name: f"{name}_batch_2000.onnx" for name in ("ACASXU_run2a_1_1", "ACASXU_run2a_2_2")}
ALL: dict[str, Stored] = {
    **{name: Stored(file, POINTS, partial(acas, file)) for name, file in ACAS.items()},
    **{name: Stored(of.file, ("--arch", of.arch), of.images) for name, of in NETWORKS.items()},
    "mnist-net_256x2": Stored("mnist-net_256x2.onnx", ("--layout", "flat"), mnist),
    "mnist_cnn_5layer_5_3.h5": Stored("mnist_cnn_5layer_5_3.h5", (), mnist),
    "mnist_cnn_5layer_5_3_tanh.h5": Stored("mnist_cnn_5layer_5_3_tanh.h5", (), mnist),
    "Convnet_maxpool": Stored("Convnet_maxpool.onnx", (), mnist),
    "ffnnSIGMOID__Point_6x200": Stored("ffnnSIGMOID__Point_6x200.onnx", (), mnist),
    "cifar_base_kw": Stored("cifar_base_kw.onnx", OXFORD, cifar10),
    "resnet_2b": Stored("resnet_2b.onnx", RESNET, cifar10),
    "cifar10_small": Stored("cifar10_small.onnx", ("--layout", "NHWC"), cifar10),
}


@dataclass(frozen=True)
class Ran:
    """How a command ended: its exit code (minus a signal's number), the lines that it said, what it cost."""

    code: int
    said: list[str]
    errors: list[str]
    cpu_seconds: float


def ran(words: Sequence[str], folder: Path, limit: float) -> Ran:
    """`certnas WORDS` in a process of its own, which is killed after `limit` seconds.  folder: for what it says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = run(words, folder, after=limit)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(ended.code, ended.out.splitlines(), ended.err.splitlines(), spent)


def of_images(name: str, norm: str, way: str, count: int, limit: float) -> dict[str, Any]:
    """The certificates of a network's first images: files written, files proved again, what went wrong."""
    network, file = ALL[name], str(DATA / "checkpoints" / ALL[name].file)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        data, out, proofs = str(folder / "images.npz"), str(folder / "out"), folder / "out" / "proofs"
        x, y = network.images(count)
        np.savez(data, x=x.numpy(), y=y.numpy())
        asked = [file, *network.opening, "--data", data]
        more = ["--images", str(count), "--norm", norm, "--threads", "1", "--out", out, *WAYS[way]]
        writing = ran(["certify", *asked, *more, "--certificates", str(proofs)], folder, limit)
        return {"images": count} | checked(writing, proofs, ["check", str(proofs), *asked], folder, limit)


def of_property(instance: Instance, timeout: float, limit: float) -> dict[str, Any]:
    """The certificate of one property, if it is proved: whether it was written and proved again; what went wrong."""
    network, prop = str(DATA / instance.network), str(DATA / instance.prop)
    with tempfile.TemporaryDirectory() as made:
        folder, proofs = Path(made), Path(made) / "proofs"
        asked = ["--timeout", f"{timeout:g}", "--threads", "1", "--certificates", str(proofs)]
        writing = ran(["verify", network, prop, *asked], folder, limit)
        verdict = next((line.split()[0] for line in writing.said if line.split()), "")
        checking = ["check", str(proofs), network, "--property", prop]
        return {"verdict": verdict} | checked(writing, proofs, checking, folder, limit)


def checked(
    writing: Ran, proofs: Path, checking: Sequence[str], folder: Path, limit: float
) -> dict[str, Any]:
    """What was written, and what another process says of it."""
    sizes = [path.stat().st_size for path in proofs.glob("*.npz")] if proofs.is_dir() else []
    found: dict[str, Any] = {
        "code": writing.code,
        "said": writing.errors[-1:] if writing.code else reasons(writing.said),
        "cpu_seconds": writing.cpu_seconds,
        "written": len(sizes),
        "largest_bytes": max(sizes, default=0),
    }
    if sizes:
        proving = ran(checking, folder, limit)
        rejected = [line for line in proving.said if line.startswith("rejected")]
        found |= {
            "check_code": proving.code,
            "check_said": rejected + proving.errors[-1:],
            "check_cpu_seconds": proving.cpu_seconds,
            "accepted": sum(line.startswith("proved") for line in proving.said),
        }
    return found


def reasons(lines: Sequence[str]) -> list[str]:
    """Why `certify` or `verify` wrote no certificate, and of how many a smaller radius."""
    named = (part.strip() for line in lines if "certificate" in line for part in line.split(";"))
    return [part for part in named if not part.startswith("wrote")]


def faults(entry: dict[str, Any]) -> bool:
    """Whether a written certificate was not accepted, or a command ended otherwise than it should."""
    return (
        entry["code"] != 0 or entry["written"] != entry.get("accepted", 0) or entry.get("check_code", 0) != 0
    )


def table(record: Record) -> Table:
    """A table of certificates written and accepted, faults and times, by network and norm or family of properties."""
    shown = Table(title=f"Certificates; at most {record.settings['limit']:g} s a command")
    for column in ("of", "cases", "written", "accepted", "faults", "write CPU s, most", "check CPU s, most"):
        shown.add_column(column, justify="left" if column == "of" else "right")
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, entry in record.entries.items():
        groups.setdefault(" ".join(key.split(" | ")[:-1]), []).append(entry)
    for name, entries in [*groups.items(), ("all", list(record.entries.values()))]:
        counts = [len(entries), *(sum(e.get(what, 0) for e in entries) for what in ("written", "accepted"))]
        counts.append(sum(map(faults, entries)))
        times = [max(e.get(what, 0.0) for e in entries) for what in ("cpu_seconds", "check_cpu_seconds")]
        shown.add_row(name, *map(str, counts), *(f"{seconds:.1f}" for seconds in times))
    return shown


def cases_of(images: int, limit: float, timeout: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every network by CROWN, smaller files first, every property that is published as proved, then the other ways."""
    small = sorted(ALL, key=lambda name: (DATA / "checkpoints" / ALL[name].file).stat().st_size)
    cases: dict[str, Callable[[], dict[str, Any]]] = {}
    for way in WAYS:
        for name, norm in product(small, NORMS):
            cases[f"{name} | {norm} | {way}"] = partial(of_images, name, norm, way, images, limit)
        for one in (one for one in read_instances(LIST) if one.expected == "unsat"):
            prop = Path(one.prop)
            key = f"{prop.parent.name} | {Path(one.network).stem} | {prop.name}"
            cases[key] = partial(of_property, one, timeout, limit)
    return cases


@click.command()
@options
@click.option("--images", default=2, show_default=True, type=click.IntRange(1), help="Of each network.")
@click.option("--limit", default=600.0, show_default=True, help="Seconds of a command.")
@click.option("--network", "networks", multiple=True, type=click.Choice(list(ALL)), help="These alone.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for each property.")
def main(
    out: Path, quick: bool, threads: int, images: int, limit: float, networks: tuple[str, ...], timeout: float
) -> None:
    """Write certificates by `certify` and `verify`, and prove them again by `check`; one record each."""
    torch.set_num_threads(threads)
    for module in IMPORTED:
        import_module(module)
    record = Record.open(
        out, "certificate_sweep", {"images": images, "limit": limit, "timeout": timeout, "quick": quick}
    )
    console = Console(soft_wrap=True)
    cases = cases_of(images, limit, timeout)
    if networks:
        cases = {key: work for key, work in cases.items() if key.split(" | ")[0] in networks}
    for key, work in list(cases.items())[: 3 if quick else None]:
        entry = record.once(key, work)
        state = "FAULT" if faults(entry) else "fine"
        counts = f"{entry['written']} written, {entry.get('accepted', 0)} accepted"
        seconds = f"{entry['cpu_seconds']:.1f} + {entry.get('check_cpu_seconds', 0.0):.1f} CPU s"
        console.print(f"{state:6} {key}: {counts}, {seconds}", highlight=False)
    console.print(table(record))


if __name__ == "__main__":
    main()
