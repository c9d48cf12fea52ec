"""Pictures of a running search."""

from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from certnas.nas.space import Supernet

STYLE: dict[str, Any] = {"cmap": "RdBu_r", "aspect": "auto"}
"""Arguments of matplotlib's imshow."""


def alpha_picture(supernet: Supernet, epoch: int) -> bytes:
    """The operator weights softmax(α) of both cells as heat maps, one row per edge and one column per operator; a PNG.

    Colours are relative to equal weights. Operators have names on the axis if all edges have the same ones.
    """
    with matplotlib.rc_context({"font.size": 9}):
        weights = {kind: _weights(supernet, kind) for kind in supernet.candidates}
        edges, columns = weights["normal"].shape
        figure = Figure(figsize=(2.4 + 1.1 * columns, 2.2 + 0.24 * edges), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        even = 1 / columns
        most = max(float((table - even).abs().max()) for table in weights.values())
        for axes, (kind, table) in zip(figure.subplots(1, 2), weights.items(), strict=True):
            rows = supernet.candidates[kind]
            same = all(row == rows[0] for row in rows)
            image = axes.imshow(table.numpy(), vmin=even - most, vmax=even + most, **STYLE)
            axes.set_xticks(range(columns), rows[0] if same else range(columns), rotation=60, ha="right")
            axes.set_yticks(range(edges), _edges(supernet.nodes))
            axes.set_title(f"{kind} cell", fontsize=10)
        figure.suptitle(f"weights of the operators after epoch {epoch}", fontsize=11, fontweight="bold")
        figure.colorbar(image, ax=figure.axes, shrink=0.8)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "certnas"})
    return buffer.getvalue()


def _weights(supernet: Supernet, kind: str) -> Tensor:
    alpha: Tensor = getattr(supernet, f"alpha_{kind}")
    return alpha.detach().softmax(-1).cpu()


def _edges(nodes: int) -> list[str]:
    return [f"{state}→{node}" for node in range(2, nodes + 2) for state in range(node)]
