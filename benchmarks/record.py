"""A benchmark's record: a JSON file of named entries, rewritten after each one, so that a run can resume."""

import ctypes
import gc
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from certnas.errors import UserError
from certnas.runs import versions, write_atomically

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """The cost of a `measured` block, filled in at its end."""

    seconds: float = math.nan
    """Wall-clock seconds."""
    cpu_seconds: float = math.nan
    """CPU seconds of this process; other processes on the machine do not count."""
    peak_gib: float = math.nan
    """Peak resident memory in GiB, including the memory at the start."""


def trim() -> None:
    """Return free memory to the system, so that it does not count as used (on Linux only)."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def measured() -> Iterator[Cost]:
    """Context manager: time and peak resident memory of the block (memory on Linux only)."""
    cost = Cost()
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")  # the kernel starts this process's peak afresh
    began, cpu = time.perf_counter(), time.process_time()
    yield cost
    cost.seconds, cost.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    if STATUS.exists():
        peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        cost.peak_gib = int(peak.split()[1]) / 2**20


def machine() -> dict[str, Any]:
    """The properties of the machine that determine times: cores, threads, processor and versions."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    processor = next((line.split(":", 1)[1].strip() for line in names if line.startswith("model name")), "")
    return {
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "processor": processor or platform.machine(),
        "versions": versions(),
    }


def commit() -> str:
    """The commit of the measured code, with + if files differ from it; empty outside of git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../bounds", "../certnas")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


@dataclass
class Record:
    """The entries of one benchmark under `path`, by key; every change rewrites the file."""

    path: Path
    name: str
    settings: Mapping[str, Any]
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, name: str, settings: Mapping[str, Any]) -> "Record":
        """The record with this name in a folder, with its existing entries.

        Raises UserError if its settings differ, because the entries would not be comparable.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        settings = json.loads(json.dumps(settings))
        if not path.exists():
            return cls(path, name, settings)
        stored = json.loads(path.read_text())
        if stored["settings"] != settings:
            raise UserError(
                f"'{path}' was made with settings {stored['settings']}, asked for are {settings}: "
                "give another --out, or remove it"
            )
        return cls(path, name, settings, stored["entries"])

    def once(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The entry with this key; `work` computes it if the record does not have it."""
        if key not in self.entries:
            load = os.getloadavg()[0]
            entry = work()
            self.entries[key] = {**_finite(entry), "commit": commit(), "load": round(load, 1)}
            self.write()
        return self.entries[key]

    def write(self) -> None:
        """Rewrite the file with the current entries."""
        record = {
            "benchmark": self.name,
            "settings": self.settings,
            "machine": machine(),
            "entries": self.entries,
        }
        write_atomically(self.path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """The value, with null for every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every benchmark: --out, --quick, --threads."""
    folder = click.Path(path_type=Path, file_okay=False)
    command = click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1))(command)
    command = click.option("--quick", is_flag=True, help="A few small entries, to see that it runs.")(command)
    return click.option("--out", required=True, type=folder, help="Where NAME.json is kept.")(command)
