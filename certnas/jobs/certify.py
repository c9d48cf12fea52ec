"""The job of `certnas certify`: each batch is certified, its radii are raised, and its proofs are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from certnas.certifier import Certificates
from certnas.certifier.certification import Certification, Certifier, ImageBatch
from certnas.engine import Job, Tell

if TYPE_CHECKING:
    from certnas.bounds import Network
    from certnas.proofs import Writer, Written
    from certnas.verifier.proof import Proof


class CertifiedBatch(NamedTuple):
    """The certificates of one batch, and the proofs that were written for it."""

    certificates: Certificates
    written: list[Written]


@dataclass(frozen=True)
class Tightening:
    """How radii are raised towards the attacked ones by branch and bound, see `certnas.verifier.tighten`."""

    seconds: float
    """Time limit of each image."""
    targets: str
    """The classes that the label is proved against, as `certify` was given them."""
    eps_max: float | None
    """Largest radius that is tried, in input units ([0, 1] pixels)."""
    at: tuple[float, ...]
    """Radii that are tried before others, in input units."""
    seed: int
    """Seed of the attacks."""
    memory: int | None
    """Bytes for one pass of bounds."""


@dataclass(frozen=True)
class CertifyJob(Job[ImageBatch, CertifiedBatch]):
    """Certifies batches of images, raises their radii and writes proofs, where these are asked for."""

    certification: Certification
    """How a batch is certified."""
    tightening: Tightening | None = None
    """How its radii are raised afterwards; None leaves them as they are."""
    folder: Path | None = None
    """Folder that proofs are written to; None writes none."""
    targets: str = "all"
    """The classes that the label is proved against; proofs record them."""
    about: Mapping[str, object] | None = None
    """Facts about the run that proofs record."""

    def open(self, rank: int) -> Callable[[ImageBatch, Tell], CertifiedBatch]:
        return _CertifyWorker(self, self.certification.open(rank))

    def describe(self, item: ImageBatch) -> str:
        return self.certification.describe(item)


class _CertifyWorker:
    """One process's part: it traces the network and opens the folder once, for its first batch."""

    def __init__(self, job: CertifyJob, certify: Certifier) -> None:
        self.job, self.certify = job, certify
        self.writer: Writer | None = None
        self.network: Network | None = None

    def __call__(self, batch: ImageBatch, tell: Tell) -> CertifiedBatch:
        if self.job.folder is not None:
            self.writer = self.writer or self._writer(batch, self.job.folder)
        proofs: dict[int, Proof] = {}
        certificates = self.certify(batch, tell)
        if self.job.tightening is not None:
            certificates = self._tightened(self.job.tightening, batch, certificates, proofs)
        if self.writer is None:
            return CertifiedBatch(certificates, [])
        from certnas.proofs import with_files

        written = self.writer.write(batch.x, batch.y, certificates, proofs)
        return CertifiedBatch(with_files(certificates, written), written)

    def _tightened(
        self, how: Tightening, batch: ImageBatch, certificates: Certificates, proofs: dict[int, Proof]
    ) -> Certificates:
        """The certificates with raised radii; the proof of each raised radius is added to `proofs`."""
        from certnas.verifier import network_of, tighten

        request = self.certify.request
        if self.network is None:
            self.network = network_of(request.model, tuple(batch.x.shape[1:]))
        return tighten(
            self.network,
            batch.x,
            batch.y,
            certificates,
            timeout=how.seconds,
            clip=request.clip,
            targets=how.targets,
            eps_max=how.eps_max,
            at=how.at,
            seed=how.seed,
            memory=how.memory,
            proved=None if self.writer is None else proofs.__setitem__,
        )

    def _writer(self, batch: ImageBatch, folder: Path) -> Writer:
        from certnas.proofs import Writer

        request = self.certify.request
        kept: dict[str, Any] = {"seed": request.seed, "tol": request.tol, "memory": request.memory}
        kept |= {"targets": self.job.targets, "about": self.job.about or {}}
        x = batch.x.to(self.certify.device)
        return Writer(request.model, x, folder, method=request.methods[-1], clip=request.clip, **kept)
