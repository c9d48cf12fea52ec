"""Verdicts on properties with a published verdict; the certificates are written and checked."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, measured, options
from benchmarks.third_party import DATA
from certnas.checker import Certificate, CheckedNetwork, Rejected, check
from certnas.errors import UserError
from certnas.proofs import Uncertified, exact_work, plain, read, write_proof
from certnas.verifier import read_vnnlib, verify
from certnas.verifier.instances import Instance, read_instances
from certnas.verifier.subject import Subject, open_onnx

LIST = DATA / "vnnlib" / "instances.csv"
EXACT_WORK = 5_000_000


class Opened:
    """Caches the last network, because consecutive properties usually share one."""

    def __init__(self) -> None:
        self.name, self.subject = "", None

    def __call__(self, name: str) -> Subject:
        if name != self.name or self.subject is None:
            self.name, self.subject = name, open_onnx(DATA / name)
        return self.subject


def answer(instance: Instance, opened: Opened, timeout: float) -> dict[str, Any]:
    """The verdict on one instance and its cost, without opening the network."""
    prop, subject = read_vnnlib(DATA / instance.prop), opened(instance.network)
    with measured() as cost:
        verdict = verify(subject.network, prop, replay=subject.replay, timeout=timeout)
    return {
        "expected": instance.expected,
        "verdict": verdict.status,
        "by": verdict.by,
        "bound": verdict.bound,
        "subproblems": verdict.domains,
        "seconds": cost.seconds,
        "cpu_seconds": cost.cpu_seconds,
        "peak_gib": cost.peak_gib,
    }


def certificate(instance: Instance, opened: Opened, timeout: float) -> dict[str, Any]:
    """The certificate of a proved instance, and the checker's result in float64, and in integers if that is fast."""
    prop, subject = read_vnnlib(DATA / instance.prop), opened(instance.network)
    verdict = verify(subject.network, prop, replay=subject.replay, timeout=timeout, proof=True)
    if verdict.proof is None:
        return {"written": False, "reason": f"this time {verdict.status}"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.npz"
        try:
            with measured() as writing:
                size = write_proof(path, prop, verdict.proof)
        except (Uncertified, UserError) as error:
            return {"written": False, "reason": str(error)}
        certificates, network = read(path), plain(subject.network).network
    told = {"written": True, "bytes": size, "parts": sum(len(kept.parts) for kept in certificates)}
    told["writing_cpu_seconds"] = writing.cpu_seconds
    work = sum(exact_work(kept, network) for kept in certificates)
    for name, exact in (("float", False), ("exact", True)):
        if exact and work > EXACT_WORK:
            continue
        with measured() as cost:
            told[name] = checked(certificates, network, exact)
        told[f"{name}_cpu_seconds"] = cost.cpu_seconds
    return told


def checked(certificates: list[Certificate], network: CheckedNetwork, exact: bool) -> bool:
    """True if the checker proves them."""
    try:
        return all(len(check(kept, network, exact=exact)) > 0 for kept in certificates)
    except Rejected:
        return False


def table(record: Record) -> Table:
    """For each family: instances, proved, falsified, open, opposite to the published verdict, certificates
    written, proved again in float64 and in integers, CPU seconds.
    """
    shown = Table(title=f"Properties, at most {record.settings['timeout']:g} s each")
    for name in (
        "family",
        "instances",
        "proved",
        "falsified",
        "open",
        "opposite",
        "written",
        "re-checked",
        "exactly",
        "CPU s, mean",
        "CPU s, most",
    ):
        shown.add_column(name, justify="left" if name == "family" else "right")
    families: dict[str, list[dict[str, Any]]] = {}
    for key, entry in record.entries.items():
        families.setdefault(Path(key.split(" | ")[1]).parent.name, []).append(entry)
    for family, entries in [*families.items(), ("all", list(record.entries.values()))]:
        verdicts = [entry["verdict"] for entry in entries]
        opposite = sum({e["verdict"], e["expected"]} == {"sat", "unsat"} for e in entries)
        counts = [len(entries), verdicts.count("unsat"), verdicts.count("sat")]
        counts += [len(entries) - counts[1] - counts[2], opposite]
        files = [entry.get("certificate", {}) for entry in entries]
        counts += [sum(file.get(name) is True for file in files) for name in ("written", "float", "exact")]
        seconds = [entry["cpu_seconds"] for entry in entries]
        shown.add_row(family, *map(str, counts), f"{sum(seconds) / len(seconds):.1f}", f"{max(seconds):.1f}")
    return shown


@click.command()
@options
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for each property.")
def main(out: Path, quick: bool, threads: int, timeout: float) -> None:
    """Attack, prove or branch on every listed property; one record each, with a certificate for proved ones."""
    torch.set_num_threads(threads)
    record = Record.open(out, "verify_instances", {"timeout": timeout, "quick": quick})
    console, opened = Console(), Opened()
    listed = read_instances(LIST)
    for instance in listed[:3] if quick else listed:
        key = f"{instance.network} | {instance.prop}"
        entry = record.once(key, partial(answer, instance, opened, timeout))
        if entry["verdict"] == "unsat" and "certificate" not in entry:
            entry["certificate"] = certificate(instance, opened, timeout)
            record.write()
        console.print(f"{entry['verdict']:8} {entry['cpu_seconds']:7.1f} CPU s  {key}")
    console.print(table(record))


if __name__ == "__main__":
    main()
