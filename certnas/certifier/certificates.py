"""Certificates of a set of images, their summary, and their text as CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from certnas.runs import finite, versions, write_atomically

NO_TARGET = -1
"""The entry of column `target` for an image that was certified against all classes."""
TEXTS = ("proved_by", "proof", "status")
"""The columns of `Certificates` that are text."""
COLUMNS = (
    "index",
    "label",
    "prediction",
    "target",
    "norm",
    "method",
    "radius_lower",
    "radius_upper",
    "status",
    "certificate",
    "seconds",
)
"""The columns of the CSV text, in order."""
WHOLE = ("index", "label", "prediction", "target", "evaluations")
"""The columns of `Certificates` that hold integers."""
REAL = ("radius_lower", "radius_upper", "seconds")
"""The columns of `Certificates` that hold floats."""


@dataclass(frozen=True)
class Summary:
    """The summary of a set of certificates; radii are in input units, and a mean over no images is NaN."""

    images: int
    """The number of images."""
    correct: int
    """The number of correctly classified images."""
    clean_accuracy: float
    """The share of correctly classified images."""
    mean_radius_correct: float
    """The mean certified radius of correctly classified images."""
    median_radius_correct: float
    """The median certified radius of correctly classified images."""
    mean_radius_all: float
    """The mean certified radius of all images; misclassified images count as 0."""
    median_radius_all: float
    """The median certified radius of all images; misclassified images count as 0."""
    certified_accuracy: dict[float, float]
    """The share of images proved robust, for each ε."""
    attacked_accuracy: dict[float, float]
    """The share of images that are correct and not broken by an attack, for each ε."""
    seconds_per_image: float
    """The mean time per image, in seconds."""
    sandwich_mean: float
    """The mean of certified radius over attacked radius, over correct images that an attack broke."""
    sandwich_median: float
    """The median of the same ratio."""


@dataclass(frozen=True)
class Certificates:
    """The certified and the attacked radius of each of N images.

    No x' in the box with ‖x' − x‖ ≤ radius_lower is misclassified; some x' at distance radius_upper is.
    Arrays are read-only. Raises ValueError where the columns differ in length.
    """

    norm: str
    """The name of the norm: linf, l2 or l1."""
    method: str
    """All methods that were used."""
    proved_by: tuple[str, ...]
    """The method that proved the radius of each image."""
    proof: tuple[str, ...]
    """The file name of each image's written certificate; empty if there is none."""
    index: np.ndarray
    """The index of each image in its data set, [N] int."""
    label: np.ndarray
    """The label of each image, [N] int."""
    prediction: np.ndarray
    """The predicted class of each image, [N] int."""
    target: np.ndarray
    """The one class that the label was certified against, [N] int; NO_TARGET for all classes."""
    radius_lower: np.ndarray
    """The certified radius, [N] float64, in input units."""
    radius_upper: np.ndarray
    """The distance of the nearest adversarial example found, [N] float64, in input units; infinite if there is none.
    """
    status: tuple[str, ...]
    """"certified", "misclassified" (radius 0), "zero" (nothing was proved) or "failed: reason", for each image."""
    seconds: np.ndarray
    """The time spent on each image, [N] float64."""
    evaluations: np.ndarray
    """How many bounds the radius search computed for each image, [N] int."""
    notes: tuple[str, ...] = ()
    """Remarks, one line each, sorted: attacks that failed, and searches without a limit."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            if field.name not in ("norm", "method", "notes") and len(value) != len(self.index):
                raise ValueError(
                    f"Certificates: {field.name} has {len(value)} entries, index {len(self.index)}"
                )

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Joins the certificates of all `parts`, in their order.

        Raises ValueError unless there is at least one part and all have the same norm and method.
        """
        if len({(p.norm, p.method) for p in parts}) != 1:
            raise ValueError("Certificates.join: expected parts of one norm and method")
        columns: dict[str, Any] = {
            field.name: np.concatenate([getattr(p, field.name) for p in parts])
            for field in fields(cls)
            if field.name not in ("norm", "method", *TEXTS, "notes")
        }
        columns |= {name: tuple(text for p in parts for text in getattr(p, name)) for name in TEXTS}
        notes = tuple(sorted({n for p in parts for n in p.notes}))
        return cls(norm=parts[0].norm, method=parts[0].method, notes=notes, **columns)

    def ordered(self, index: Sequence[int]) -> Self:
        """The same certificates in the order in which `index` lists the images; `index` may list further images."""
        place = {name: at for at, name in enumerate(index)}
        order = sorted(range(len(self)), key=lambda at: place[int(self.index[at])])
        columns: dict[str, Any] = {
            field.name: getattr(self, field.name)[order]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        columns |= {name: tuple(getattr(self, name)[at] for at in order) for name in TEXTS}
        return replace(self, **columns)

    @property
    def correct(self) -> np.ndarray:
        """Whether the network classifies each image correctly, [N] bool."""
        return self.label == self.prediction

    def certified_accuracy(self, eps: float) -> float:
        """The share of all images that are proved robust at radius `eps` (input units); at 0 the clean accuracy."""
        return _mean(self.correct & (self.radius_lower >= eps))

    def attacked_accuracy(self, eps: float) -> float:
        """The share of all images that are correct and have no known adversarial example within `eps` (input units)."""
        return _mean(self.correct & (self.radius_upper > eps))

    def summary(self, at: Sequence[float] = ()) -> Summary:
        """Summarises the certificates, with certified and attacked accuracy at each radius of `at` (input units)."""
        right = self.radius_lower[self.correct]
        attacked = self.correct & np.isfinite(self.radius_upper) & (self.radius_upper > 0)
        sandwich = self.radius_lower[attacked] / self.radius_upper[attacked]
        return Summary(
            images=len(self),
            correct=int(self.correct.sum()),
            clean_accuracy=_mean(self.correct),
            mean_radius_correct=_mean(right),
            median_radius_correct=_median(right),
            mean_radius_all=_mean(self.radius_lower),
            median_radius_all=_median(self.radius_lower),
            certified_accuracy={eps: self.certified_accuracy(eps) for eps in at},
            attacked_accuracy={eps: self.attacked_accuracy(eps) for eps in at},
            seconds_per_image=_mean(self.seconds),
            sandwich_mean=_mean(sandwich),
            sandwich_median=_median(sandwich),
        )

    def to_csv(self, path: str | Path) -> None:
        """Writes one row per image to `path`, atomically; the columns are COLUMNS."""
        write_atomically(Path(path), csv_text(self))

    def to_json(self, path: str | Path) -> None:
        """Writes the certificates and their summary to `path`, atomically; an infinite radius becomes null."""
        write_atomically(Path(path), json_text(self))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def targets(target: Tensor | None, count: int) -> np.ndarray:
    """Column `target` of `Certificates` for `count` images: the given classes, or NO_TARGET.  [count]"""
    return np.full(count, NO_TARGET) if target is None else target.cpu().numpy().copy()


def csv_text(certificates: Certificates) -> str:
    """The CSV text: one line per image under COLUMNS, with radii in input units to full precision.

    An infinite radius is written as `inf`. Column target is empty for all classes; certificate is empty without a
    file.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image in _images(certificates):
        row = {
            **image,
            "norm": certificates.norm,
            "method": image["proved_by"],
            "certificate": image["proof"],
        }
        row["target"] = "" if image["target"] == NO_TARGET else image["target"]
        row["seconds"] = f"{image['seconds']:.3f}"
        writer.writerow([row[column] for column in COLUMNS])
    return text.getvalue()


def json_text(certificates: Certificates, at: Sequence[float] = (), **more: Any) -> str:
    """The certificates as JSON text, with their summary at the radii `at` and the entries `more`; non-finite values
    are null.
    """
    record = {
        **more,
        "versions": versions(),
        "norm": certificates.norm,
        "method": certificates.method,
        "summary": asdict(certificates.summary(at)),
        "notes": list(certificates.notes),
        "images": _images(certificates),
    }
    return json.dumps(finite(record), indent=1, allow_nan=False) + "\n"


def _images(certificates: Certificates) -> list[dict[str, Any]]:
    """The columns of the certificates as one table per image."""
    names = (*WHOLE, *REAL, *TEXTS)
    columns = [getattr(certificates, name) for name in names]
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
