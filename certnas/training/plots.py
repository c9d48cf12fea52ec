"""The training curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from certnas.runs.folder import LOG


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    """The results of every epoch in the log of a run folder."""
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def curves(epochs: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Loss and accuracies by epoch, as a PNG; with the warm-up's ε if there is one."""
    with matplotlib.rc_context(
        {"font.size": 10, "axes.spines.top": False, "axes.grid": True, "grid.alpha": 0.25}
    ):
        figure = Figure(figsize=(9, 3.8), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        at = [line["step"] for line in epochs]
        left.plot(at, [line["loss"] for line in epochs], color="#1f5fa8", label="loss")
        left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
        if any(line.get("eps") for line in epochs):
            ramp = left.twinx()
            ramp.grid(visible=False)
            ramp.plot(at, [line["eps"] for line in epochs], color="#8a8a8a", ls=":", label="ε")
            ramp.set(ylabel="ε trained against, dotted", ylim=(0, None))
        names = ["accuracy", *(name for name in epochs[-1] if name.startswith("validation_"))]
        for name, colour in zip(names, ("#8a8a8a", "#1f5fa8", "#c4501b"), strict=False):
            word = (
                "training"
                if name == "accuracy"
                else name.replace("validation_", "held-out ").replace("_", " ")
            )
            right.plot(at, [100 * line[name] for line in epochs], color=colour, label=word)
        right.set(xlabel="epoch", ylabel="images (%)", ylim=(0, 103))
        right.legend(frameon=False)
        figure.suptitle(title, fontsize=11, fontweight="bold")
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "certnas"})
    return buffer.getvalue()
