"""From a search to a report: each stage in a folder of its own, so that a run goes on at the stage where it stopped."""

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
from certnas.nas.search import GENOTYPE, Found, open_data, search
from certnas.nas.search import Progress as SearchProgress
from certnas.nas.space import read_genotype
from certnas.nas.space.picture import cell_picture
from certnas.pipeline.config import CertifyConfig, RunConfig, run_table
from certnas.pipeline.report import report
from certnas.runs import open_folder, read_toml, refuse_changes, to_toml, write_atomically
from certnas.runs.folder import CONFIG
from certnas.training import Progress as TrainProgress
from certnas.training import Trained, train, training_images

SEARCH, TRAIN, CERTIFY, CELLS, REPORT = "search", "train", "certify", "cells.png", "report.md"


@dataclass(frozen=True)
class Watch:
    """What is told of each stage as it goes on; `stage` is told its name when it begins."""

    stage: Callable[[str], None] = lambda name: None
    search: Callable[[SearchProgress], None] | None = None
    train: Callable[[TrainProgress], None] | None = None
    certify: Callable[[CertificationProgress], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run ends with: the report, the genotype, the trained network, its certificates."""

    report: Path
    found: Found
    trained: Trained
    certificates: Certificates


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
    """Searches a genotype, trains its network, certifies the best epoch's on test images, and reports on all three.

    OUT holds config.toml, search/, cells.png, train/, certify/ and report.md, which shows their figures and
    pictures.  Search and training see the training part of the data set config.search.data.name alone (the search
    as many of its images as it is set to); certificates are of images of its test part, or of the images `test`
    (a folder or .npz), which must be given where the data are a folder or .npz too.  With `resume` a run that was
    killed goes on where it was, to the same result.
    Raises UserError: what the stages refuse, a folder of another run, images without a test part.
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
    """The certificates of the images, in a folder like that of `certnas certify`."""
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
