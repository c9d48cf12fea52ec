"""`certnas verify` proves or refutes properties of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .engine import ENGINE, chosen_engine
from .failure import INTERRUPTED, UNSOUND, Ended, one_line, refusals
from .names import MODEL
from .opening import OPENING, SHAPE, opening_keywords
from .options import THREADS, set_threads, with_options
from .values import Bytes

if TYPE_CHECKING:
    from certnas.verifier import Verdict, VerificationProgress
    from certnas.verifier.instances import Instance, Result

COLOURS = {"unsat": "green", "sat": "red", "unknown": "yellow", "timeout": "yellow", "error": "magenta"}
OPPOSITE = {"unsat": "sat", "sat": "unsat"}


OPTIONS = (
    click.argument("net", type=MODEL, required=False),
    click.argument("prop", required=False),
    click.option("--instances", type=click.Path(path_type=Path), help="CSV file of network,property,seconds."),
    click.option("--root", type=click.Path(path_type=Path),
                 help="Folder that the paths in the CSV begin at; the CSV's own by default."),
    click.option("--timeout", type=float, help="Seconds for each property; those of the CSV by default."),
    click.option("--memory", type=Bytes(),
                 help="Memory budget of a batch of bounds, such as 4G; depends on free memory by default."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the attack."),
    THREADS,
    click.option("--out", type=click.Path(path_type=Path), help="Folder for results.csv and counterexamples."),
    click.option("--resume", is_flag=True, help="Continue the list whose results --out holds."),
    click.option("--certificates", type=click.Path(path_type=Path),
                 help="Folder for certificates of unsat that `certnas check` proves again."),
    *ENGINE,
    *OPENING,
    SHAPE,
)  # fmt: skip


@click.command()
@with_options(*OPTIONS)
def verify(**options: Any) -> None:
    """Prove or refute a property of a network.

    NET is an .onnx file, taken as it is stored, or any MODEL of `certnas certify`.  PROP is a .vnnlib or .vnnlib.gz
    file (VNN-LIB 1.0).  The verdict is unsat (it is proved that no input meets the property), sat (an input that meets
    it was found, and run again), unknown, timeout or error.  Ctrl-C reports the bound proved so far.
    """
    with refusals():
        set_threads(options["threads"])
        Verification(options).go()


class Verification:
    """One run of the command; making it checks all that was asked for, before any work."""

    def __init__(self, options: dict[str, Any]) -> None:
        from certnas.errors import UserError
        from certnas.verifier.instances import Instance, read_instances, read_results
        from certnas.verifier.verification import share_of_memory

        self.options, self.opening = options, opening_keywords(options)
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
        self.wrong: list[Instance] = []
        if listed is None and (options["workers"] not in (None, 1) or options["engine"] != "processes"):
            raise UserError("one property is one process's work: leave out --workers and --engine")
        self.engine = chosen_engine(options)
        self.memory: int | None = options["memory"] or share_of_memory(options["workers"] or 1)
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
        """Verifies the instances that are not done yet; keeps each result as it comes, in the order of the list."""
        done = {(result.network, result.prop) for result in self.results}
        left = [one for one in self.instances if (one.network, one.prop) not in done]
        try:
            self._verify(left)
        except KeyboardInterrupt as error:
            raise self._interrupted() from error
        if len(self.instances) > 1:
            self._summary()
        if self.wrong:
            named = ", ".join(f"{i.network} {i.prop}" for i in self.wrong[:3])
            raise Ended(
                f"error: {len(self.wrong)} answers are the opposite of the expected one: {named}", UNSOUND
            )

    def _verify(self, left: list[Instance]) -> None:
        """Verifies these instances, and shows and keeps the results."""
        from contextlib import closing

        from certnas.jobs.verify import VerifyJob

        kept = {name: self.options[name] for name in ("timeout", "seed", "certificates")}
        kept |= {"memory": self.memory, "alone": self.options["instances"] is None}
        job = VerifyJob(self.root, self.category, self.opening, **kept)
        with progress(left) as tell, closing(self.engine.run(job, left, tell)) as results:
            for position, verified in results:
                instance, verdict = left[position], verified.verdict
                if verified.error:
                    click.echo(f"certnas: {one_line(click.ClickException(verified.error))}", err=True)
                self._show(instance, verified.result, verdict)
                if verified.result.verdict == OPPOSITE.get(instance.expected):
                    self.wrong.append(instance)
                if verdict is not None and verdict.interrupted:
                    raise self._interrupted()
                self._keep(instance, verified.result, verdict)

    def _interrupted(self) -> Ended:
        return Ended(f"interrupted: {len(self.results)} of {len(self.instances)} are done", INTERRUPTED)

    def _keep(self, instance: Instance, result: Result, verdict: Verdict | None) -> None:
        from certnas.runs.files import write_atomically
        from certnas.verifier.instances import counterexample_text, instance_name, write_results

        order = {(one.network, one.prop): at for at, one in enumerate(self.instances)}
        self.results.append(result)
        self.results.sort(key=lambda one: order.get((one.network, one.prop), -1))
        if self.options["out"] is None:
            return
        if verdict is not None and verdict.counterexample is not None:
            name = f"{instance_name(instance.network, instance.prop)}.counterexample"
            write_atomically(self.options["out"] / name, counterexample_text(verdict.counterexample))
        write_results(self.options["out"], self.results)

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
        listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        click.echo(f"{len(self.results)} instances: {listed}; {sum(r.seconds for r in self.results):.0f} s")
        if self.options["out"] is not None:
            click.echo(f"wrote results.csv to {self.options['out']}")


@contextmanager
def progress(instances: Sequence[Instance]) -> Iterator[Callable[[int, VerificationProgress], None]]:
    """Shows the stage and the bound so far in a line on standard error, where that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    with console.status(f"{len(instances)} properties") as status:

        def tell(position: int, step: VerificationProgress) -> None:
            name = Path(instances[position].prop).name
            counts = f"{step.done} done, {step.open} open" if step.done else f"{step.clauses} clauses open"
            status.update(f"{name}: {step.stage}, {counts}, excess ≥ {step.bound:.4g}")

        yield tell
