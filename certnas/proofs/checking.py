"""A certificate file against a model: the network is extracted, compared with the model, and handed to the checker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bounds
from certnas.checker import Certificate, Checked, Rejected, check, enclosure
from certnas.errors import UserError
from certnas.proofs.extract import plain
from certnas.proofs.files import read

FAITHFUL = 1e-4
"""The extracted network's logits may differ from the model's own, in its own precision, by this share of their size."""


@dataclass(frozen=True)
class Verdict:
    """A proved certificate: label beats each class of `beaten`, on the ball of radius eps; None where rows say else."""

    certificate: Certificate
    checked: Checked
    label: int | None
    beaten: tuple[int, ...]


def check_file(path: Path, model: nn.Module, *, exact: bool | None = None) -> Verdict:
    """Proves a certificate file for the model, by `certnas.checker`.

    Raises UserError for a file that cannot be read or a network that the checker does not know, and Rejected where
    the certificate proves nothing about this model.
    """
    if not path.is_file():
        raise UserError(f"cannot read '{path}': no such file; give a certificate, image-….npz")
    try:
        certificate = read(path)
    except ValueError as error:
        raise Rejected(f"'{path.name}': {error}") from error
    tensors = [p for p in model.parameters() if p.is_floating_point()]
    x = torch.from_numpy(certificate.x)[None].to(tensors[0].dtype if tensors else torch.float32)
    try:
        with torch.no_grad():
            logits = model(x)[0].double().numpy()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise Rejected(f"the model cannot be evaluated on the certificate's image: {reason}") from error
    network = plain(bounds.trace(model, x).bind(dtype=torch.float64)).network
    low, high = enclosure(network, certificate.x)
    slack = FAITHFUL * (1 + np.abs(logits).max())
    if logits.shape != low.shape or not (
        (low <= logits + slack).all() and (logits - slack <= high).all() and (high - low <= slack).all()
    ):
        raise UserError("the extracted network does not evaluate to what the model does: please report")
    return Verdict(certificate, check(certificate, network, exact=exact), *_meaning(certificate.rows))


def image_shape(files: Sequence[Path]) -> tuple[int, ...] | None:
    """The shape of the image of the first certificate that can be read; None where none can."""
    for path in files:
        try:
            return read(path).x.shape
        except ValueError:
            continue
    return None


def _meaning(rows: np.ndarray) -> tuple[int | None, tuple[int, ...]]:
    """(y, the other classes) where every row is f_y − f_j."""
    best, worst = rows.argmax(1), rows.argmin(1)
    eye = np.eye(rows.shape[1])
    if (best == best[0]).all() and np.array_equal(rows, eye[best] - eye[worst]) and (worst != best).all():
        return int(best[0]), tuple(int(j) for j in worst)
    return None, ()
