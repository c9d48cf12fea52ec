"""The report of a run, in Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from certnas import bounds
from certnas.certifier.certificates import Certificates
from certnas.models.trained import read_network
from certnas.nas.space import Genotype, RobNet
from certnas.nas.space.picture import cells, state_name
from certnas.pipeline.config import RunConfig
from certnas.training import Trained
from certnas.training.plots import epochs_of


def report(
    out: Path,
    config: RunConfig,
    genotype: Genotype | RobNet,
    trained: Trained,
    certificates: Certificates,
) -> str:
    """The Markdown text: tables of the search, the training and the certification, with the pictures in
    `out`.
    """
    search = config.search
    parts = [
        f"# {search.algorithm.name} with {search.metric.name} on {search.data.name}",
        f"Seed {config.seed}; every value is in [config.toml](config.toml).",
        _certified(certificates),
        "![certified accuracy](certify/accuracy.png) ![certified radii](certify/radii.png)",
        "## Genotype",
        _genotype(genotype),
        "![cells](cells.png)",
        _search(out),
        "## Training",
        _training(out, config, trained),
        "![training](train/curves.png)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _certified(certificates: Certificates) -> str:
    radii = bounds.NORMS[certificates.norm].reported
    figures = certificates.summary(radii)
    what = f"certified {certificates.norm} radius, pixels in [0, 1], by {certificates.method}"
    rows = [
        ("test images", figures.images),
        ("clean accuracy", _share(figures.clean_accuracy)),
        (f"{what}, mean of all images", _number(figures.mean_radius_all)),
        ("the same, median", _number(figures.median_radius_all)),
        ("the same, mean of images that are right", _number(figures.mean_radius_correct)),
        ("certified / attacked, mean", _share(figures.sandwich_mean)),
        *((f"certified accuracy at {eps:.4g}", _share(figures.certified_accuracy[eps])) for eps in radii),
    ]
    return table(("figure", "value"), rows)


def _genotype(genotype: Genotype | RobNet) -> str:
    parts = []
    for title, plan in cells(genotype).items():
        rows = [
            (state_name(at + 2), " + ".join(f"{op}({state_name(state)})" for op, state in edges))
            for at, edges in enumerate(plan.nodes)
        ]
        parts.append(table((title, "is"), rows))
        counts = Counter(op for edges in plan.nodes for op, _ in edges)
        parts.append("Operators: " + ", ".join(f"{count} {op}" for op, count in counts.most_common()) + ".")
    return "\n\n".join(parts)


def _search(out: Path) -> str:
    """The results of the search's last epoch and its last picture of α; empty for a search without epochs."""
    log = out / "search" / "log.jsonl"
    epochs = epochs_of(out / "search") if log.exists() else []
    if not epochs:
        return ""
    parts = [
        "## Search",
        f"After epoch {epochs[-1]['step']}:",
        table(("figure", "value"), _figures(epochs[-1])),
    ]
    pictures = sorted((out / "search" / "pictures").glob("*.png"))
    if pictures:
        parts.append(f"![weights of the operators]({pictures[-1].relative_to(out)})")
    return "\n\n".join(parts)


def _figures(line: Mapping[str, object]) -> list[tuple[str, str]]:
    shown = {k: v for k, v in line.items() if k not in ("kind", "step", "time")}
    return [(name.replace("_", " "), f"{v:.4g}") for name, v in shown.items() if isinstance(v, int | float)]


def _training(out: Path, config: RunConfig, trained: Trained) -> str:
    measure = config.train.objective.measure
    names = ["validation_accuracy", *([] if measure == "accuracy" else [f"validation_{measure}"])]
    rows = [
        (kind, f"{figures['epoch']:.0f}", *(_share(figures[name]) for name in names))
        for kind, figures in (("best", trained.best_figures), ("last", trained.last_figures))
    ]
    heads = [name.replace("validation_", "held-out ").replace("_", " ") for name in names]
    network = read_network(trained.best).module
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count:,} parameters.\n\n" + table(("network", "epoch", *heads), rows)


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.5f}"
