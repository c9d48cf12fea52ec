"""RobNets: cells that keep every edge, each with a code for its operators (Guo et al. 2020)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from certnas.errors import UserError
from certnas.nas.space.genotypes import CellPlan, published_records
from certnas.nas.space.spaces import edge_count

CODES: dict[str, tuple[str, ...]] = {
    "00": (),
    "01": ("sep_conv_3x3",),
    "10": ("skip_connect",),
    "11": ("sep_conv_3x3", "skip_connect"),
}
"""Edge code -> the operators whose sum is the edge."""

Codes = tuple[str, ...]
"""The edge codes of a cell."""


@dataclass(frozen=True)
class RobNet:
    """A network defined by edge codes, in edge order (0,2), (1,2), (0,3), (1,3), (2,3), (0,4), …

    The output of a cell is the concatenation of its nodes. Raises UserError for an unknown code, or a
    number of codes that gives no cell. Guo et al. 2020, section 3.1 and its code.
    """

    cells: tuple[Codes, ...]
    """Edge codes of each cell. One entry applies to every cell of a network of any depth, normal and
    reduction; several entries define a network of exactly that depth.
    """

    affine: ClassVar[bool] = False
    """True if the batch norms of a trained network's cells have a scale and a shift."""

    def __post_init__(self) -> None:
        if not self.cells:
            raise UserError("cells: is empty; give the edge codes of one cell, or of each cell")
        for index, codes in enumerate(self.cells):
            if edge_count(_nodes(codes)) != len(codes):
                raise UserError(
                    f"cells, {index}: got {len(codes)} edge codes; a cell has 2, 5, 9, 14, ... of them, one for "
                    "each edge into 1, 2, 3, 4, ... nodes"
                )
            for edge, code in enumerate(codes):
                if code not in CODES:
                    raise UserError(
                        f"cells, {index}, edge {edge}: unknown code {code!r}; accepted: {', '.join(CODES)}"
                    )

    def cell(self, index: int, *, reduction: bool) -> CellPlan:
        """The plan of cell `index` of a network; a node without operators is zero."""
        codes = self.cells[index if len(self.cells) > 1 else 0]
        plan, first = [], 0
        for node in range(2, 2 + _nodes(codes)):
            edges = [(op, state) for state in range(node) for op in CODES[codes[first + state]]]
            plan.append(tuple(edges or [("none", 0)]))
            first += node
        return CellPlan(tuple(plan), tuple(range(2, 2 + len(plan))))

    @property
    def depth(self) -> int | None:
        """The number of cells that a network must have, or None: any number."""
        return len(self.cells) if len(self.cells) > 1 else None

    def record(self) -> dict[str, Any]:
        """The JSON record, which `parse_robnet` reads."""
        return {"cells": [list(codes) for codes in self.cells]}


def _nodes(codes: Codes) -> int:
    """The number of nodes for this many edges, at least 1."""
    nodes = 1
    while edge_count(nodes) < len(codes):
        nodes += 1
    return nodes


def parse_robnet(record: Mapping[str, Any], name: str) -> RobNet:
    """The RobNet of a JSON record with `cells`, a list of lists of codes; other keys are ignored.

    Raises UserError, which names the RobNet, for an invalid record.
    """
    try:
        cells = record["cells"]
        if not isinstance(cells, list) or not all(isinstance(codes, list) for codes in cells):
            raise UserError("cells: give a list of lists of edge codes")
        return RobNet(tuple(tuple(str(code) for code in codes) for codes in cells))
    except UserError as error:
        raise UserError(f"genotype {name!r}: {error}") from None


ROBNETS: Mapping[str, RobNet] = {
    name: parse_robnet(record, name) for name, record in published_records("robnets.json").items()
}
"""Published name -> RobNet. `robnets.json` names the source of each."""
