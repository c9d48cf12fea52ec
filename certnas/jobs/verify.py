"""The job of `certnas verify`: each instance is opened, verified, and its certificate written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from certnas.bounds import BoundsError
from certnas.engine import Job, Tell
from certnas.errors import UserError
from certnas.models import open_model
from certnas.verifier import Property, Verdict, read_vnnlib, verify
from certnas.verifier.instances import Instance, Result, instance_name
from certnas.verifier.subject import Subject, is_onnx, of_opened, open_onnx

PREPARED = {
    "mean": "--mean", "std": "--std", "input_range": "--input-range", "layout": "--layout", "channels": "--channels",
    "arch": "--arch", "arch_options": "--arch-option", "input_shape": "--input-shape", "unsafe_load": "--unsafe-load",
}  # fmt: skip
"""Keywords of `open_model` that an ONNX file does not take, since it is verified as it is stored; their options."""


@dataclass(frozen=True)
class VerifiedInstance:
    """What came of one instance."""

    result: Result
    """Its line of results.csv."""
    verdict: Verdict | None
    """The verdict, or None where the instance could not be opened or bounded."""
    error: str = ""
    """Why there is no verdict."""


@dataclass(frozen=True)
class VerifyJob(Job[Instance, VerifiedInstance]):
    """Verifies instances: each is a network and a property."""

    root: Path
    """Folder that the paths of instances begin at."""
    category: str = ""
    """First field of each line of results.csv."""
    opening: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `certnas.models.open_model`.  An ONNX file takes `output` alone."""
    timeout: float | None = None
    """Time limit in seconds of each instance; None takes the instance's own."""
    seed: int = 0
    """Seed of the attack."""
    memory: int | None = None
    """Bytes for one batch of bounds."""
    certificates: Path | None = None
    """Folder that certificates of `unsat` are written to; None writes none."""
    alone: bool = False
    """Whether a network that cannot be opened or bounded raises, instead of becoming an `error` of the list."""

    def open(self, rank: int) -> Callable[[Instance, Tell], VerifiedInstance]:
        return _VerifyWorker(self)

    def describe(self, item: Instance) -> str:
        return f"{item.network} {item.prop}"


class _VerifyWorker:
    """One process's part: it keeps the last network, since lists name one network many times in a row."""

    def __init__(self, job: VerifyJob) -> None:
        self.job = job
        self.subjects: dict[tuple[str, int], Subject] = {}

    def __call__(self, instance: Instance, tell: Tell) -> VerifiedInstance:
        job, began = self.job, time.monotonic()
        try:
            prop = read_vnnlib(job.root / instance.prop)
            subject = self._subject(instance.network, prop.inputs)
            subject.check(prop)
            prepared = time.monotonic() - began
            verdict = verify(
                subject.network,
                prop,
                replay=subject.replay,
                timeout=job.timeout or instance.timeout,
                memory=job.memory,
                seed=job.seed,
                proof=job.certificates is not None,
                progress=tell,
            )
        except (UserError, BoundsError, MemoryError) as error:
            if job.alone:
                raise
            spent = time.monotonic() - began
            result = Result(job.category, instance.network, instance.prop, spent, "error", 0.0)
            return VerifiedInstance(result, None, str(error))
        if job.certificates is not None:
            verdict = self._certified(job.certificates, instance, prop, verdict)
        line = (job.category, instance.network, instance.prop, prepared, verdict.status, verdict.seconds)
        return VerifiedInstance(Result(*line), verdict)

    def _subject(self, source: str, inputs: int) -> Subject:
        """The network `source`, opened for that many inputs."""
        opening = self.job.opening
        if (source, inputs) not in self.subjects:
            path = self.job.root / source
            if is_onnx(source):
                given = [option for name, option in PREPARED.items() if opening.get(name)]
                if given:
                    raise UserError(f"an ONNX file is verified as it is stored: leave out {given[0]}")
                subject = open_onnx(path, output=opening.get("output"), inputs=inputs)
            else:
                subject = of_opened(open_model(str(path) if path.exists() else source, **opening))
            self.subjects = {(source, inputs): subject}
        return self.subjects[source, inputs]

    def _certified(self, folder: Path, instance: Instance, prop: Property, verdict: Verdict) -> Verdict:
        """Writes the certificate of an `unsat`; returns the verdict without its proof, with a note about the file."""
        from certnas.proofs import Uncertified, write_proof

        if verdict.proof is None:
            return verdict
        path = folder / f"{instance_name(instance.network, instance.prop)}.npz"
        about = {"network": instance.network, "property": instance.prop}
        try:
            size = write_proof(path, prop, verdict.proof, memory=self.job.memory, about=about)
        except (Uncertified, UserError) as error:
            return replace(verdict, proof=None, note=f"no certificate: {error}")
        return replace(verdict, proof=None, note=f"certificate {path.name}, {size / 2**20:.1f} MiB")
