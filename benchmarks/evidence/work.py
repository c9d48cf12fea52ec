"""The units of work: a search, a training, a certification, a ranking.  Each is a function of its arguments alone."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import certnas
from benchmarks.evidence.networks import RANDOM, Cell, network, parameters
from benchmarks.evidence.presets import (
    DRAWN,
    Preset,
    metric_of,
    search_config,
    test_images,
    training_images,
)
from certnas.models import open_model
from certnas.nas.metrics import build_metric
from certnas.nas.metrics.evaluation import MASKED
from certnas.nas.search import SearchProgress, effective, search
from certnas.nas.search.stream import Stream, split
from certnas.nas.space import DARTS, Genotype, Supernet, random_genotype
from certnas.nas.space.spaces import edge_count
from certnas.parallel import ProcessGroup
from certnas.training import recipe, train
from certnas.training.attack import pgd

PGD_STEPS = 20
RANKED_BATCHES, CALIBRATION_BATCHES = 2, 8
Entry = dict[str, Any]


def search_cell(preset: Preset, arm: str, seed: int, out: Path) -> Entry:
    """The genotype of a search, and the CPU seconds of its median step once α and metric take part.

    The supernet of its end is kept in the folder.
    """
    steps: list[float] = []
    last: dict[str, float] = {}
    before = time.process_time()

    def told(progress: SearchProgress) -> None:
        nonlocal before, last
        now = time.process_time()
        last = progress.figures
        if "held_out_loss" in last and ("metric" in last or arm == "none"):
            steps.append(now - before)
        before = time.process_time()

    folder = out / f"search-{arm}-{seed}"
    found = search(
        search_config(preset, arm, seed),
        training_images(preset),
        out=folder,
        resume=True,
        progress=told,
        pictures=False,
    )
    assert found.supernet is not None
    save_file(found.supernet.state_dict(), folder / "supernet.safetensors")
    figures = {name: last[name] for name in ("accuracy", "held_out_accuracy", "metric") if name in last}
    return {
        "genotype": found.genotype.record(),
        "metric": metric_of(arm, preset),
        "step_cpu_seconds": median(steps) if steps else float("nan"),
        "last_step": figures,
    }


def train_network(
    preset: Preset, cell: Cell, name: str, genotype: Genotype, channels: int, out: Path
) -> Entry:
    """Trains a network by a recipe for a fixed number of epochs and measures it on the test images.

    withstood: the test images, by index, that stay right under PGD.
    """
    changes = {"epochs": preset.epochs[name], "channels": channels, "layers": preset.layers}
    trained = train(
        genotype,
        training_images(preset),
        recipe(name, preset.data, changes),
        trained_folder(out, cell, name),
        seed=cell.number,
        resume=True,
    )
    model = open_trained(preset, trained.last)
    data, _ = test_images(preset)
    noise = torch.rand(data.x.shape, generator=torch.Generator().manual_seed(0))
    attacked = pgd(
        model,
        data.x,
        data.y,
        eps=preset.pgd,
        step=2.5 * preset.pgd / PGD_STEPS,
        steps=PGD_STEPS,
        start=data.x + preset.pgd * (2 * noise - 1),
    )
    right = classified(model, data.x, data.y)
    stays = right & classified(model, attacked, data.y)
    return {
        "parameters": parameters(preset, genotype, channels),
        "channels": channels,
        "operators": dict(Counter(op for op, _ in (*genotype.normal, *genotype.reduce))),
        "figures": dict(trained.last_figures),
        "accuracy": float(right.double().mean()),
        "attacked": float(stays.double().mean()),
        "withstood": data.index[stays].tolist(),
    }


def certify_network(preset: Preset, cell: Cell, name: str, norm: str, out: Path) -> Entry:
    """Certified radii of the test images by CROWN; 0 for one that is classified wrong."""
    model = open_trained(preset, trained_folder(out, cell, name) / "last")
    _, data = test_images(preset)
    found = certnas.certify(model, data.x, data.y, norm, attack=False, index=data.index.tolist())
    return {
        "method": found.method,
        "index": found.index.tolist(),
        "radius": found.radius_lower.tolist(),
        "correct": found.correct.tolist(),
    }


def rank_cells(preset: Preset, arm: str, seed: int, out: Path) -> Entry:
    """An arm's metric of each random cell, within the supernet that the search `none` of this seed ended with."""
    cells = [network(preset, Cell(RANDOM, number), {})[0] for number in preset.drawn]
    return {"metric": measured_cells(preset, arm, seed, out, cells)}


def pick_cell(preset: Preset, arm: str, seed: int, out: Path) -> Entry:
    """The cell of an arm's largest metric among DRAWN random ones, none of them those of the arm `random`."""
    generator = torch.Generator().manual_seed(1000 + seed)
    cells = [random_genotype(DARTS, generator, nodes=preset.nodes) for _ in range(DRAWN)]
    values = measured_cells(preset, arm, seed, out, cells)
    best = max(range(DRAWN), key=values.__getitem__)
    return {"genotype": cells[best].record(), "metric": metric_of(arm, preset), "values": values}


def measured_cells(preset: Preset, arm: str, seed: int, out: Path, cells: Sequence[Genotype]) -> list[float]:
    """An arm's metric of each cell, within the supernet that the search `none` of this seed ended with.

    All weight of an edge is on the cell's operator, or on `none`; batch norm has the statistics of training images
    for each cell.  The mean over held-out images of the training part.
    """
    data = training_images(preset)
    config, _, _ = effective(search_config(preset, "none", seed), data)
    sizes = config.supernet
    supernet = Supernet(
        sizes.channels, sizes.layers, data.classes, nodes=sizes.nodes, in_channels=data.x.shape[1],
        mean=config.data.mean, std=config.data.std,
    )  # fmt: skip
    supernet.load_state_dict(load_file(out / f"search-none-{seed}" / "supernet.safetensors"))
    kept, held_out = split(config, data, torch.device("cpu"), ProcessGroup())
    table = metric_of(arm, preset)
    metric = build_metric(table["name"], {**table.get("options", {}), "keep_none": True})
    session = metric.session()
    start, values = session.state_dict(), []
    for genotype in cells:
        put(supernet, genotype)
        recalibrate(supernet, kept)
        session.load_state_dict(start)
        batches = [held_out.batch(step) for step in range(RANKED_BATCHES)]
        found = [float(session(supernet, batch.x, batch.y).detach()) for batch in batches]
        values.append(sum(found) / len(found))
    return values


def put(supernet: Supernet, genotype: Genotype) -> None:
    """Sets α so that every mixture is the genotype's operator alone, or `none` where the genotype has no edge."""
    for kind, edges in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        rows, alpha = supernet.candidates[kind], getattr(supernet, f"alpha_{kind}")
        chosen = ["none"] * len(rows)
        for place, (op, state) in enumerate(edges):
            chosen[edge_count(place // 2) + state] = op
        with torch.no_grad():
            alpha.fill_(-MASKED)
            for edge, op in enumerate(chosen):
                alpha[edge, rows[edge].index(op)] = 0.0


def recalibrate(supernet: Supernet, images: Stream) -> None:
    """Gives batch norm the statistics of the first batches of images."""
    normal = [module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)]
    supernet.train()
    with torch.no_grad():
        for step in range(min(CALIBRATION_BATCHES, len(images))):
            for module in normal:
                module.momentum = 1 / (
                    step + 1
                )  # so that the running statistics are the mean over the batches
            supernet(images.batch(step).x)
    supernet.eval()


def trained_folder(out: Path, cell: Cell, name: str) -> Path:
    return out / f"train-{cell.arm}-{cell.number}-{name}"


def open_trained(preset: Preset, folder: Path) -> nn.Module:
    return open_model(str(folder), input_shape=(1, preset.side, preset.side)).module


def classified(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether each image is classified as labelled.  [N]"""
    with torch.no_grad():
        return model(x).argmax(1) == y
