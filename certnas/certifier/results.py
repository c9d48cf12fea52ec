"""A folder of results that survives a kill: results.json and results.csv are each replaced as a whole."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from certnas.certifier.certificates import (
    COLUMNS,
    REAL,
    TEXTS,
    WHOLE,
    Certificates,
    csv_text,
    json_text,
)
from certnas.certifier.soundness import Evidence
from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.runs import finite, open_folder, refuse_changes, versions, write_atomically

JSON, CSV, EVIDENCE = "results.json", "results.csv", "evidence.npz"


def keep_evidence(folder: Path, evidence: Evidence) -> Path:
    """Saves the evidence of a contradiction as evidence.npz in `folder`; returns the path."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **evidence.arrays())
    write_atomically(folder / EVIDENCE, buffer.getvalue())
    return folder / EVIDENCE


def read_json(path: Path) -> tuple[dict[str, Any], Certificates | None]:
    """Reads a results.json; returns the configuration, and the certificates, None if there are none yet.

    Raises UserError if the file cannot be read or is damaged.
    """
    try:
        record = parse_json(path.read_text())
        config, images = record["config"], record["images"]
        if not images:
            return config, None
        for image in images:
            image["radius_upper"] = math.inf if image["radius_upper"] is None else image["radius_upper"]
        columns: dict[str, Any] = {name: tuple(_column(images, name, str)) for name in TEXTS}
        columns |= {name: np.array(_column(images, name, int), dtype=np.int64) for name in WHOLE}
        columns |= {name: np.array(_column(images, name, float), dtype=np.float64) for name in REAL}
        notes, named = tuple(record["notes"]), (record["norm"], record["method"])
        if not all(isinstance(text, str) for text in (*notes, *named)):
            raise ValueError("its notes, norm or method are not text")
        return config, Certificates(norm=named[0], method=named[1], notes=notes, **columns)
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; choose another folder") from error


def _column(images: Sequence[Mapping[str, Any]], name: str, kind: type) -> list[Any]:
    """One value per image; an integer may stand for a float. Raises ValueError for a value of another type."""
    values = [image[name] for image in images]
    kinds = (int, float) if kind is float else (kind,)
    if not all(type(value) in kinds for value in values):
        raise ValueError(f"{name} is not {kind.__name__} for every image")
    return values


@dataclass
class Folder:
    """The results of one run, written to disk after each batch."""

    path: Path
    """The folder."""
    config: dict[str, Any]
    """The configuration of the run."""
    index: Sequence[int]
    """The indices of all images of the run, in order."""
    done: Certificates | None = None
    """The certificates so far, in the order of `index`; None before the first batch."""

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], index: Sequence[int], *, resume: bool) -> "Folder":
        """Opens a folder for the images `index`; when resuming, reads the results that it holds.

        Raises UserError if the folder cannot be written, if it holds results and `resume` is false, or if it holds
        results of another configuration or of other images.
        """
        plain = json.loads(json.dumps(finite(dict(config))))
        open_folder(path)
        record = path / JSON
        if not record.exists():
            folder = cls(path, plain, index)
            folder._write()
            return folder
        if not resume:
            raise UserError(
                f"{path} already holds results; continue them with --resume or choose another --out"
            )
        before, done = read_json(record)
        refuse_changes(path, before, plain)
        if done is not None and not set(done.index.tolist()) <= set(index):
            raise UserError(f"cannot resume {path}: it holds other images; choose another --out")
        return cls(path, plain, index, done)

    def left(self) -> list[int]:
        """The positions in `index` of the images that are not certified yet."""
        done = set() if self.done is None else set(self.done.index.tolist())
        return [at for at, name in enumerate(self.index) if name not in done]

    def append(self, batch: Certificates) -> None:
        """Adds the certificates of a batch and writes them to disk."""
        parts = [batch] if self.done is None else [self.done, batch]
        self.done = Certificates.join(parts).ordered(self.index)
        self._write()

    def finish(self, at: Sequence[float]) -> None:
        """Writes the summary at the radii `at` into results.json."""
        self._write(at)

    def _write(self, at: Sequence[float] = ()) -> None:
        if self.done is None:
            record = {"config": self.config, "versions": versions(), "notes": [], "images": []}
            write_atomically(self.path / JSON, json.dumps(record, indent=1) + "\n")
            write_atomically(self.path / CSV, ",".join(COLUMNS) + "\n")
        else:
            write_atomically(self.path / JSON, json_text(self.done, at=at, config=self.config))
            write_atomically(self.path / CSV, csv_text(self.done))
