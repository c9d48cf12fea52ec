"""Compares a results.csv with its certificates and with the images of the data set."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from certnas.certifier.certificates import COLUMNS
from certnas.checker import Rejected
from certnas.data import Dataset
from certnas.errors import UserError
from certnas.proofs.claims import Claim, digest

MOST_BYTES = 1 << 28
"""The largest size of a results.csv."""
CERTIFIED = "certified"
"""The status of an image whose radius is proved."""


@dataclass(frozen=True)
class ResultRow:
    """One line of results.csv."""

    index: int
    """The index of the image."""
    label: int
    """The label."""
    prediction: int
    """The predicted class."""
    target: int | None
    """The target class; None for all classes."""
    norm: str
    """The name of the norm."""
    radius: float
    """The certified radius, in input units."""
    status: str
    """The status of the image."""
    certificate: str
    """The file name of the certificate; empty if there is none."""


def read_rows(path: Path) -> list[ResultRow]:
    """Reads the lines of a results.csv. Raises UserError for another file, and Rejected for a malformed line."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"cannot read {path}: it is larger than {MOST_BYTES} bytes")
        lines = csv.DictReader(io.StringIO(path.read_text()))
        given = list(lines)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; give the results.csv of certnas certify") from error
    if tuple(lines.fieldnames or ()) != COLUMNS:
        raise UserError(
            f"{path} is not a results.csv of certnas certify; its columns are {','.join(COLUMNS)}"
        )
    rows = []
    for number, line in enumerate(given, 2):
        try:
            rows.append(_row(line))
        except (ValueError, TypeError, KeyError) as error:
            raise Rejected(f"line {number} cannot be read: {error}") from error
    return rows


def _row(line: Mapping[str, str]) -> ResultRow:
    radius = float(line["radius_lower"])
    if not 0 <= radius < math.inf:
        raise ValueError(f"the radius is {radius}")
    return ResultRow(
        index=int(line["index"]),
        label=int(line["label"]),
        prediction=int(line["prediction"]),
        target=int(line["target"]) if line["target"] else None,
        norm=line["norm"],
        radius=radius,
        status=line["status"],
        certificate=line["certificate"],
    )


def held_image(index: object, claim: Claim, data: Dataset) -> None:
    """Raises Rejected unless a claim is about image `index` of a data set and its label."""
    at = _places(data).get(index) if isinstance(index, int) else None
    if at is None:
        raise Rejected(f"it says that it is about image {index!r}, which {data.name} does not have")
    if claim.image != digest(data.x[at].double().numpy()):
        raise Rejected(f"its image is not image {index} of {data.name}")
    if claim.label != int(data.y[at]):
        raise Rejected(f"it proves class {claim.label}, and image {index} is labelled {int(data.y[at])}")


def held_rows(
    rows: Sequence[ResultRow], files: Mapping[str, Claim | None], data: Dataset
) -> Iterator[tuple[int, str]]:
    """Yields the lines that their certificates do not prove for the images of a data set, as (line, reason).

    rows: the lines. files: the proved claim of each certificate file, None for a rejected one. data: the data set.
    """
    places, seen = _places(data), set[int]()
    for number, row in enumerate(rows, 2):
        try:
            if row.index in seen:
                raise Rejected(f"image {row.index} occurs twice")
            seen.add(row.index)
            _held_row(row, files, places, data)
        except Rejected as error:
            yield number, str(error)
    for name in sorted(set(files) - {row.certificate for row in rows}):
        yield 0, f"no line names the certificate {name}"


def _held_row(
    row: ResultRow, files: Mapping[str, Claim | None], places: Mapping[object, int], data: Dataset
) -> None:
    at = places.get(row.index)
    if at is None:
        raise Rejected(f"{data.name} has no image {row.index}")
    if row.label != int(data.y[at]):
        raise Rejected(f"image {row.index} is labelled {int(data.y[at])}, not {row.label}")
    if not row.certificate:
        if row.radius > 0:
            raise Rejected(f"its radius {row.radius} has no certificate")
        if row.status == CERTIFIED:
            raise Rejected(f"it says {CERTIFIED}, and has no certificate")
        return
    if row.certificate not in files:
        raise Rejected(f"its certificate {row.certificate} is missing")
    claim = files[row.certificate]
    if claim is None:
        raise Rejected(f"its certificate {row.certificate} is rejected")
    if claim.image != digest(data.x[at].double().numpy()):
        raise Rejected(f"its certificate {row.certificate} is about another image than {row.index}")
    others = tuple(c for c in range(claim.classes) if c != row.label)
    beaten = others if row.target is None else (row.target,)
    for what, mine, proved in (
        ("label", row.label, claim.label),
        ("prediction", row.prediction, claim.label),
        ("norm", row.norm, claim.norm),
        ("radius", row.radius, claim.eps),
        ("status", row.status, CERTIFIED),
        ("classes that cannot win", beaten, claim.beaten),
    ):
        if mine != proved:
            raise Rejected(f"its {what}: {mine}; {row.certificate} proves {proved}")


def _places(data: Dataset) -> dict[object, int]:
    return {int(index): at for at, index in enumerate(data.index.tolist())}
