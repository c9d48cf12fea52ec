"""The stages of a run, from the search to the report.

Each has its own folder, so that a run resumes at the stage it reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import certnas
from certnas.certifier.certificates import Certificates
from certnas.certifier.certification import CertificationProgress
from certnas.certifier.plots import accuracy_plot, radii_plot
from certnas.certifier.results import Folder
from certnas.data import DATASETS, Dataset, load
from certnas.errors import UserError
from certnas.models import open_model
from certnas.nas.search import GENOTYPE, Found, SearchProgress, open_data, search
from certnas.nas.space import read_genotype
from certnas.nas.space.picture import cell_picture
from certnas.pipeline.config import CertifyConfig, RunConfig, run_table
from certnas.pipeline.report import report
from certnas.runs import open_folder, read_toml, refuse_changes, to_toml, write_atomically
from certnas.runs.folder import CONFIG
from certnas.training import Trained, TrainingProgress, train, training_images

SEARCH, TRAIN, CERTIFY, CELLS, REPORT = "search", "train", "certify", "cells.png", "report.md"


@dataclass(frozen=True)
class Watch:
    """Callbacks of a run."""

    stage: Callable[[str], None] = lambda name: None
    """Called with the name of each stage at its start."""
    search: Callable[[SearchProgress], None] | None = None
    """Called after every step of the search."""
    train: Callable[[TrainingProgress], None] | None = None
    """Called after every step of the training."""
    certify: Callable[[CertificationProgress], None] | None = None
    """Called with the progress of the certification."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    report: Path
    """Path of the report."""
    found: Found
    """The result of the search, with the genotype."""
    trained: Trained
    """The trained networks."""
    certificates: Certificates
    """The certificates of the test images."""


def run(
    config: RunConfig,
    out: str | Path,
    *,
    test: str | Path | None = None,
    root: str | Path | None = None,
    download: bool = False,
    resume: bool = False,
    device: torch.device | str = "cpu",
    watch: Watch | None = None,
) -> Outcome:
    """Search for a genotype, train its network, certify the best network on test images, and write a report.

    Args:
        config: the settings of all stages; see `run_config`.
        out: run folder.  It receives config.toml, search/, cells.png, train/, certify/ and report.md.
        test: image folder or .npz file to certify on, in place of the data set's test part.  It is required if the data
            are a folder or an .npz file.
        root: folder of a torchvision data set.
        download: download the data set into `root`.
        resume: continue the run in `out`.
        device: "cpu", "cuda", "cuda:1", …
        watch: callbacks.

    Returns:
        The report, the genotype, the trained networks and the certificates.

    Raises:
        UserError: whatever the stages refuse, a folder of another run, or images without a test part.

    Search and training use the training part of the data set only; the search uses
    config.search.data.images of its images.  An interrupted run resumes to the same result.
    """
    out, watch = Path(out), watch or Watch()
    name = config.search.data.name
    if test is None and name not in DATASETS:
        raise UserError(f"data {name}: has no test part; give other images to certify on (--test-data)")
    proof = config.certify
    tested = load(
        name if test is None else str(test),
        root=root if test is None else None,
        download=download and test is None,
        count=proof.images,
        seed=config.seed,
    )
    searched = open_data(config.search, root=None if root is None else Path(root), download=download)
    images = training_images(name, root=root, download=download)
    open_folder(out)
    _keep_config(out, config, resume=resume)
    watch.stage(SEARCH)
    found = search(
        config.search, searched, out=out / SEARCH, resume=resume, device=device, progress=watch.search
    )
    genotype = read_genotype(out / SEARCH / GENOTYPE)
    write_atomically(out / CELLS, cell_picture(genotype, f"found on {name}"))
    watch.stage(TRAIN)
    trained = train(
        genotype,
        images,
        config.train,
        out / TRAIN,
        seed=config.seed,
        validation=config.validation,
        resume=resume,
        device=device,
        progress=watch.train,
    )
    watch.stage(CERTIFY)
    certificates = _certified(trained.best, tested, proof, out / CERTIFY, config.seed, resume, device, watch)
    text = report(out, config, genotype, trained, certificates)
    write_atomically(out / REPORT, text)
    return Outcome(out / REPORT, found, trained, certificates)


def _keep_config(out: Path, config: RunConfig, *, resume: bool) -> None:
    path, table = out / CONFIG, run_table(config)
    if path.exists():
        if not resume:
            raise UserError(f"{out} already holds a run; continue it with --resume or choose another --out")
        refuse_changes(out, read_toml(path), table)
    write_atomically(path, to_toml(table))


def _certified(
    network: Path,
    data: Dataset,
    proof: CertifyConfig,
    out: Path,
    seed: int,
    resume: bool,
    device: torch.device | str,
    watch: Watch,
) -> Certificates:
    """The certificates of the images, in a folder with the layout of `certnas certify`."""
    model = open_model(str(network), input_shape=tuple(data.x.shape[1:]))
    config = {"model": str(network), "weights": model.sha256, "data": data.name, "seed": seed, **vars(proof)}
    folder = Folder.open(out, config, data.index.tolist(), resume=resume)
    left = folder.left()
    if left:
        certnas.certify(
            model.module.to(device),
            data.x[left],
            data.y[left],
            proof.norm,
            method=proof.method,
            tol=proof.tol,
            eps_max=proof.eps_max,
            attack=proof.attack,
            seed=seed,
            index=data.index[left].tolist(),
            progress=watch.certify,
            on_batch=folder.append,
        )
    folder.finish(())
    assert folder.done is not None
    for name, picture in (("accuracy.png", accuracy_plot), ("radii.png", radii_plot)):
        write_atomically(out / name, picture(folder.done, model.name))
    return folder.done
