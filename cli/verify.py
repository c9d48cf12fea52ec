"""`certnas verify`: properties of networks, proved or refuted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.failure import INTERRUPTED, UNSOUND, Ended, one_line, refusals
from cli.opening import opened, with_opening
from cli.values import Bytes

if TYPE_CHECKING:
    from certnas.verify import Property, Verdict
    from certnas.verify.instances import Instance, Result
    from certnas.verify.subject import Subject

COLOURS = {"unsat": "green", "sat": "red", "unknown": "yellow", "timeout": "yellow", "error": "magenta"}
OPPOSITE = {"unsat": "sat", "sat": "unsat"}
PREPARED = ("mean", "std", "input_range", "layout", "channels", "arch")


@click.command()
@click.argument("net", required=False)
@click.argument("prop", required=False)
@click.option("--instances", type=click.Path(path_type=Path), help="CSV of network,property,seconds.")
@click.option("--root", type=click.Path(path_type=Path), help="Where its paths begin; its folder by default.")
@click.option("--timeout", type=float, help="Seconds for each property; the CSV's by default.")
@click.option("--memory", type=Bytes(), help="Budget of a batch of bounds: 4G; from free memory by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the attack.")
@click.option("--threads", type=click.IntRange(1), help="Of the CPU.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.csv and counterexamples.")
@click.option("--resume", is_flag=True, help="Continue the list whose results --out holds.")
@click.option(
    "--certificates",
    type=click.Path(path_type=Path),
    help="Folder for proofs of unsat that `certnas check` checks.",
)
@with_opening
def verify(**options: Any) -> None:
    """Prove or refute a property of a network.

    NET is an .onnx file, taken as it is stored, or any MODEL of `certnas certify`; PROP a .vnnlib or .vnnlib.gz file
    (VNN-LIB 1.0).  The answer is unsat (no input meets the property: proved), sat (one does: found and run again),
    unknown, timeout or error.  Ctrl-C reports the bound proved so far.
    """
    with refusals():
        if options["threads"] is not None:
            import torch

            torch.set_num_threads(options["threads"])
        Verification(options).go()


class Verification:
    """One run of the command: what was asked, checked before any work, and the results so far."""

    def __init__(self, options: dict[str, Any]) -> None:
        from certnas.errors import UserError
        from certnas.verify.instances import Instance, read_instances, read_results

        self.options = options
        self.subjects: dict[str, Subject] = {}
        if (options["instances"] is None) == (options["net"] is None or options["prop"] is None):
            raise UserError("give a network and a property, or --instances with a CSV of them")
        if options["timeout"] is not None and not options["timeout"] > 0:
            raise UserError(f"--timeout is {options['timeout']:g}; accepted: more than 0 seconds")
        if options["memory"] is not None and options["memory"] < 1:
            raise UserError(f"--memory is {options['memory']}; accepted: at least 1 byte")
        listed: Path | None = options["instances"]
        self.root = Path() if listed is None else options["root"] or listed.parent
        self.category = "" if listed is None else listed.resolve().parent.name
        self.instances = (
            [Instance(options["net"], options["prop"], None)] if listed is None else read_instances(listed)
        )
        self.results: list[Result] = []
        if options["certificates"] is not None:
            from certnas.proofs import open_folder

            open_folder(options["certificates"])
        if options["resume"] and options["out"] is None:
            raise UserError("--resume needs the folder to continue: add --out DIR")
        if options["out"] is not None:
            self._folder(options["out"])
            self.results = read_results(options["out"])
            if self.results and not options["resume"]:
                raise UserError(
                    f"{options['out']} already holds results; continue them with --resume or choose another --out"
                )

    def _folder(self, path: Path) -> None:
        from certnas.errors import UserError

        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror}; choose another --out") from error

    def go(self) -> None:
        """Answers what is not answered yet, one after the other; keeps each answer before the next begins."""
        from certnas.verify.instances import write_results

        done = {(result.network, result.prop) for result in self.results}
        wrong = []
        for instance in self.instances:
            if (instance.network, instance.prop) in done:
                continue
            result, verdict = self._answer(instance)
            self._show(instance, result, verdict)
            if result.verdict == OPPOSITE.get(instance.expected):
                wrong.append(instance)
            if verdict is not None and verdict.interrupted:
                raise Ended(
                    f"interrupted: {len(self.results)} of {len(self.instances)} are done", INTERRUPTED
                )
            self.results.append(result)
            if self.options["out"] is not None:
                write_results(self.options["out"], self.results)
        if len(self.instances) > 1:
            self._summary()
        if wrong:
            named = ", ".join(f"{i.network} {i.prop}" for i in wrong[:3])
            raise Ended(f"error: {len(wrong)} answers are the opposite of the expected one: {named}", UNSOUND)

    def _answer(self, instance: Instance) -> tuple[Result, Verdict | None]:
        """The result of one instance; in a list, what cannot be opened or bounded is an error and the list goes on."""
        from bounds import BoundsError
        from certnas.errors import UserError
        from certnas.verify import read_vnnlib, verify
        from certnas.verify.instances import Result

        began = time.monotonic()
        try:
            prop = read_vnnlib(self.root / instance.prop)
            subject = self._subject(instance.network)
            prepared = time.monotonic() - began
            timeout = self.options["timeout"] or instance.timeout
            with progress(instance) as tell:
                verdict = verify(
                    subject.network,
                    prop,
                    replay=subject.replay,
                    timeout=timeout,
                    memory=self.options["memory"],
                    seed=self.options["seed"],
                    proof=self.options["certificates"] is not None,
                    progress=tell,
                )
        except (UserError, BoundsError, MemoryError) as error:
            if self.options["instances"] is None:
                raise
            click.echo(f"certnas: {one_line(click.ClickException(str(error)))}", err=True)
            spent = time.monotonic() - began
            return Result(self.category, instance.network, instance.prop, spent, "error", 0.0), None
        self._keep(instance, verdict)
        verdict = self._certified(instance, prop, verdict)
        line = (self.category, instance.network, instance.prop, prepared, verdict.status, verdict.seconds)
        return Result(*line), verdict

    def _subject(self, source: str) -> Subject:
        """The network; the last one is kept, since lists ask of one network after another."""
        from certnas.errors import UserError
        from certnas.verify.subject import is_onnx, of_opened, open_onnx

        if source not in self.subjects:
            path = self.root / source
            if is_onnx(source):
                given = [name for name in PREPARED if self.options[name] is not None]
                if given:
                    raise UserError(
                        f"an ONNX file is verified as it is stored: leave out --{given[0].replace('_', '-')}"
                    )
                subject = open_onnx(path)
            else:
                subject = of_opened(opened(str(path) if path.exists() else source, self.options))
            self.subjects = {source: subject}
        return self.subjects[source]

    def _keep(self, instance: Instance, verdict: Verdict) -> None:
        from certnas.runs.files import write_atomically
        from certnas.verify.instances import counterexample_text, instance_name

        if verdict.counterexample is not None and self.options["out"] is not None:
            name = f"{instance_name(instance.network, instance.prop)}.counterexample"
            write_atomically(self.options["out"] / name, counterexample_text(verdict.counterexample))

    def _certified(self, instance: Instance, prop: Property, verdict: Verdict) -> Verdict:
        """Writes the certificate of an `unsat`; the verdict's note says what came of it."""
        from certnas.errors import UserError
        from certnas.proofs import Uncertified, write_proof
        from certnas.verify.instances import instance_name

        if verdict.proof is None:
            return verdict
        path = self.options["certificates"] / f"{instance_name(instance.network, instance.prop)}.npz"
        about = {"network": instance.network, "property": instance.prop}
        try:
            size = write_proof(path, prop, verdict.proof, memory=self.options["memory"], about=about)
        except (Uncertified, UserError) as error:
            return replace(verdict, note=f"no certificate: {error}")
        return replace(verdict, note=f"certificate {path.name}, {size / 2**20:.1f} MiB")

    def _show(self, instance: Instance, result: Result, verdict: Verdict | None) -> None:
        from rich.console import Console
        from rich.markup import escape

        words = [f"[{COLOURS[result.verdict]}]{result.verdict:<8}[/]"]
        words += [f"{result.seconds:8.1f} s  ", escape(f"{instance.network} {instance.prop}")]
        if verdict is not None:
            how = f"{verdict.by}, {verdict.domains} subproblems" if verdict.domains else verdict.by
            if verdict.status in ("unknown", "timeout"):
                how += f", excess at least {verdict.bound:.4g} (proved; above 0 would be unsat)"
            words.append(escape(f"  ({how}{'; ' + verdict.note if verdict.note else ''})"))
        if result.verdict == OPPOSITE.get(instance.expected):
            words.append(f"  [bold red]expected {instance.expected}[/]")
        Console(soft_wrap=True, highlight=False).print("".join(words))

    def _summary(self) -> None:
        counts = {name: sum(r.verdict == name for r in self.results) for name in COLOURS}
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        click.echo(f"{len(self.results)} instances: {told}; {sum(r.seconds for r in self.results):.0f} s")
        if self.options["out"] is not None:
            click.echo(f"wrote results.csv to {self.options['out']}")


@contextmanager
def progress(instance: Instance) -> Iterator[Any]:
    """A line on standard error, where that is a terminal, with the stage and the bound so far."""
    from rich.console import Console

    from certnas.verify import Step

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status(Path(instance.prop).name) as status:

        def tell(step: Step) -> None:
            counts = f"{step.done} done, {step.open} open" if step.done else f"{step.clauses} clauses open"
            status.update(f"{Path(instance.prop).name}: {step.stage}, {counts}, excess ≥ {step.bound:.4g}")

        yield tell
