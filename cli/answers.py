"""What `certnas verify` does with one instance, in whatever process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certnas.engine import Job, Tell
from certnas.verifier.instances import Instance, Result
from certnas.verifier.verdict import Verdict

from .opening import opened

if TYPE_CHECKING:
    from certnas.verifier import Property
    from certnas.verifier.subject import Subject

PREPARED = ("mean", "std", "input_range", "layout", "channels", "arch")


@dataclass(frozen=True)
class Answer:
    """The line of results.csv; the verdict, or why there is none."""

    result: Result
    verdict: Verdict | None
    error: str = ""


@dataclass(frozen=True)
class Answers(Job[Instance, Answer]):
    """Answers instances whose paths begin at `root`.

    alone: what cannot be opened or bounded is raised; in a list it is an error, and the list goes on.
    """

    options: Mapping[str, Any]
    root: Path
    category: str
    alone: bool
    memory: int | None

    def open(self, rank: int) -> Callable[[Instance, Tell], Answer]:
        return _Worker(self)

    def describe(self, item: Instance) -> str:
        return f"{item.network} {item.prop}"


class _Worker:
    def __init__(self, job: Answers) -> None:
        self.job = job
        self.subjects: dict[tuple[str, int], Subject] = {}

    def __call__(self, instance: Instance, tell: Tell) -> Answer:
        from certnas.bounds import BoundsError
        from certnas.errors import UserError
        from certnas.verifier import read_vnnlib, verify

        job, began = self.job, time.monotonic()
        category, options = job.category, job.options
        try:
            prop = read_vnnlib(job.root / instance.prop)
            subject = self._subject(instance.network, prop.inputs)
            subject.check(prop)
            prepared = time.monotonic() - began
            verdict = verify(
                subject.network,
                prop,
                replay=subject.replay,
                timeout=options["timeout"] or instance.timeout,
                memory=job.memory,
                seed=options["seed"],
                proof=options["certificates"] is not None,
                progress=tell,
            )
        except (UserError, BoundsError, MemoryError) as error:
            if job.alone:
                raise
            spent = time.monotonic() - began
            return Answer(
                Result(category, instance.network, instance.prop, spent, "error", 0.0), None, str(error)
            )
        verdict = self._certified(instance, prop, verdict)
        line = (category, instance.network, instance.prop, prepared, verdict.status, verdict.seconds)
        return Answer(Result(*line), verdict)

    def _subject(self, source: str, inputs: int) -> Subject:
        """The network; the last one is kept, since lists ask of one network after another."""
        from certnas.errors import UserError
        from certnas.verifier.subject import is_onnx, of_opened, open_onnx

        options = self.job.options
        if (source, inputs) not in self.subjects:
            path = self.job.root / source
            if is_onnx(source):
                given = [name for name in PREPARED if options[name] is not None]
                if given:
                    raise UserError(
                        f"an ONNX file is verified as it is stored: leave out --{given[0].replace('_', '-')}"
                    )
                subject = open_onnx(path, output=options["output"], inputs=inputs)
            else:
                subject = of_opened(opened(str(path) if path.exists() else source, options))
            self.subjects = {(source, inputs): subject}
        return self.subjects[source, inputs]

    def _certified(self, instance: Instance, prop: Property, verdict: Verdict) -> Verdict:
        """Writes the certificate of an `unsat`; the verdict's note, now without the proof, says what came of it."""
        from certnas.errors import UserError
        from certnas.proofs import Uncertified, write_proof
        from certnas.verifier.instances import instance_name

        if verdict.proof is None:
            return verdict
        options = self.job.options
        path = options["certificates"] / f"{instance_name(instance.network, instance.prop)}.npz"
        about = {"network": instance.network, "property": instance.prop}
        try:
            size = write_proof(path, prop, verdict.proof, memory=self.job.memory, about=about)
        except (Uncertified, UserError) as error:
            return replace(verdict, proof=None, note=f"no certificate: {error}")
        return replace(verdict, proof=None, note=f"certificate {path.name}, {size / 2**20:.1f} MiB")
