"""What was proved: values, and the figures one quotes."""

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
WHOLE = ("index", "label", "prediction", "target", "evaluations")
REAL = ("radius_lower", "radius_upper", "seconds")


@dataclass(frozen=True)
class Summary:
    """The figures of a set of certificates; radii in input units, NaN where there is nothing to average."""

    images: int
    correct: int
    clean_accuracy: float
    mean_radius_correct: float
    median_radius_correct: float
    mean_radius_all: float
    median_radius_all: float
    certified_accuracy: dict[float, float]
    attacked_accuracy: dict[float, float]
    seconds_per_image: float
    sandwich_mean: float
    sandwich_median: float


@dataclass(frozen=True)
class Certificates:
    """Per image: no x' in the box with ‖x' − x‖ ≤ radius_lower is misclassified; one at radius_upper is.

    index, label, prediction, evaluations [N] int; target [N] int, the one class that the label was proved against, or
    NO_TARGET for all; radius_lower, radius_upper [N] float64 in input units, radius_upper inf where no attack ran or
    none succeeded; seconds [N].  status per image: "certified", "misclassified" (radius 0), "zero" (nothing proved) or
    "failed: why".  method: all that were used; proved_by: the one of each image; proof: the file of its certificate,
    "" for none.  notes: attacks that were left out and searches that nothing limits, one line each, sorted.
    """

    norm: str
    method: str
    proved_by: tuple[str, ...]
    proof: tuple[str, ...]
    index: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    target: np.ndarray
    radius_lower: np.ndarray
    radius_upper: np.ndarray
    status: tuple[str, ...]
    seconds: np.ndarray
    evaluations: np.ndarray
    notes: tuple[str, ...] = ()

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
        """The certificates of all `parts`, in their order; at least one, of one norm and method."""
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
        """The same, images in the order in which `index` names them; `index` may name others too."""
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
        """Whether the network classifies each image as labelled.  [N] bool"""
        return self.label == self.prediction

    def certified_accuracy(self, eps: float) -> float:
        """The share of all images proved robust at `eps`; at 0 the clean accuracy."""
        return _mean(self.correct & (self.radius_lower >= eps))

    def attacked_accuracy(self, eps: float) -> float:
        """The share of all images correct and without a known adversarial example within `eps`."""
        return _mean(self.correct & (self.radius_upper > eps))

    def summary(self, at: Sequence[float] = ()) -> Summary:
        """The figures over these images, with certified and attacked accuracy at each ε of `at`."""
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
        """Writes one row per image, atomically; columns as `COLUMNS`."""
        write_atomically(Path(path), csv_text(self))

    def to_json(self, path: str | Path) -> None:
        """Writes the certificates and their summary, atomically; infinite radii are null."""
        write_atomically(Path(path), json_text(self))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def targets(target: Tensor | None, count: int) -> np.ndarray:
    """The column `target` of `Certificates`, [count]: a class for each image, or NO_TARGET."""
    return np.full(count, NO_TARGET) if target is None else target.cpu().numpy().copy()


def csv_text(certificates: Certificates) -> str:
    """One line per image under COLUMNS; radii in input units to full precision, `inf` where there is none.

    target is empty where the label was proved against all classes, certificate where no file was written.
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
    """The certificates as JSON with their summary at the radii `at`, and `more`; null is not finite."""
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
    names = (*WHOLE, *REAL, *TEXTS)
    columns = [getattr(certificates, name) for name in names]
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
