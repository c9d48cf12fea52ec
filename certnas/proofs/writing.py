"""A folder of certificates, one file for each certified image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import bounds
from certnas.certifier import Certificates
from certnas.certifier.request import NORMS, TARGETS, Box, chosen
from certnas.checker import Certificate
from certnas.errors import UserError
from certnas.proofs.claims import covers
from certnas.proofs.extract import plain
from certnas.proofs.files import encode
from certnas.proofs.images import certificate_of
from certnas.proofs.properties import Uncertified, certificates_of
from certnas.runs import versions, write_atomically
from certnas.verify.proof import Proof
from certnas.verify.property import Property

SHRINKS = 8
"""A proof moved outward may need a smaller radius: (1 − tol·2^k) less at attempt k."""


@dataclass(frozen=True)
class Written:
    """One image: the file (None where no certificate came out), the radius it proves, and the radius that was asked."""

    index: int
    path: Path | None
    eps: float
    radius: float


def open_folder(folder: Path) -> None:
    """Makes a folder for certificates.  Raises UserError where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error


class Writer:
    """Writes the certificates of one model's images.

    The proof is CROWN's at the certified radius, or α-CROWN's where that was the method, whatever method found the
    radius; where it does not reach it, a slightly smaller radius is certified, and the file says which.  Of a radius
    that branch and bound raised it is that search's own proof.
    Raises UserError for a network with an operator that the checker lacks, or a folder that cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        folder: Path,
        *,
        method: bounds.Method,
        clip: Box | None,
        targets: str = "all",
        seed: int = 0,
        tol: float = 1e-3,
        memory: int | None = None,
        about: Mapping[str, object] | None = None,
    ) -> None:
        self.network = bounds.trace(model, example[:1]).bind(dtype=torch.float64, device=example.device)
        self.plain = plain(self.network)
        self.target = chosen("targets", targets, TARGETS)
        alpha = isinstance(method, bounds.AlphaCrown)
        self.method = method if alpha else bounds.Crown(method.slope)
        self.folder, self.clip, self.seed, self.tol, self.memory = folder, clip, seed, tol, memory
        self.about = dict(about or {})
        open_folder(folder)

    def write(
        self,
        x: Tensor,
        y: Tensor,
        certificates: Certificates,
        proofs: Mapping[int, Proof] | None = None,
    ) -> list[Written]:
        """x [N, *shape], y [N] of `certificates`; one file for each image whose radius is above 0.

        proofs: of radii that branch and bound raised, by their places.
        """
        done = []
        for at in np.flatnonzero(certificates.radius_lower > 0).tolist():
            index, radius = int(certificates.index[at]), float(certificates.radius_lower[at])
            found = self._raised(y[at : at + 1], certificates, at, (proofs or {}).get(at))
            if found is None:
                found = self._certificate(x[at : at + 1], y[at : at + 1], certificates, at)
            path = None
            if found is not None:
                path = self.folder / f"image-{index:06d}.npz"
                write_atomically(path, encode([found]))
            done.append(Written(index, path, 0.0 if found is None else found.eps, radius))
        return done

    def _raised(self, y: Tensor, of: Certificates, at: int, proof: Proof | None) -> Certificate | None:
        """The certificate of a radius that branch and bound raised; None where its proof cannot be written."""
        if proof is None:
            return None
        try:
            (found,) = certificates_of(
                plain(proof.problem.network), proof, memory=self.memory, about=self._about(y, of, at)
            )
        except Uncertified:
            return None
        return found

    def _about(self, y: Tensor, of: Certificates, at: int) -> dict[str, object]:
        known = {"index": int(of.index[at]), "label": int(y), "method": of.method}
        return {**known, "versions": versions(), **self.about}

    def _certificate(self, x: Tensor, y: Tensor, of: Certificates, at: int) -> Certificate | None:
        index = int(of.index[at])
        x = x.detach().to(self.network.device, torch.float64)
        y = y.detach().to(self.network.device, torch.long)
        classes = self.network.graph.output_shape[0]
        rows = bounds.margins(y, classes, dtype=torch.float64)
        if self.target is not None:
            with torch.no_grad():
                target = self.target(self.network(x), y, [index], self.seed)
            rows = bounds.targeted(y, target, classes, dtype=torch.float64)
        radius = float(of.radius_lower[at])
        box = (None, None) if self.clip is None else self.clip
        for attempt in range(SHRINKS):
            region = NORMS[of.norm].ball(x, radius, *box)
            found = certificate_of(
                self.network,
                self.plain,
                region,
                rows,
                self.method,
                memory=self.memory,
                about=self._about(y, of, at),
            )
            if found is not None:
                return found
            radius *= max(1 - self.tol * 2**attempt, 0.5)
        return None


def write_proof(
    path: Path,
    prop: Property,
    proof: Proof,
    *,
    memory: int | None = None,
    about: Mapping[str, object] | None = None,
) -> int:
    """Writes the certificates of a property that was proved, one for each of its boxes, into one file; its bytes.

    Raises Uncertified, with the reason in one line, where there is no certificate of this proof, and UserError for a
    network with an operator that the checker lacks.
    """
    if prop.relational:
        raise Uncertified(
            "the property relates outputs to inputs; a certificate speaks of outputs over a box"
        )
    told = {"versions": versions(), **(about or {})}
    found = certificates_of(plain(proof.problem.network), proof, memory=memory, about=told)
    if not covers(found, prop):
        raise Uncertified("a coefficient of the property is no float64 number")
    try:
        data = encode(found)
    except ValueError as error:
        raise Uncertified(str(error)) from error
    write_atomically(path, data)
    return len(data)
