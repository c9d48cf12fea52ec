"""Drawings of cells: PNG pictures and DOT text."""

from io import BytesIO

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from certnas.nas.space.genotypes import CellPlan, Genotype
from certnas.nas.space.robnets import RobNet

INPUTS = ("c_{k-2}", "c_{k-1}")
OUTPUT = "c_k"
COLOURS = {
    "sep": "#cfe0f5",
    "dil": "#c9ebe4",
    "conv": "#dcd3f0",
    "max": "#fbdcb8",
    "avg": "#fbeec0",
    "skip": "#e6e6e6",
    "none": "#ffffff",
    "noise": "#f6c9c9",
}
"""Operator family -> colour of its boxes."""
INK, WIRE, LIGHT = "#24292f", "#6b7280", "#b6bcc5"
COLUMN, ROW = 1.15, 0.42  # inches between columns and between rows
SWEEPS = 8
"""Number of sweeps that order the columns."""

Places = dict[str, tuple[float, float]]
"""Graph node -> (column, row)."""


def cells(genotype: Genotype | RobNet) -> dict[str, CellPlan]:
    """The cells to draw, by title: the normal and the reduction cell, or the cells of a RobNet."""
    if isinstance(genotype, Genotype):
        return {
            "normal cell": genotype.cell(0, reduction=False),
            "reduction cell": genotype.cell(0, reduction=True),
        }
    if len(genotype.cells) == 1:
        return {"every cell": genotype.cell(0, reduction=False)}
    return {f"cell {k}": genotype.cell(k, reduction=False) for k in range(len(genotype.cells))}


def cell_graph(plan: CellPlan) -> nx.DiGraph:
    """The graph of a cell: state → operator → the state that adds it, and output states → the output.

    Graph nodes have three attributes: `label`, `kind` (state or operator) and `layer`, the column from left
    to right.
    """
    graph = nx.DiGraph()
    depth = [0, 0]
    for name in INPUTS:
        graph.add_node(name, label=name, kind="state", layer=0)
    for position, edges in enumerate(plan.nodes):
        depth.append(1 + max(depth[state] for _, state in edges))
        target = state_name(position + 2)
        graph.add_node(target, label=str(position), kind="state", layer=2 * depth[-1])
        for number, (op, state) in enumerate(edges):
            box = f"{target}.{number}"
            graph.add_node(box, label=op, kind="operator", layer=2 * depth[-1] - 1)
            graph.add_edge(state_name(state), box)
            graph.add_edge(box, target)
    graph.add_node(OUTPUT, label=OUTPUT, kind="state", layer=2 * max(depth) + 1)
    for state in dict.fromkeys(plan.concat):
        graph.add_edge(state_name(state), OUTPUT)
    return graph


def state_name(index: int) -> str:
    """The name of state `index` of a cell: its two inputs, then its nodes from 0."""
    return INPUTS[index] if index < 2 else f"node {index - 2}"


def dot_text(genotype: Genotype | RobNet, name: str) -> str:
    """The cells in Graphviz's DOT language: one cluster per cell, operators as edge labels."""
    lines = [f"digraph {_quoted(name)} {{", "  rankdir=LR;", '  node [shape=box, style="rounded,filled"];']
    for number, (title, plan) in enumerate(cells(genotype).items()):
        names = [f"{number}:{state_name(k)}" for k in range(2 + len(plan.nodes))]
        lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted(title)};"]
        lines += [f"    {_quoted(full)} [label={_quoted(full.partition(':')[2])}];" for full in names]
        lines.append(f"    {_quoted(f'{number}:{OUTPUT}')} [label={_quoted(OUTPUT)}];")
        for position, edges in enumerate(plan.nodes):
            for op, state in edges:
                ends = f"{_quoted(names[state])} -> {_quoted(names[position + 2])}"
                lines.append(f"    {ends} [label={_quoted(op)}];")
        for state in dict.fromkeys(plan.concat):
            lines.append(f"    {_quoted(names[state])} -> {_quoted(f'{number}:{OUTPUT}')} [style=dashed];")
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def cell_picture(genotype: Genotype | RobNet, title: str) -> bytes:
    """The cells below each other, each from left to right, as a PNG.

    States are dark boxes and operators coloured ones. Light lines lead from the output states to their
    concatenation.
    """
    drawings = {name: _placed(cell_graph(plan)) for name, plan in cells(genotype).items()}
    columns = max(x for places, _ in drawings.values() for x, _ in places.values())
    heights = [max(y for _, y in places.values()) + 1.9 for places, _ in drawings.values()]
    figure = Figure(figsize=(COLUMN * (columns + 1), ROW * sum(heights) + 0.5), dpi=130)
    FigureCanvasAgg(figure)
    figure.suptitle(
        title, fontsize=12, fontweight="bold", y=1 - 0.12 / figure.get_figheight(), va="top", parse_math=False
    )
    top = figure.get_figheight() - 0.5
    for (name, (places, graph)), height in zip(drawings.items(), heights, strict=True):
        top -= ROW * height
        axes = figure.add_axes((0, top / figure.get_figheight(), 1, ROW * height / figure.get_figheight()))
        axes.set(xlim=(-0.5, columns + 0.5), ylim=(-0.7, height - 0.7))
        axes.axis("off")
        axes.text(-0.4, height - 0.9, name, fontsize=10, color=INK, va="top", fontstyle="italic")
        _draw(axes, graph, places)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "certnas"})
    return buffer.getvalue()


def _placed(graph: nx.DiGraph) -> tuple[Places, nx.DiGraph]:
    """(column, row) of each graph node, and the graph with a bend wherever an edge crosses a column.

    Rows start at 0.
    """
    routed = nx.DiGraph()
    routed.add_nodes_from(graph.nodes(data=True))
    for start, end in graph.edges:
        lane = "to output" if end == OUTPUT else "to operators"
        path = [start]
        for layer in range(graph.nodes[start]["layer"] + 1, graph.nodes[end]["layer"]):
            path.append(f"{start} {lane} {layer}")
            routed.add_node(path[-1], kind="bend", layer=layer)
        nx.add_path(routed, [*path, end], lane=lane)
    layers: dict[int, list[str]] = {}
    for node, layer in sorted(routed.nodes(data="layer"), key=lambda item: item[1]):
        layers.setdefault(layer, []).append(node)
    for sweep in range(SWEEPS):
        _order(layers, routed, forward=sweep % 2 == 0)
    unit = nx.multipartite_layout(routed, subset_key=layers)
    lowest = min(y for _, y in unit.values())
    row = abs(unit[INPUTS[0]][1] - unit[INPUTS[1]][1])
    return {n: (routed.nodes[n]["layer"], float((y - lowest) / row)) for n, (_, y) in unit.items()}, routed


def _order(layers: dict[int, list[str]], graph: nx.DiGraph, *, forward: bool) -> None:
    """Sort each column by the mean relative height of the neighbours in the previous column; fewer edges
    cross.
    """
    adjacent = graph.pred if forward else graph.succ
    heights: dict[str, float] = {}
    for layer in sorted(layers, reverse=not forward):
        members = layers[layer]
        near = {node: [heights[other] for other in adjacent[node]] for node in members}
        means = {node: sum(near[node]) / max(len(near[node]), 1) for node in members}
        members.sort(key=means.__getitem__)
        heights.update({node: at - (len(members) - 1) / 2 for at, node in enumerate(members)})


def _draw(axes: Axes, graph: nx.DiGraph, places: Places) -> None:
    for start, end, lane in graph.edges(data="lane"):
        (x0, y0), (x1, y1) = places[start], places[end]
        middle = (x0 + x1) / 2
        ends = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
        curve = Path(ends, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        colour = LIGHT if lane == "to output" else WIRE
        axes.add_patch(PathPatch(curve, fill=False, lw=1.2, color=colour, zorder=1))
    for node, facts in graph.nodes(data=True):
        if facts["kind"] == "bend":
            continue
        state, label = facts["kind"] == "state", facts["label"]
        fill = INK if state else COLOURS[label.partition("_")[0]]
        axes.text(
            *places[node],
            f"${label}$" if label.startswith("c_") else label,
            color="white" if state else INK,
            fontsize=9 if state else 7.5,
            ha="center",
            va="center",
            bbox={
                "boxstyle": "round,pad=0.35",
                "facecolor": fill,
                "edgecolor": INK if state else WIRE,
                "lw": 0.8,
            },
            zorder=2,
        )
