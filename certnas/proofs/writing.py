"""Writes a folder of certificates, one file for each certified image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.certifier import Certificates
from certnas.certifier.request import TARGETS, Box, chosen
from certnas.checker import Certificate
from certnas.errors import UserError
from certnas.proofs.assured import assured
from certnas.proofs.claims import covers, digest
from certnas.proofs.extract import plain
from certnas.proofs.images import certificate_of
from certnas.proofs.properties import Uncertified, certificates_of
from certnas.proofs.reading import array
from certnas.runs import versions, write_atomically
from certnas.verifier.proof import Proof
from certnas.verifier.property import Property

SHRINKS = 8
"""How often a radius is tried: a proof moved outward may need a smaller radius, (1 − tol·2^k) less at attempt k."""


@dataclass(frozen=True)
class Written:
    """The certificate of one image."""

    index: int
    """The index of the image."""
    path: Path | None
    """The file; None if none was written."""
    eps: float
    """The radius that the file proves, in input units."""
    radius: float
    """The radius that was requested, in input units."""
    why: str = ""
    """The reason why there is no file."""


def with_files(certificates: Certificates, written: Sequence[Written]) -> Certificates:
    """The certificates with file names, and with the radii that the files prove, which may be slightly smaller."""
    files = {one.index: one for one in written if one.path is not None}
    own = [files.get(index) for index in certificates.index.tolist()]
    radius = [
        r if one is None else one.eps for r, one in zip(certificates.radius_lower.tolist(), own, strict=True)
    ]
    proof = tuple("" if one is None or one.path is None else one.path.name for one in own)
    return replace(certificates, radius_lower=np.array(radius), proof=proof)


def open_folder(folder: Path) -> None:
    """Creates a folder for certificates. Raises UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error


class Writer:
    """Writes the certificates of one model's images.

    A file proves the certified radius by CROWN, or by α-CROWN if that was the method, whichever method found the
    radius. If this fails, a slightly smaller radius is proved, and the file states it. A radius that branch and bound
    raised is proved by the record of that search. Every file is checked before it is kept.

    model: the network, traced on example [1, *shape]. folder: where files are written.
    method, clip, targets, seed, tol, memory: the arguments of `certify`.
    about: statements that the files store without proof.
    Raises UserError for an operator that the checker lacks, or a folder that cannot be written.
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
        """Writes one file for each image whose radius is above 0.

        x, y: the images [N, *shape] and labels [N] of `certificates`.
        proofs: the proofs of radii that branch and bound raised, by position.
        Returns one entry for each of these images.
        """
        done = []
        for at in np.flatnonzero(certificates.radius_lower > 0).tolist():
            index, radius = int(certificates.index[at]), float(certificates.radius_lower[at])
            about = self._about(x[at : at + 1], y[at : at + 1], certificates, at)
            eps, data = self._raised(radius, (proofs or {}).get(at), about)
            path, why = None, "no CROWN proof"
            if data is None:
                try:
                    eps, data = self._certificate(x[at : at + 1], y[at : at + 1], certificates, at, about)
                except ValueError as error:
                    eps, why = 0.0, str(error)
            if data is not None:
                path = self.folder / f"image-{index:06d}.npz"
                write_atomically(path, data)
            done.append(Written(index, path, eps, radius, why if path is None else ""))
        return done

    def _raised(
        self, radius: float, proof: Proof | None, about: Mapping[str, object]
    ) -> tuple[float, bytes | None]:
        """The file of a radius that branch and bound raised; None if its proof cannot be written."""
        if proof is None:
            return 0.0, None
        made = plain(proof.problem.network)
        try:
            data = assured(
                lambda slack: certificates_of(made, proof, memory=self.memory, slack=slack, about=about),
                made.network,
            )
        except (Uncertified, ValueError):
            return 0.0, None
        return radius, data

    def _about(self, x: Tensor, y: Tensor, of: Certificates, at: int) -> dict[str, object]:
        image = digest(array(x[0]))
        known = {"index": int(of.index[at]), "image": image, "label": int(y), "method": of.method}
        return {**known, "versions": versions(), **self.about}

    def _certificate(
        self, x: Tensor, y: Tensor, of: Certificates, at: int, about: Mapping[str, object]
    ) -> tuple[float, bytes | None]:
        """The radius that a file proves, at most the image's own, and the file; None if no proof is found.

        Raises ValueError if a file would be too large.
        """
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
        kept: dict[str, Any] = {"memory": self.memory, "about": about}
        for attempt in range(SHRINKS):
            region = bounds.NORMS[of.norm](x, radius, *box)

            def made(slack: float, region: bounds.Region = region) -> list[Certificate] | None:
                asked = (self.network, self.plain, region, rows, self.method)
                found = certificate_of(*asked, slack=slack, **kept)
                return None if found is None else [found]

            data = assured(made, self.plain.network)
            if data is not None:
                return radius, data
            radius *= max(1 - self.tol * 2**attempt, 0.5)
        return 0.0, None


def write_proof(
    path: Path,
    prop: Property,
    proof: Proof,
    *,
    memory: int | None = None,
    about: Mapping[str, object] | None = None,
) -> int:
    """Writes the certificates of a proved property, one for each of its boxes, into one file; returns its size in
    bytes.

    path: the file. prop: the property. proof: the record of its proof. memory: the budget in bytes.
    about: statements that the certificates store without proof.
    Raises Uncertified, with the reason in one line, if the proof cannot be written, and UserError for an operator
    that the checker lacks.
    """
    if prop.relational:
        raise Uncertified("the property relates outputs to inputs; a certificate is about outputs over a box")
    statements = {"versions": versions(), **(about or {})}
    made = plain(proof.problem.network)

    def found(slack: float) -> list[Certificate]:
        certificates = certificates_of(made, proof, memory=memory, slack=slack, about=statements)
        if not covers(certificates, prop):
            raise Uncertified("a coefficient of the property is not a float64 number")
        return certificates

    try:
        data = assured(found, made.network)
    except ValueError as error:
        raise Uncertified(str(error)) from error
    if data is None:
        raise Uncertified("its own check fails: the rounding exceeds the margin of the proof")
    write_atomically(path, data)
    return len(data)
