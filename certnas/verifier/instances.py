"""Lists of instances and results in the formats of the verification competition (VNN-COMP)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from certnas.errors import UserError
from certnas.runs.files import write_atomically
from certnas.verifier.verdict import Counterexample

RESULTS = "results.csv"
ALIASES = {
    "network": ("network", "onnx"),
    "property": ("property", "vnnlib"),
    "timeout": ("timeout", "timeout_s"),
}


@dataclass(frozen=True)
class Instance:
    """One network with one property."""

    network: str
    """The path of the network."""
    prop: str
    """The path of the property."""
    timeout: float | None
    """The time limit in seconds; None if the list states none."""
    expected: str = ""
    """A published verdict; empty if the list states none."""


@dataclass(frozen=True)
class Result:
    """One line of results.csv."""

    category: str
    """The category of the instance."""
    network: str
    """The path of the network."""
    prop: str
    """The path of the property."""
    prepare: float
    """The seconds spent opening network and property."""
    verdict: str
    """The verdict."""
    seconds: float
    """The seconds spent until the verdict."""

    def fields(self) -> list[str]:
        """The fields as text, in order."""
        return [
            self.category,
            self.network,
            self.prop,
            f"{self.prepare:.3f}",
            self.verdict,
            f"{self.seconds:.3f}",
        ]


def read_instances(path: Path) -> list[Instance]:
    """Reads a CSV of instances: network, property and seconds on each line, or named columns under a header.

    Raises UserError, with the line number, for any other line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise UserError(f"'{path}' lists no instances")
    header = _header(lines[0][1])
    names = header or {"network": 0, "property": 1, "timeout": 2}
    return [_instance(path, number, row, names) for number, row in lines[1 if header else 0 :]]


def _header(row: Sequence[str]) -> dict[str, int]:
    """The positions of the named columns; empty if the row is not a header."""
    found = {name: row.index(alias) for name, aliases in ALIASES.items() for alias in aliases if alias in row}
    if not {"network", "property"} <= set(found):
        return {}
    return found | ({"expected": row.index("expected")} if "expected" in row else {})


def _instance(path: Path, number: int, row: Sequence[str], names: Mapping[str, int]) -> Instance:
    if max(names["network"], names["property"]) >= len(row):
        raise UserError(
            f"'{path}', line {number}: expected network,property,seconds; got {','.join(row)[:80]!r}"
        )
    at = {name: row[k].strip() for name, k in names.items() if k < len(row)}
    try:
        timeout = float(at["timeout"]) if at.get("timeout") else None
    except ValueError:
        timeout = float("nan")
    if timeout is not None and not timeout >= 0:
        raise UserError(f"'{path}', line {number}: {at['timeout']!r} is not a number of seconds")
    return Instance(at["network"], at["property"], timeout, at.get("expected", ""))


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """Replaces results.csv in `folder`: one line for each result, without a header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(result.fields() for result in results)
    write_atomically(folder / RESULTS, text.getvalue())


def read_results(folder: Path) -> list[Result]:
    """Reads results.csv in `folder`; returns no results if there is no such file. Raises UserError for another file."""
    path = folder / RESULTS
    if not path.exists():
        return []
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [Result(row[0], row[1], row[2], float(row[3]), row[4], float(row[5])) for row in rows]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(f"cannot continue '{path}': it contains no results of this command") from error


def instance_name(network: str, prop: str) -> str:
    """The name NETWORK_PROPERTY, without suffixes."""
    stems = []
    for name, suffix in ((network, ".onnx"), (prop, ".vnnlib")):
        base = Path(name).name.removesuffix(".gz")
        stems.append(base.removesuffix(suffix))
    return "_".join(stems)


def counterexample_text(found: Counterexample) -> str:
    """The text ((X_0 value) … (Y_0 value) …), one variable per line, each value with all digits that identify it."""
    values = [(f"X_{i}", repr(float(v))) for i, v in enumerate(found.inputs)]
    values += [(f"Y_{j}", repr(float(v))) for j, v in enumerate(found.outputs)]
    return "(" + "\n ".join(f"({name} {value})" for name, value in values) + ")\n"
