"""The search, from its configuration to its genotype."""

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
from certnas.nas.search.task import Algorithm, Found, SearchProgress, Task
from certnas.nas.space.files import write_genotype
from certnas.parallel import processes
from certnas.runs import RunFolder, from_table, to_table
from certnas.training.images import training_images

ALGORITHMS: dict[str, type[Algorithm]] = {"darts": Darts, "pc-darts": PCDarts, "random": RandomCells}
"""Algorithm name -> algorithm, a dataclass of its settings."""

GENOTYPE = "genotype.json"
"""Name of the genotype file in the run folder."""


def search(
    config: SearchConfig,
    data: Dataset,
    *,
    out: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: Callable[[SearchProgress], None] | None = None,
    checkpoint_every: int | None = None,
    pictures: bool = True,
) -> Found:
    """Search for a genotype on the images of `data`.

    Args:
        config: the search; see `SearchConfig`.
        data: images [N,C,H,W] in [0, 1] with labels [N].
        out: run folder. It receives config.toml, log.jsonl, checkpoints, pictures and genotype.json.
        resume: continue the search in `out` from its last checkpoint.
        device: "cpu", "cuda", "cuda:1", …
        progress: called after every step.
        checkpoint_every: steps between two checkpoints; every epoch also ends with one.
        pictures: write heat maps of softmax(α) and drawings of the cells after every epoch.

    Returns:
        The genotype, and the supernet at its end if the algorithm has one.

    Raises:
        UserError: an unknown algorithm, metric or setting; too few or too small images; a folder with another
            configuration; a loss that is not finite.
        KeyboardInterrupt: on interruption, after the state is saved.

    On one machine, the result is a function of the configuration and the images.  The search neither reads
    nor changes the caller's random state.  An interrupted search resumes to the same genotype.  Under
    torchrun the processes share each batch; only the first one writes files and calls `progress`.

    >>> from certnas.data import load
    >>> from certnas.nas.search import SearchConfig, search
    >>> from certnas.runs import from_table
    >>> table = {
    ...     "epochs": 1,
    ...     "batch_size": 8,
    ...     "metric": {"name": "cb", "options": {"reading": "radius", "images": 2}},
    ...     "supernet": {"channels": 2, "layers": 1, "nodes": 1, "space": "s2", "reductions": []},
    ... }
    >>> found = search(from_table(SearchConfig, table), load("digits", train=True, count=16, seed=0))
    >>> len(found.genotype.normal)  # two edges into the one node
    2
    """
    config, algorithm, metric = effective(config, data)
    with processes(open_device(str(device))) as (group, local_device):
        train, held_out = split(config, data, local_device, group)
        task = Task(config, metric, train, held_out, data.classes, local_device, group)
        if group.rank:
            return algorithm.run(task)
        folder = None
        if out is not None:
            environment = {
                "device": str(local_device),
                "processes": group.size,
                "threads": torch.get_num_threads(),
            }
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
    """The configuration with every default filled in, together with its algorithm and metric.

    Raises UserError for an unknown algorithm, an unknown metric, or an unknown setting of either.
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
    """The images that the configuration names; for a data set with a training part, that part.

    root is the folder of a torchvision data set; `download` fetches it. Raises UserError if the images
    cannot be read or are too few.
    """
    return training_images(
        config.data.name, root=root, download=download, count=config.data.images, seed=config.seed
    )
