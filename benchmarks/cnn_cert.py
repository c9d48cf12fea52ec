"""CNN-Cert's protocol on its own CNN shapes: one target per image and no box, and for comparison all
targets with the box.
"""

from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import bounds
from benchmarks.certified import Question, batches, certify_batch, collect
from benchmarks.record import Record, options
from benchmarks.third_party import NETWORKS, mnist
from certnas.models import open_model

RELU = Path(__file__).parent / "mnist_cnn_5layer_relu.safetensors"
SIGMOID, TANH = "mnist_cnn_5layer_5_3", "mnist_cnn_5layer_5_3_tanh"
NAMES, NORMS = ("relu", SIGMOID, TANH), ("linf", "l2", "l1")
TARGETS, BOXES = ("random", "least", "runner-up", "all"), {"off": None, "on": (0.0, 1.0)}
FIRST, IMAGES, BATCH = 10, 100, 15
METHODS: dict[str, bounds.Method] = {
    "crown": bounds.Crown(),
    "crown, parallel": bounds.Crown(slope=bounds.Slope.PARALLEL),
    "alpha-crown(10)": bounds.AlphaCrown(iterations=10),
}
PUBLISHED = {
    ("relu", "linf"): "CNN-Cert 0.04 (relu), 0.05 (ada, 2.33 s an image)",
    ("relu", "l2"): "CNN-Cert 0.15 (relu), 0.18 (ada, 0.88 s)",
    ("relu", "l1"): "CNN-Cert 0.28 (relu), 0.34 (ada, 0.86 s)",
    (
        SIGMOID,
        "linf",
    ): "DualApp 0.0599, NeWise 0.0581, VeriNet 0.0550, DeepCert 0.0548, RobustVerifier 0.0513",
}
"""Published values for orientation.

relu is the average of CNN-Cert's own MNIST 4-layer, 5-filter network, with other weights. sigmoid has the
same weights, about 100 images and random targets.
"""


def opened(name: str) -> nn.Module:
    """The network with this name; scripts/train_cnn_cert.py trained the ReLU network."""
    if name == "relu":
        return open_model(str(RELU), arch="cnn-cert-relu").module
    return NETWORKS[name].module()


def table(record: Record) -> Table:
    """One line per question with results."""
    result = Table(title="mean certified radius, [0, 1] pixels, misclassified images skipped")
    for column in ("network", "norm", "method", "targets", "box"):
        result.add_column(column)
    for column in ("first 10", "all done", "images", "CPU s / image"):
        result.add_column(column, justify="right")
    result.add_column("published")
    for name in NAMES:
        for norm in NORMS:
            for label, method in METHODS.items():
                for box, clip in BOXES.items():
                    for targets in TARGETS:
                        found = collect(record, Question(name, norm, label, method, targets, clip))
                        if found is None:
                            continue
                        means = [f"{found.first(FIRST).mean():.5f}", f"{found.mean():.5f}"]
                        count = f"{int(found.correct.sum())} of {len(found.correct)}"
                        seconds = f"{found.cpu_seconds / len(found.correct):.2f}"
                        theirs = PUBLISHED.get((name, norm), "") if targets == "random" else ""
                        result.add_row(name, norm, label, targets, box, *means, count, seconds, theirs)
    return result


@click.command()
@options
@click.option("--network", "names", multiple=True, type=click.Choice(NAMES), default=NAMES)
@click.option("--norm", "norms", multiple=True, type=click.Choice(NORMS), default=NORMS)
@click.option("--targets", "targets", multiple=True, type=click.Choice(TARGETS), default=TARGETS)
@click.option("--box", "boxes", multiple=True, type=click.Choice(list(BOXES)), default=list(BOXES))
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), default=["crown"])
@click.option("--images", default=IMAGES, show_default=True, type=click.IntRange(FIRST, IMAGES))
def main(
    out: Path,
    quick: bool,
    threads: int,
    names: tuple[str, ...],
    norms: tuple[str, ...],
    targets: tuple[str, ...],
    boxes: tuple[str, ...],
    methods: tuple[str, ...],
    images: int,
) -> None:
    """CNN-Cert's protocol: the first ten test images, then the others up to --images."""
    torch.set_num_threads(threads)
    record = Record.open(out, "cnn_cert", {"seed": 0, "tol": 1e-3})
    console = Console()
    x, y = mnist(images)
    loaded = {name: opened(name) for name in names}
    first = [(0, 4 if quick else FIRST)]
    for rows in first if quick else [*first, *batches(BATCH, images, FIRST)]:
        for method in methods:
            for norm in norms[: 1 if quick else None]:
                for box in boxes:
                    for target in targets:
                        for name, model in loaded.items():
                            question = Question(name, norm, method, METHODS[method], target, BOXES[box])
                            certify_batch(record, question, model, x, y, rows)
                            console.print(f"{question.key} | {rows[0]}", highlight=False)
    console.print(table(record))


if __name__ == "__main__":
    main()
