"""Commands killed at random moments and continued; their result must equal that of an undisturbed run."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.kill_jobs import Ended, Job, contents, jobs, run
from benchmarks.record import Record

SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGINT, signal.SIGTERM)
MOST = 4
"""Largest number of kills of a job; another kill follows with probability 1/3."""
INTERRUPTED = (0, 130)
"""Exit codes after a request to end: the command was done, or reports the interruption."""


def disturbed(job: Job, whole: dict[str, Any], seconds: float, random: Random, out: Path) -> dict[str, Any]:
    """Run a job with kills, continue it, and compare its result with `whole`.

    `seconds` is the undisturbed time of the job; the moments are drawn from a slightly longer interval.
    """
    moments, faults, codes = [], [], []
    out.mkdir(parents=True)
    folder, again = out / "run", False
    while True:
        by, after = random.choice(SIGNALS), random.uniform(0.0, 1.05 * seconds)
        ended = run(job.line(folder, again=again), out, after=after, by=by)
        moments.append([by.name, round(after, 3)])
        codes.append(ended.code)
        faults += _faults(ended, by)
        again = True
        if len(moments) == MOST or random.random() > 1 / 3:
            break
    last = run(job.line(folder, again=True), out)
    if last.code:
        faults.append(f"the command that goes on ends with {last.code}: {last.err.strip().splitlines()[-1:]}")
    faults += _traceback(last)
    faults += differences(whole, result_of(job, folder, last))
    hidden = [path.name for path in folder.rglob(".*")] if folder.exists() else []
    return {"kills": moments, "codes": codes, "faults": faults, "temporary files left": len(hidden)}


def result_of(job: Job, folder: Path, ended: Ended) -> dict[str, Any]:
    """The result of a job: the files of its folder, or its output if it writes none."""
    return contents(folder) if job.resume else {"standard output": ended.out}


def differences(whole: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """A description of the files that differ from those of the undisturbed run."""
    names = sorted({*whole, *found})
    words = {True: "differs", False: "is missing or one too many"}
    return [
        f"{name} {words[name in whole and name in found]}"
        for name in names
        if whole.get(name) != found.get(name)
    ]


def _faults(ended: Ended, by: signal.Signals) -> list[str]:
    """Errors in the behaviour of a command after a signal."""
    if by is signal.SIGKILL or ended.code == -by:
        return _traceback(ended)
    wrong = (
        []
        if ended.code in INTERRUPTED
        else [f"after {by.name} it ends with {ended.code}: {ended.err.strip()[-200:]}"]
    )
    return wrong + _traceback(ended)


def _traceback(ended: Ended) -> list[str]:
    return [f"a traceback: {ended.err.strip()[-300:]}"] if "Traceback" in ended.err else []


def undisturbed(job: Job, out: Path) -> tuple[dict[str, Any], float]:
    """The result of the job and its seconds. It runs twice, because a result that varies by itself cannot be compared.

    Raises RuntimeError if the job fails or varies.
    """
    seen = []
    for name in ("first", "second"):
        (out / name).mkdir(parents=True)
        ended = run(job.line(out / name / "run"), out / name)
        if ended.code:
            raise RuntimeError(f"{job.arguments[0]} fails undisturbed: {ended.err}")
        seen.append((result_of(job, out / name / "run", ended), ended.seconds))
    if different := differences(seen[0][0], seen[1][0]):
        raise RuntimeError(f"{job.arguments[0]} differs from run to run: {different}")
    return seen[0][0], min(seconds for _, seconds in seen)


def table(record: Record) -> Table:
    """For each command, the number of killed jobs, kills by signal, different results, and other errors."""
    shown = Table(title="Killed and continued")
    for name in ("command", "jobs", "SIGKILL", "SIGINT", "SIGTERM", "with a fault"):
        shown.add_column(name, justify="left" if name == "command" else "right")
    for command in sorted({key.split()[0] for key in record.entries}):
        entries = [entry for key, entry in record.entries.items() if key.split()[0] == command]
        by = Counter(name for entry in entries for name, _ in entry["kills"])
        counts = [
            len(entries),
            by["SIGKILL"],
            by["SIGINT"],
            by["SIGTERM"],
            sum(bool(e["faults"]) for e in entries),
        ]
        shown.add_row(command, *map(str, counts))
    return shown


@click.command(help=__doc__)
@click.option(
    "--count",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Jobs, of all commands in turn.",
)
@click.option("--seed", default=0, show_default=True, help="Of the moments and signals.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where kills.json is kept."
)
def main(count: int, seed: int, out: Path) -> None:
    torch.set_num_threads(1)
    record = Record.open(out, "kills", {"seed": seed})
    console, known = Console(), dict[str, tuple[dict[str, Any], float]]()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        made = jobs(work / "inputs")
        for number in range(count):
            command = list(made)[number % len(made)]
            key = f"{command} {number // len(made)}"
            if key in record.entries:
                continue
            if command not in known:
                known[command] = undisturbed(made[command], work / command)
            place = work / "disturbed"
            whole, seconds = known[command]
            ask = partial(disturbed, made[command], whole, seconds, Random(f"{seed} {key}"), place)
            entry = record.once(key, ask)
            shutil.rmtree(place)
            for fault in entry["faults"]:
                console.print(f"{key}: {fault}", markup=False)
    console.print(table(record))
    if any(entry["faults"] for entry in record.entries.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
