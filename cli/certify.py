"""`certnas certify` certifies a network on a data set, and shows and keeps the radii."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .certify_options import OPTIONS
from .complete import chosen_tightening
from .engine import chosen_engine
from .failure import INTERRUPTED, UNSOUND, Ended, refusals
from .opening import opened
from .options import set_threads, with_options

if TYPE_CHECKING:
    from certnas import bounds
    from certnas.certifier import Certificates
    from certnas.certifier.results import Folder
    from certnas.data import Dataset
    from certnas.jobs.certify import CertifyJob
    from certnas.models import OpenedModel
    from certnas.proofs import Written


@click.command()
@with_options(*OPTIONS)
def certify(**options: Any) -> None:
    """Certify the robustness radius of each image.

    MODEL is an embedded network (digits-cnn or digits-cell), a file that holds a network (.onnx, .pt2, .h5), a
    checkpoint with --arch, or a Python factory package.module:function.  Radii are in units of [0, 1] pixels.
    """
    with refusals():
        set_threads(options["threads"])
        Run(options).go()


class Run:
    """One run of the command; making it opens and checks all that was asked for, before any work."""

    def __init__(self, options: dict[str, Any]) -> None:
        from certnas.bounds import NORMS
        from certnas.certifier.request import check_box, check_numbers, open_device
        from certnas.errors import UserError

        if options["source"] is not None and options["named"] is not None:
            raise UserError(f"MODEL is given twice: {options['source']} and --model {options['named']}")
        self.options = options | {"source": options["source"] or options["named"] or "digits-cnn"}
        if options["resume"] and options["out"] is None:
            raise UserError("--resume needs the folder to continue: add --out DIR")
        if options["images"] < 1:
            raise UserError(f"--images is {options['images']}; accepted: at least 1")
        self.clip = (0.0, 1.0) if options["clip"] else None
        self.at: Sequence[float] = NORMS[options["norm"]].reported if options["at"] is None else options["at"]
        if any(not eps >= 0 for eps in self.at):
            raise UserError(f"--at holds {min(self.at):g}; accepted: radii of at least 0")
        check_numbers(options["tol"], options["eps_max"], options["batch_size"], options["memory"])
        check_box(self.clip, options["attack"])
        self.tightening = chosen_tightening(options)
        settings = {name: options[name] for name in ("slope", "iterations", "step", "shared", "errors")}
        self.method = self._method(settings)
        self.device = open_device(options["device"])
        self.model, self.data = self._open()
        self.engine = chosen_engine(options, gpu=self.device.type == "cuda")
        self.folder = self._folder()
        self.job = self._job()
        self.written: list[Written] = []

    def _method(self, settings: dict[str, Any]) -> bounds.Method | str:
        from certnas.certifier.planning import AUTO
        from certnas.certifier.request import resolve_method
        from certnas.errors import UserError

        given = [name for name, value in settings.items() if value is not None]
        if self.options["method"] != AUTO:
            return resolve_method(self.options["method"], **settings)
        if given:
            raise UserError(f"--{given[0]} is not a setting of method {AUTO}, which sets its methods itself")
        return AUTO

    def _open(self) -> tuple[OpenedModel, Dataset]:
        from certnas.data import load

        options = self.options
        data = load(
            options["data"],
            root=options["data_root"],
            download=options["download"],
            count=options["images"],
            seed=options["seed"],
            layout=options["data_layout"],
        )
        model = opened(options["source"], options, tuple(data.x.shape[1:]))
        return model, data

    def _folder(self) -> Folder | None:
        from certnas.certifier.results import Folder

        options = self.options
        if options["out"] is None:
            return None
        kept = ("data", "images", "seed", "norm", "targets", "eps_max", "tol", "clip", "attack", "batch_size")
        config = {"model": options["source"], "weights": self.model.sha256, "method": self._name()}
        config |= {
            name: options[name]
            for name in ("layout", "channels", "output", "data_layout")
            if options[name] is not None
        }
        config |= {} if self.tightening is None else {"complete": self.tightening.seconds}
        config |= {name: options[name] for name in kept} | {
            "device": str(self.device),
            "memory": options["memory"],
        }
        return Folder.open(options["out"], config, self.data.index.tolist(), resume=options["resume"])

    def _name(self) -> str:
        from certnas.certifier.request import describe

        if isinstance(self.method, str):
            seconds = self.options["time_per_image"]
            return self.method if seconds is None else f"{self.method}({seconds:g} s)"
        return describe(self.method)

    def _job(self) -> CertifyJob:
        from certnas.certifier.certification import certification
        from certnas.jobs.certify import CertifyJob

        options, data = self.options, self.data
        kept = ("targets", "norm", "eps_max", "tol", "attack", "seed", "memory", "time_per_image")
        asked = {name: options[name] for name in kept} | {"method": self.method, "clip": self.clip}
        asked["at"] = self.at
        work = certification(self.model.module, data.x, data.y, device=self.device, **asked)
        for line in work.why:
            click.echo(line, err=True)
        named = ("mean", "std", "input_range", "layout", "channels")
        described = " ".join(f"{name}={options[name]}" for name in named if options[name] is not None)
        about = {"model": options["source"], "weights": self.model.sha256, "data": options["data"]}
        about["preprocessing"] = described
        return CertifyJob(work, self.tightening, options["certificates"], options["targets"], about)

    def go(self) -> None:
        """Certifies the images that are not done yet, shows and keeps them; an early end loses no finished batch."""
        from rich.console import Console

        from certnas.certifier import SoundnessError

        done: list[Certificates] = []
        if self.folder is not None and self.folder.done is not None:
            done.append(self.folder.done)
        try:
            self._certify(done, Console(stderr=True))
        except SoundnessError as error:
            self._show(done)
            raise Ended(f"error: {error}{self._evidence(error)}", UNSOUND) from error
        except KeyboardInterrupt as error:
            self._show(done)
            finished = sum(map(len, done))
            raise Ended(
                f"interrupted: {finished} of {len(self.data.x)} images are done{self._kept()}", INTERRUPTED
            ) from error
        self._pictures(self._show(done))
        self._report_certificates()

    def _certify(self, done: list[Certificates], console: Any) -> None:
        """Adds each batch to `done`, and to the folder, as it finishes."""
        from contextlib import closing

        from certnas.certifier.certification import batches

        from .show import images_bar, stage

        data, total = self.data, len(self.data.x)
        left = list(range(total)) if self.folder is None else self.folder.left()
        if not left:
            return
        size = self.options["batch_size"]
        work = batches(data.x[left], data.y[left], data.index[left].tolist(), size)
        with images_bar(console) as shown:
            task = shown.add_task("certifying", total=total, completed=total - len(left), stage="tracing")
            results = self.engine.run(
                self.job, work, lambda _, progress: shown.update(task, stage=stage(progress))
            )
            with closing(results):
                for position, (batch, written) in results:
                    self.written += written
                    done.append(batch)
                    if self.folder is not None:
                        self.folder.append(batch)
                    finished = f"{self.job.describe(work[position])} done"
                    shown.update(task, completed=sum(map(len, done)), stage=finished)

    def _show(self, batches: Sequence[Certificates]) -> Certificates | None:
        from rich.console import Console

        from certnas.certifier import Certificates

        from .show import summary, table

        if not batches:
            return None
        certificates = Certificates.join(batches).ordered(self.data.index.tolist())
        console = Console()
        console.print(table(certificates))
        title = f"{self.model.name} · {self.options['data']} · {self.options['norm']} · {certificates.method}"
        console.print(summary(certificates, self.at, title))
        return certificates

    def _pictures(self, certificates: Certificates | None) -> None:
        from certnas.certifier.plots import accuracy_plot, radii_plot
        from certnas.runs import write_atomically

        if self.folder is None or certificates is None:
            return
        self.folder.finish(self.at)
        write_atomically(self.folder.path / "accuracy.png", accuracy_plot(certificates, self.model.name))
        write_atomically(self.folder.path / "radii.png", radii_plot(certificates, self.model.name))
        click.echo(f"wrote results.csv, results.json, accuracy.png and radii.png to {self.folder.path}")

    def _report_certificates(self) -> None:
        """Says how many certificates were written, how many prove a smaller radius, and which images have none."""
        if self.options["certificates"] is None:
            return
        count = sum(proof.path is not None for proof in self.written)
        smaller = sum(0 < proof.eps < proof.radius for proof in self.written)
        lines = [f"wrote {count} certificates to {self.options['certificates']}"]
        lines += [f"{smaller} of them prove a slightly smaller radius"] if smaller else []
        missing: dict[str, list[str]] = {}
        for proof in self.written:
            if proof.path is None:
                missing.setdefault(proof.why, []).append(str(proof.index))
        lines += [f"none for images {', '.join(images)}: {why}" for why, images in missing.items()]
        click.echo("; ".join(lines))

    def _evidence(self, error: Any) -> str:
        from certnas.certifier.results import keep_evidence

        return f"; evidence in {keep_evidence(self.options['out'] or Path(), error.evidence)}"

    def _kept(self) -> str:
        if self.folder is None:
            return " and shown; with --out DIR they are kept and --resume continues"
        return f" and kept in {self.folder.path}; continue with --resume"
