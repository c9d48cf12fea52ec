"""Cells as graphs, pictures and DOT text."""

import re
from io import BytesIO
from itertools import combinations, pairwise

import pytest
from PIL import Image

from certnas.nas.space import GENOTYPES, OPS, PUBLISHED, Genotype, RobNet, picture
from certnas.nas.space.picture import COLOURS, OUTPUT, _placed, cell_graph, cell_picture, cells, dot_text

CELL = Genotype(
    (("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 2), ("none", 0)),
    (3, 2, 3),
    (("avg_pool_3x3", 0), ("avg_pool_3x3", 0)),
    (2,),
)


def test_the_graph_of_a_cell() -> None:
    graph = cell_graph(CELL.cell(0, reduction=False))
    states = {node: facts["layer"] for node, facts in graph.nodes(data=True) if facts["kind"] == "state"}
    assert states == {"c_{k-2}": 0, "c_{k-1}": 0, "node 0": 2, "node 1": 4, "c_k": 5}
    paths = set()
    for box in (node for node, kind in graph.nodes(data="kind") if kind == "operator"):
        (start,), (end,) = graph.predecessors(box), graph.successors(box)
        paths.add((start, graph.nodes[box]["label"], end))
        assert graph.nodes[start]["layer"] < graph.nodes[box]["layer"] == graph.nodes[end]["layer"] - 1
    assert paths == {
        ("c_{k-2}", "sep_conv_3x3", "node 0"),
        ("c_{k-1}", "skip_connect", "node 0"),
        ("node 0", "max_pool_3x3", "node 1"),
        ("c_{k-2}", "none", "node 1"),
    }
    assert set(graph.predecessors(OUTPUT)) == {"node 0", "node 1"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_lies_on_anything_else(name: str) -> None:
    for plan in list(cells(PUBLISHED[name]).values())[:3]:
        places, routed = _placed(cell_graph(plan))
        spots = sorted(places.values())
        assert set(places) == set(routed)
        assert min(y for _, y in spots) == 0
        for (x, y), (other_x, other_y) in pairwise(spots):
            assert x < other_x or other_y - y > 0.99, "a row apart in one column"
        for start, end in routed.edges:
            assert places[end][0] - places[start][0] == 1, "wires bend at every column"


def crossings() -> int:
    """Pairs of wires of the published cells that cross between two columns."""
    total = 0
    for genotype in GENOTYPES.values():
        for plan in cells(genotype).values():
            places, routed = _placed(cell_graph(plan))
            for first, second in combinations(routed.edges, 2):
                (a, b), (c, d) = [(places[s], places[e]) for s, e in (first, second)]
                total += a[0] == c[0] and (a[1] - c[1]) * (b[1] - d[1]) < 0
    return total


def test_columns_are_ordered_so_that_wires_cross_less(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = crossings()
    monkeypatch.setattr(picture, "SWEEPS", 0)
    assert ordered < crossings() / 2


@pytest.mark.parametrize("name", ["DARTS_V2", "AmoebaNet", "RobNet_large"])
def test_the_picture_is_a_png(name: str) -> None:
    png = cell_picture(PUBLISHED[name], f"{name} $ cost")
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG" and min(image.size) > 300
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    used = {op for plan in cells(PUBLISHED[name]).values() for edges in plan.nodes for op, _ in edges}
    for op in used:
        assert tuple(bytes.fromhex(COLOURS[op.partition("_")[0]][1:])) in colours, op
    assert cell_picture(PUBLISHED[name], f"{name} $ cost") == png, "the same bytes each time"


def test_every_operator_has_a_colour() -> None:
    assert {op.partition("_")[0] for op in OPS} == set(COLOURS)


def test_cells_of_each_kind() -> None:
    assert list(cells(CELL)) == ["normal cell", "reduction cell"]
    assert list(cells(RobNet((("01", "10"),)))) == ["every cell"]
    assert list(cells(RobNet((("01", "10"), ("11", "00"))))) == ["cell 0", "cell 1"]


def test_dot_text_says_every_edge() -> None:
    text = dot_text(CELL, 'a "name"')
    assert text.startswith('digraph "a \\"name\\"" {\n') and text.endswith("}\n")
    assert text.count("{") - text.count("{k") == text.count("}") - text.count('}"')
    edges = re.findall(r'^    "(.*?)" -> "(.*?)" \[(.*?)\];$', text, re.MULTILINE)
    assert edges == [
        ("0:c_{k-2}", "0:node 0", 'label="sep_conv_3x3"'),
        ("0:c_{k-1}", "0:node 0", 'label="skip_connect"'),
        ("0:node 0", "0:node 1", 'label="max_pool_3x3"'),
        ("0:c_{k-2}", "0:node 1", 'label="none"'),
        ("0:node 1", "0:c_k", "style=dashed"),
        ("0:node 0", "0:c_k", "style=dashed"),
        ("1:c_{k-2}", "1:node 0", 'label="avg_pool_3x3"'),
        ("1:c_{k-2}", "1:node 0", 'label="avg_pool_3x3"'),
        ("1:node 0", "1:c_k", "style=dashed"),
    ]


def test_every_published_genotype_is_written_as_dot() -> None:
    for name, genotype in GENOTYPES.items():
        edges = len(genotype.normal) + len(genotype.reduce)
        outputs = len(set(genotype.normal_concat)) + len(set(genotype.reduce_concat))
        assert dot_text(genotype, name).count(" -> ") == edges + outputs
