"""Genotypes: the two cells of a network as data, and the published genotypes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, ClassVar, NamedTuple

from certnas.errors import UserError
from certnas.nas.space.ops import OPS

Edges = tuple[tuple[str, int], ...]
"""Edges (operator, input state), in node order."""


class CellPlan(NamedTuple):
    """The structure of a cell of any kind."""

    nodes: tuple[Edges, ...]
    """nodes[n] lists the edges (operator, input state) into state n + 2; the state is their sum."""
    concat: tuple[int, ...]
    """The states whose concatenation is the output of the cell."""


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell, each a DAG over two input states 0 and 1 and its nodes 2, 3, ...

    Each node is the sum of two edges: node 2 of edges 0 and 1, node 3 of edges 2 and 3, and so on. Raises
    UserError for an invalid cell. Liu et al. 2019, section 2.1.
    """

    normal: Edges
    """Edges (operator, input state) of the normal cell, two per node, in node order."""
    normal_concat: tuple[int, ...]
    """States whose concatenation is the output of the normal cell."""
    reduce: Edges
    """Edges (operator, input state) of the reduction cell, two per node, in node order."""
    reduce_concat: tuple[int, ...]
    """Nodes whose concatenation is the output of the reduction cell."""

    affine: ClassVar[bool] = True
    """True if the batch norms of a trained network's cells have a scale and a shift."""

    def __post_init__(self) -> None:
        # The inputs of a reduction cell have twice the size of its nodes, so they cannot be part of its output.
        _check_cell("normal", self.normal, self.normal_concat, first_output=0)
        _check_cell("reduce", self.reduce, self.reduce_concat, first_output=2)

    def cell(self, index: int, *, reduction: bool) -> CellPlan:
        """The plan of cell `index` of a network."""
        edges = self.reduce if reduction else self.normal
        concat = self.reduce_concat if reduction else self.normal_concat
        return CellPlan(tuple(edges[first : first + 2] for first in range(0, len(edges), 2)), concat)

    @property
    def depth(self) -> int | None:
        """The number of cells that a network must have, or None: any number."""
        return None

    def record(self) -> dict[str, Any]:
        """The JSON record, which `parse_genotype` reads."""
        return {
            "normal": [list(edge) for edge in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(edge) for edge in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }


def _check_cell(kind: str, edges: Edges, concat: tuple[int, ...], *, first_output: int) -> None:
    if not edges or len(edges) % 2:
        raise UserError(
            f"{kind}: got {len(edges)} edges; a cell has two edges for each of its nodes, give 2, 4, 6, ..."
        )
    for position, (op, state) in enumerate(edges):
        node = 2 + position // 2
        if op not in OPS:
            raise UserError(f"{kind}, edge {position}: unknown operator {op!r}; accepted: {', '.join(OPS)}")
        if not 0 <= state < node:
            raise UserError(
                f"{kind}, edge {position} ({op}): input state {state} does not come before node {node}; "
                f"accepted: 0 to {node - 1}"
            )
    last = 1 + len(edges) // 2
    if not concat:
        raise UserError(f"{kind}_concat: is empty; list at least one state from {first_output} to {last}")
    for state in concat:
        if not first_output <= state <= last:
            raise UserError(
                f"{kind}_concat: state {state} cannot be an output; accepted: {first_output} to {last}"
            )


def parse_genotype(record: Mapping[str, Any], name: str) -> Genotype:
    """The genotype of a JSON record with normal, normal_concat, reduce and reduce_concat; other keys are ignored.

    An edge is [operator, input state]. Raises UserError, which names the genotype, for an invalid record.
    """
    fields: dict[str, Any] = {}
    try:
        for kind in ("normal", "reduce"):
            for key in (kind, f"{kind}_concat"):
                if key not in record:
                    raise UserError(
                        f"key {key!r} is missing; a genotype has normal, normal_concat, reduce, reduce_concat"
                    )
                if not isinstance(record[key], list | tuple):
                    raise UserError(f"{key}: got {record[key]!r}; give a list")
            fields[kind] = tuple(_edge(edge, kind, position) for position, edge in enumerate(record[kind]))
            concat = f"{kind}_concat"
            fields[concat] = tuple(_state(state, concat) for state in record[concat])
        return Genotype(**fields)
    except UserError as error:
        raise UserError(f"genotype {name!r}: {error}") from None


def _edge(edge: object, kind: str, position: int) -> tuple[str, int]:
    where = f"{kind}, edge {position}"
    if not isinstance(edge, list | tuple) or len(edge) != 2 or not isinstance(edge[0], str):
        raise UserError(f"{where}: got {edge!r}; an edge is a pair [operator, input state]")
    return edge[0], _state(edge[1], where)


def _state(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: got {value!r} for a state; a state is an integer, 0 or more")
    return value


def published_records(file: str) -> dict[str, dict[str, Any]]:
    """Name -> record of a JSON file of this package; each record names its `source`."""
    return json.loads((files("certnas.nas.space") / file).read_text(encoding="utf-8"))


GENOTYPES: Mapping[str, Genotype] = {
    name: parse_genotype(record, name) for name, record in published_records("genotypes.json").items()
}
"""Published name -> genotype. `genotypes.json` names the source of each."""


def published_genotype(name: str) -> Genotype:
    """The published genotype with this name. Raises UserError, with the most similar names, for an unknown one."""
    if name in GENOTYPES:
        return GENOTYPES[name]
    raise UserError(
        f"genotype: unknown name {name!r}{nearest(name, GENOTYPES)}; accepted: {', '.join(GENOTYPES)}"
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """The names most similar to `name`, in brackets after a blank, for a message; empty if none is similar."""
    near = get_close_matches(name, names, n=3, cutoff=0.3)
    return f" (nearest: {', '.join(near)})" if near else ""
