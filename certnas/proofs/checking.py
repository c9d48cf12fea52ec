"""A file of certificates against a model: the network is extracted, compared with the model, handed to the checker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bounds
from certnas.checker import Certificate, Known, Network, Rejected, check
from certnas.errors import UserError
from certnas.proofs.claims import claim_of, covers
from certnas.proofs.extract import plain
from certnas.proofs.files import read
from certnas.verify.property import Property

FAITHFUL = 1e-4
"""The extracted network's logits may differ from the model's own, in its own precision, by this share of their size."""
EXACT_WORK = 1_000_000
"""`exact_work` up to which integers are used where the caller does not say."""


@dataclass(frozen=True)
class Checked:
    """Proved certificates: claim in words, the least bound of a clause, leaves of the tree, and by which arithmetic."""

    certificates: Sequence[Certificate]
    claim: str
    least: float
    leaves: int
    exact: bool


def check_file(
    path: Path, model: nn.Module, *, exact: bool | None = None, prop: Property | None = None
) -> Checked:
    """Proves a file of certificates for the model, by `certnas.checker`, and, where one is given, that they prove prop.

    exact: in integers, in float64, or (None) in integers where that is quick.  Raises UserError for a file that cannot
    be read or a network that the checker does not know, and Rejected where nothing is proved about this model.
    """
    if not path.is_file():
        raise UserError(f"cannot read '{path}': no such file; give a certificate, an .npz")
    try:
        certificates = read(path)
    except ValueError as error:
        raise Rejected(f"'{path.name}': {error}") from error
    if not certificates:
        raise Rejected(f"'{path.name}': it holds no certificate")
    network = _network(certificates[0], model)
    derived, exactly = [], []
    for certificate in certificates:
        _same(network, model, certificate.x)
        exactly.append(exact_work(certificate, network) <= EXACT_WORK if exact is None else exact)
        derived.append(check(certificate, network, exact=exactly[-1]))
    if prop is not None and not covers(certificates, prop):
        raise Rejected("what it proves is not this property")
    parts = [part for certificate in certificates for part in certificate.parts]
    leaves = sum(not part.splits for part in parts)
    least = min(float(bound.min()) for bound in derived)
    return Checked(certificates, claim_of(certificates), least, leaves, all(exactly))


def image_shape(files: Sequence[Path]) -> tuple[int, ...] | None:
    """The shape of the image of the first certificate that can be read; None where none can."""
    return next((kept.x.shape for kept in _readable(files)), None)


def of_property(files: Sequence[Path]) -> bool:
    """Whether the first certificate that can be read says that it is one of a property."""
    return next(("property" in kept.about for kept in _readable(files)), False)


def _readable(files: Sequence[Path]) -> Iterator[Certificate]:
    for path in files:
        try:
            yield read(path)[0]
        except (ValueError, IndexError):
            continue


def exact_work(certificate: Certificate, network: Network) -> int:
    """Rows times units: what a check in integers costs grows with it."""
    steps = [step for part in certificate.parts for step in part.steps if step.planes]
    rows = sum(2 * step.lower.size for step in steps) + len(certificate.parts)
    return rows * sum(prod(node.shape) for node in network.nodes.values())


def _network(certificate: Certificate, model: nn.Module) -> Network:
    """The checker's network of a model that takes the certificate's images."""
    x = _image(certificate.x, model)
    try:
        with torch.no_grad():
            model(x)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise Rejected(f"the model cannot be evaluated on the certificate's image: {reason}") from error
    return plain(bounds.trace(model, x).bind(dtype=torch.float64)).network


def _image(x: np.ndarray, model: nn.Module) -> torch.Tensor:
    tensors = [p for p in [*model.parameters(), *model.buffers()] if p.is_floating_point()]
    return torch.from_numpy(x)[None].to(tensors[0].dtype if tensors else torch.float32)


def _same(network: Network, model: nn.Module, x: np.ndarray) -> None:
    """Raises UserError where the extracted network's outputs are not the model's own."""
    given = _image(x, model)
    with torch.no_grad():
        logits = model(given)[0].double().numpy()
    x = given[0].double().numpy()
    point = Certificate(network.output, "linf", x, 0.0, (x, x), x, x, (), {}, {})
    low, high = (side[0] for side in Known(point, network, exact=False).box(network.output))
    slack = FAITHFUL * (1 + np.abs(logits).max())
    if logits.shape != low.shape or not (
        (low <= logits + slack).all() and (logits - slack <= high).all() and (high - low <= slack).all()
    ):
        raise UserError("the extracted network does not evaluate to what the model does: please report")
