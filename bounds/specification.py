"""Specifications C [N, S, K]: the linear forms C·f(x') of the output whose lower bounds are computed."""

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
    """Return the specification of the margins f_y − f_j for every class j ≠ y, in ascending j.

    labels [N]: the class y of each image, integers in [0, classes).  classes: K.  dtype: torch's default dtype if None.
    Returns [N, K − 1, K].
    Raises InvalidInput for a label outside of [0, classes).

    >>> import torch
    >>> import bounds
    >>> bounds.margins(torch.tensor([1]), classes=3)
    tensor([[[-1.,  1.,  0.],
             [ 0.,  1., -1.]]])
    """
    labels = _checked(labels, classes, "labels")
    eye = torch.eye(classes, dtype=dtype or torch.get_default_dtype(), device=labels.device)
    differences = eye[labels].unsqueeze(1) - eye
    others = torch.arange(classes, device=labels.device).expand(len(labels), -1) != labels.unsqueeze(1)
    return differences[others].reshape(len(labels), classes - 1, classes)


def targeted(labels: Tensor, targets: Tensor, classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the specification of one margin f_y − f_t per image.

    labels, targets [N]: the classes y and t of each image, integers in [0, classes).  classes: K.  dtype: torch's
    default dtype if None.
    Returns [N, 1, K].
    Raises InvalidInput for a label or target outside of [0, classes).
    """
    labels, targets = _checked(labels, classes, "labels"), _checked(targets, classes, "targets")
    eye = torch.eye(classes, dtype=dtype or torch.get_default_dtype(), device=labels.device)
    return (eye[labels] - eye[targets]).unsqueeze(1)


def logits(images: int, classes: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the specification of every output f_k.

    images: N.  classes: K.  dtype: torch's default dtype if None.
    Returns [N, K, K].
    """
    return torch.eye(classes, dtype=dtype or torch.get_default_dtype()).expand(images, classes, classes)
