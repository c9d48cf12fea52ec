"""Certified radii of the first images of a data set, stored batch by batch in a record."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bounds
import certnas
from benchmarks.record import Record, measured

Batch = tuple[int, int]


@dataclass(frozen=True)
class Question:
    """A certification task: a network's images, a norm, a method, targets, and a box or none.

    `method` is the label of `by` in the record.
    """

    network: str
    norm: str
    method: str
    by: bounds.Method
    targets: str = "all"
    clip: tuple[float, float] | None = (0.0, 1.0)

    @property
    def key(self) -> str:
        box = "box" if self.clip else "no box"
        return " | ".join((self.network, self.norm, self.method, self.targets, box))


def batches(sizes: int, count: int, first: int = 0) -> Iterator[Batch]:
    """Intervals (from, to) that cover the images `first` to `count`."""
    return ((start, min(start + sizes, count)) for start in range(first, count, sizes))


def certify_batch(
    record: Record, question: Question, model: nn.Module, x: Tensor, y: Tensor, batch: Batch
) -> None:
    """Certify images batch[0] … batch[1] − 1 of x [N, *shape], y [N], unless the record has them."""
    record.once(f"{question.key} | {batch[0]}", partial(_certify, question, model, x, y, batch))


def _certify(question: Question, model: nn.Module, x: Tensor, y: Tensor, batch: Batch) -> dict[str, Any]:
    rows = slice(*batch)
    with measured() as cost:
        found = certnas.certify(
            model,
            x[rows],
            y[rows],
            question.norm,
            method=question.by,
            targets=question.targets,
            clip=question.clip,
            attack=False,
            batch_size=batch[1] - batch[0],
            index=range(*batch),
        )
    return {
        "radius": [float(r) for r in found.radius_lower],
        "correct": [bool(c) for c in found.correct],
        "status": list(found.status),
        "evaluations": float(found.evaluations.mean()),
        "seconds": cost.seconds,
        "cpu_seconds": cost.cpu_seconds,
        "peak_gib": cost.peak_gib,
    }


@dataclass(frozen=True)
class Found:
    """Radii [N] and correctness [N] of the certified images, from the first one on, and the time for all of them."""

    radius: np.ndarray
    correct: np.ndarray
    seconds: float
    cpu_seconds: float

    def first(self, count: int) -> "Found":
        """The first images; the times remain those of all."""
        return Found(self.radius[:count], self.correct[:count], self.seconds, self.cpu_seconds)

    def mean(self, *, over_all: bool = False) -> float:
        """The mean radius over correctly classified images, or over all images with 0 for misclassified ones."""
        chosen = self.radius if over_all else self.radius[self.correct]
        return float(chosen.mean()) if len(chosen) else float("nan")


def collect(record: Record, question: Question) -> Found | None:
    """The record's results for a question; None if there are none."""
    parts, start = [], 0
    while (entry := record.entries.get(f"{question.key} | {start}")) is not None:
        parts.append(entry)
        start += len(entry["radius"])
    if not parts:
        return None
    return Found(
        np.array([r for part in parts for r in part["radius"]]),
        np.array([c for part in parts for c in part["correct"]]),
        sum(part["seconds"] for part in parts),
        sum(part["cpu_seconds"] for part in parts),
    )


def classified(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The indices of the images x [N, *shape] that the model classifies as y [N]."""
    with torch.no_grad():
        return (model(x).argmax(1) == y).nonzero().flatten()
