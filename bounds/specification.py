"""Rows: the linear forms of the output that a bound is asked for, [N, S, K]."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InvalidInput


def _checked(labels: Tensor, classes: int, name: str) -> Tensor:
    labels = labels.long()
    if labels.dim() != 1 or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        raise InvalidInput(
            f"rows: {name} must be [N] of numbers in [0, {classes}), got {labels.tolist()[:8]}"
        )
    return labels


def margins(labels: Tensor, classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """f_y − f_j for every j ≠ y, in ascending j.  labels [N] -> [N, K − 1, K].  Raises InvalidInput for a bad label."""
    labels = _checked(labels, classes, "labels")
    eye = torch.eye(classes, dtype=dtype or torch.get_default_dtype(), device=labels.device)
    every = eye[labels].unsqueeze(1) - eye
    others = torch.arange(classes, device=labels.device).expand(len(labels), -1) != labels.unsqueeze(1)
    return every[others].reshape(len(labels), classes - 1, classes)


def targeted(labels: Tensor, targets: Tensor, classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """f_y − f_t.  labels, targets [N] -> [N, 1, K].  Raises InvalidInput for a bad label."""
    labels, targets = _checked(labels, classes, "labels"), _checked(targets, classes, "targets")
    eye = torch.eye(classes, dtype=dtype or torch.get_default_dtype(), device=labels.device)
    return (eye[labels] - eye[targets]).unsqueeze(1)


def logits(images: int, classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Every f_k.  [N, K, K]"""
    return torch.eye(classes, dtype=dtype or torch.get_default_dtype()).expand(images, classes, classes)
