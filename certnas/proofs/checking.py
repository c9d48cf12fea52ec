"""Checks a file of certificates against a model: reads the network from the model, compares both, and runs the
checker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from certnas import bounds
from certnas.checker import Certificate, CheckedNetwork, Rejected
from certnas.errors import UserError
from certnas.proofs.arithmetic import checked
from certnas.proofs.claims import Claim, claim, claim_of_property, covers
from certnas.proofs.extract import plain
from certnas.proofs.faithful import same
from certnas.proofs.files import read
from certnas.verifier.property import Property


@dataclass(frozen=True)
class Checked:
    """A file of certificates that was proved."""

    certificates: Sequence[Certificate]
    """The certificates."""
    claim: str
    """The proved claim in words."""
    of_image: Claim | None
    """The claim about one image; None for certificates of a property."""
    least: float
    """The smallest bound of a refuted clause."""
    leaves: int
    """The number of parts without splits."""
    exact: bool
    """Whether every certificate was checked in integers."""


def check_file(
    path: Path, model: nn.Module, *, exact: bool | None = None, prop: Property | None = None
) -> Checked:
    """Proves a file of certificates for the model and, if given, that the certificates prove a property.

    path: the file, an .npz. model: the network. prop: the property.
    exact: True for integers, False for float64. None uses integers if that is fast or if float64 proves nothing.
    Raises UserError for a file that cannot be read or a network with an operator that the checker lacks, and Rejected
    if nothing is proved about this model.
    """
    if not path.is_file():
        raise UserError(f"cannot read '{path}': no such file; give a certificate, an .npz")
    try:
        certificates = read(path)
    except ValueError as error:
        raise Rejected(f"'{path.name}': {error}") from error
    if not certificates:
        raise Rejected(f"'{path.name}': it contains no certificate")
    if any(not np.isfinite(kept.eps) for kept in certificates):
        raise Rejected("its radius is not finite")
    network = _network(certificates[0], model)
    derived, exactly = [], []
    for certificate in certificates:
        if certificate.network != network.output:
            raise Rejected(f"it is about another network: the digests differ{_written_for(certificate)}")
        bound, integers = checked(certificate, network, exact)
        same(network, model, certificate)
        derived.append(bound)
        exactly.append(integers)
    if prop is not None and not covers(certificates, prop):
        raise Rejected("it does not prove this property")
    named = prop is not None or "property" in certificates[0].about
    of_image = None if named else _of_image(certificates)
    said = claim_of_property(certificates) if of_image is None else str(of_image)
    leaves = sum(not part.splits for kept in certificates for part in kept.parts)
    least = min(float(bound.min()) for bound in derived)
    return Checked(certificates, said, of_image, least, leaves, all(exactly))


def image_shape(files: Sequence[Path]) -> tuple[int, ...] | None:
    """The image shape of the first certificate that can be read; None if there is none."""
    return next((kept.x.shape for kept in _readable(files)), None)


def of_property(files: Sequence[Path]) -> bool:
    """Whether the first certificate that can be read states that it is about a property."""
    return next(("property" in kept.about for kept in _readable(files)), False)


def _of_image(certificates: Sequence[Certificate]) -> Claim:
    """The claim of the certificate of one image. Raises Rejected if the file states another label or image."""
    if len(certificates) > 1:
        raise Rejected(f"it holds {len(certificates)} certificates; the file of an image contains one")
    (kept,) = certificates
    proved = claim(kept)
    for what, mine in (("label", proved.label), ("image", proved.image)):
        if what in kept.about and kept.about[what] != mine:
            raise Rejected(f"it says {what} {kept.about[what]!r:.80}, and proves {mine}")
    return proved


def _written_for(certificate: Certificate) -> str:
    """The statement of a certificate about the model that it was written for."""
    facts = [f"{name} {kept}" for name in ("model", "preprocessing") if (kept := certificate.about.get(name))]
    return f" (it states that it was written for {', '.join(facts):.200})" if facts else ""


def _readable(files: Sequence[Path]) -> Iterator[Certificate]:
    for path in files:
        try:
            yield read(path)[0]
        except (ValueError, IndexError):
            continue


def _network(certificate: Certificate, model: nn.Module) -> CheckedNetwork:
    """The checker's network of a model, traced on the certificate's image."""
    x = _image(certificate.x, model)
    try:
        with torch.no_grad():
            model(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Rejected(f"the model cannot be evaluated on the certificate's image: {reason}") from error
    return plain(bounds.trace(model, x).bind(dtype=torch.float64)).network


def _image(x: np.ndarray, model: nn.Module) -> torch.Tensor:
    tensors = [p for p in [*model.parameters(), *model.buffers()] if p.is_floating_point()]
    return torch.from_numpy(x)[None].to(tensors[0].dtype if tensors else torch.float32)
