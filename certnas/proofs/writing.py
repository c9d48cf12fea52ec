"""A folder of certificates, one file for each certified image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from certnas.proofs.extract import plain
from certnas.proofs.files import encode
from certnas.proofs.record import certificate_of
from certnas.runs import versions, write_atomically

SHRINKS = 8
"""A proof moved outward may need a smaller radius: (1 − tol·2^k) less at attempt k."""


@dataclass(frozen=True)
class Written:
    """One image: the file (None where no certificate came out), the radius it proves, and the radius that was asked."""

    index: int
    path: Path | None
    eps: float
    radius: float


class Writer:
    """Writes the certificates of one model's images.

    The proof is CROWN's at the certified radius, or α-CROWN's where that was the method, whatever method found the
    radius; where it does not reach it, a slightly smaller radius is certified, and the file says which.
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error

    def write(
        self,
        x: Tensor,
        y: Tensor,
        certificates: Certificates,
        progress: Callable[[Written], None] = lambda _: None,
    ) -> list[Written]:
        """x [N, *shape], y [N] of `certificates`; one file for each image whose radius is above 0."""
        done = []
        for at in np.flatnonzero(certificates.radius_lower > 0).tolist():
            index, radius = int(certificates.index[at]), float(certificates.radius_lower[at])
            found = self._certificate(x[at : at + 1], y[at : at + 1], certificates, at)
            path = None
            if found is not None:
                path = self.folder / f"image-{index:06d}.npz"
                write_atomically(path, encode(found))
            done.append(Written(index, path, 0.0 if found is None else found.eps, radius))
            progress(done[-1])
        return done

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
        about = {"index": index, "label": int(y), "method": of.method, "versions": versions(), **self.about}
        radius = float(of.radius_lower[at])
        box = (None, None) if self.clip is None else self.clip
        for attempt in range(SHRINKS):
            region = NORMS[of.norm].ball(x, radius, *box)
            found = certificate_of(
                self.network, self.plain, region, rows, self.method, memory=self.memory, about=about
            )
            if found is not None:
                return found
            radius *= max(1 - self.tol * 2**attempt, 0.5)
        return None
