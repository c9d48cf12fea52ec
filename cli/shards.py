"""What `certnas certify` does to one batch of images, in whatever process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certnas.certifier.certification import Certification, Certifier, ImageBatch
from certnas.engine import Job, Tell

if TYPE_CHECKING:
    from certnas.certifier import Certificates
    from certnas.proofs import Writer, Written
    from certnas.verifier.proof import Proof

    from .complete import Completion

Shard = tuple["Certificates", list["Written"]]


@dataclass(frozen=True)
class Shards(Job[ImageBatch, Shard]):
    """Certifies, raises radii where that was asked for, and writes proofs to `folder` where one is given."""

    certification: Certification
    folder: Path | None
    about: Mapping[str, object]
    targets: str
    complete: Completion

    def open(self, rank: int) -> Callable[[ImageBatch, Tell], Shard]:
        return _Worker(self, self.certification.open(rank))

    def describe(self, item: ImageBatch) -> str:
        return self.certification.describe(item)


class _Worker:
    def __init__(self, job: Shards, certify: Certifier) -> None:
        self.job, self.certify = job, certify
        self.writer: Writer | None = None

    def __call__(self, batch: ImageBatch, tell: Tell) -> Shard:
        request, written = self.certify.request, []
        if self.job.folder is not None:
            self.writer = self.writer or self._writer(batch, self.job.folder)
        proofs: dict[int, Proof] = {}
        keep = proofs.__setitem__ if self.writer is not None else None
        certificates = self.certify(batch, tell)
        certificates = self.job.complete(request.model, batch.x, batch.y, certificates, request.clip, keep)
        if self.writer is not None:
            from certnas.proofs import with_files

            written = self.writer.write(batch.x, batch.y, certificates, proofs)
            certificates = with_files(certificates, written)
        return certificates, written

    def _writer(self, batch: ImageBatch, folder: Path) -> Writer:
        from certnas.proofs import Writer

        request = self.certify.request
        kept: dict[str, Any] = {"seed": request.seed, "tol": request.tol, "memory": request.memory}
        kept |= {"targets": self.job.targets, "about": self.job.about}
        x = batch.x.to(self.certify.device)
        return Writer(request.model, x, folder, method=request.methods[-1], clip=request.clip, **kept)
