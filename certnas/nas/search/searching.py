"""A search from its configuration to its genotype."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from certnas.certifier.request import chosen, open_device
from certnas.data import Dataset
from certnas.nas.metrics import READINGS, Metric, build_metric
from certnas.nas.search.config import SearchConfig
from certnas.nas.search.darts import Darts
from certnas.nas.search.pc_darts import PCDarts
from certnas.nas.search.random_cells import RandomCells
from certnas.nas.search.stream import split, with_statistics
from certnas.nas.search.task import Algorithm, Found, Progress, Task
from certnas.nas.space.files import write_genotype
from certnas.parallel import processes
from certnas.runs import RunFolder, from_table, to_table
from certnas.training.images import training_images

ALGORITHMS: dict[str, type[Algorithm]] = {"darts": Darts, "pc-darts": PCDarts, "random": RandomCells}
"""Name -> algorithm, a dataclass of its settings."""

GENOTYPE = "genotype.json"


def search(
    config: SearchConfig,
    data: Dataset,
    *,
    out: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: Callable[[Progress], None] | None = None,
    checkpoint_every: int | None = None,
    pictures: bool = True,
) -> Found:
    """Searches a genotype on the images of `data`; with `out`, a run folder that ends up with genotype.json.

    The result is a function of the configuration and the images alone, on one machine: the caller's random state
    is neither read nor changed, and a run that was killed resumes to the same genotype.  checkpoint_every: steps
    between two states, besides one at the end of every epoch.  pictures: draw the weights of the operators and
    the cells after every epoch.  progress is called after every step.  Started by torchrun, its processes share
    each batch; the first one alone writes, and calls progress.
    Raises UserError: an unknown algorithm, metric or setting; images that are too few or too small; a folder of
    another configuration; a loss that is not finite.  KeyboardInterrupt, once the state is saved.
    """
    config, algorithm, metric = effective(config, data)
    with processes(open_device(str(device))) as (group, place):
        train, held_out = split(config, data, place, group)
        task = Task(config, metric, train, held_out, data.classes, place, group)
        if group.rank:
            return algorithm.run(task)
        folder = None
        if out is not None:
            environment = {"device": str(place), "processes": group.size, "threads": torch.get_num_threads()}
            folder = RunFolder.open(out, to_table(config), resume=resume, environment=environment)
        try:
            task = replace(
                task,
                folder=folder,
                progress=progress,
                checkpoint_every=checkpoint_every,
                pictures=pictures,
            )
            found = algorithm.run(task)
        finally:
            if folder is not None:
                folder.close()
        if out is not None:
            notes = {"algorithm": config.algorithm.name, "metric": config.metric.name, "seed": config.seed}
            write_genotype(out / GENOTYPE, found.genotype, **notes)
        return found


def effective(config: SearchConfig, data: Dataset) -> tuple[SearchConfig, Algorithm, Metric]:
    """The configuration with every default written out, and its algorithm and metric.

    Raises UserError for an unknown algorithm, metric or setting of theirs.
    """
    kind: Any = chosen("algorithm", config.algorithm.name, ALGORITHMS)
    algorithm = from_table(kind, config.algorithm.options, "algorithm.options.")
    options = dict(config.metric.options)
    metric = build_metric(config.metric.name, options)
    if "seed" not in options and hasattr(metric, "seed"):
        metric = replace(metric, seed=config.seed)  # type: ignore[call-arg]
    config = with_statistics(config, data)
    config = replace(
        config,
        algorithm=replace(config.algorithm, options=to_table(algorithm)),
        metric=replace(config.metric, options=_settings(metric)),
    )
    return config, algorithm, metric


def _settings(metric: Metric) -> dict[str, Any]:
    readings = [name for name, kind in READINGS.items() if type(metric) is kind]
    return {**({"reading": readings[0]} if readings else {}), **to_table(metric)}


def open_data(config: SearchConfig, *, root: Path | None = None, download: bool = False) -> Dataset:
    """The images that the configuration names, the training part of a data set that has one.

    Raises UserError where they cannot be read, or there are not as many.
    """
    return training_images(
        config.data.name, root=root, download=download, count=config.data.images, seed=config.seed
    )
