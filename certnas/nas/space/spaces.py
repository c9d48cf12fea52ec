"""Search spaces: which operators may stand on which edge of a cell."""

from dataclasses import dataclass

from certnas.errors import UserError
from certnas.nas.space.ops import OPS

Candidates = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SearchSpace:
    """The candidate operators of each edge, in edge order: (0,2), (1,2), (0,3), (1,3), (2,3), (0,4), …

    One row stands for every edge of cells of any number of nodes. All edges have equally many candidates, at
    least one of them not `none`.  Raises UserError for anything else.
    """

    normal: Candidates
    reduce: Candidates

    def __post_init__(self) -> None:
        for kind, rows in (("normal", self.normal), ("reduce", self.reduce)):
            if not rows or len({len(row) for row in rows}) != 1:
                raise UserError(f"search space, {kind}: give every edge the same number of operators")
            for edge, row in enumerate(rows):
                unknown = [op for op in row if op not in OPS]
                if unknown:
                    raise UserError(
                        f"search space, {kind}, edge {edge}: unknown operator {unknown[0]!r}; "
                        f"accepted: {', '.join(OPS)}"
                    )
                if len(set(row)) != len(row) or set(row) <= {"none"}:
                    raise UserError(
                        f"search space, {kind}, edge {edge}: got {list(row)}; "
                        "give different operators, at least one of them not 'none'"
                    )

    def candidates(self, kind: str, nodes: int) -> Candidates:
        """The operators of each of the nodes·(nodes+3)/2 edges of a cell, `kind` in {normal, reduce}.

        Raises UserError when the space has rows for another number of nodes.
        """
        rows: Candidates = getattr(self, kind)
        edges = edge_count(nodes)
        if len(rows) not in (1, edges):
            raise UserError(
                f"search space: it has {len(rows)} edges in {kind} cells, {nodes} nodes have {edges}; "
                "choose the number of nodes it was made for"
            )
        return rows * edges if len(rows) == 1 else rows


def edge_count(nodes: int) -> int:
    """The number of edges (i, j), i < j, into `nodes` nodes after the two inputs: 2 + 3 + … + (nodes + 1)."""
    return nodes * (nodes + 3) // 2


def uniform(*operators: str) -> SearchSpace:
    """The space with these operators on every edge of both cells."""
    return SearchSpace((operators,), (operators,))


DARTS = uniform(
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The space of Liu et al. 2019, section 3.1, in the order of its published code."""

_S1_NORMAL: Candidates = (
    ("skip_connect", "dil_conv_3x3"),
    ("skip_connect", "dil_conv_5x5"),
    ("skip_connect", "dil_conv_5x5"),
    ("skip_connect", "sep_conv_3x3"),
    ("skip_connect", "dil_conv_3x3"),
    ("max_pool_3x3", "skip_connect"),
    ("skip_connect", "sep_conv_3x3"),
    ("skip_connect", "sep_conv_3x3"),
    ("skip_connect", "dil_conv_3x3"),
    ("skip_connect", "sep_conv_3x3"),
    ("max_pool_3x3", "skip_connect"),
    ("skip_connect", "dil_conv_3x3"),
    ("dil_conv_3x3", "dil_conv_5x5"),
    ("dil_conv_3x3", "dil_conv_5x5"),
)
_S1_REDUCE: Candidates = (
    ("max_pool_3x3", "avg_pool_3x3"),
    ("max_pool_3x3", "dil_conv_3x3"),
    ("max_pool_3x3", "avg_pool_3x3"),
    ("max_pool_3x3", "avg_pool_3x3"),
    ("skip_connect", "dil_conv_5x5"),
    ("max_pool_3x3", "avg_pool_3x3"),
    ("max_pool_3x3", "sep_conv_3x3"),
    ("skip_connect", "dil_conv_3x3"),
    ("skip_connect", "dil_conv_5x5"),
    ("max_pool_3x3", "avg_pool_3x3"),
    ("max_pool_3x3", "avg_pool_3x3"),
    ("skip_connect", "dil_conv_5x5"),
    ("skip_connect", "dil_conv_5x5"),
    ("skip_connect", "dil_conv_5x5"),
)

SPACES: dict[str, SearchSpace] = {
    "darts": DARTS,
    "s1": SearchSpace(_S1_NORMAL, _S1_REDUCE),
    "s2": uniform("skip_connect", "sep_conv_3x3"),
    "s3": uniform("none", "skip_connect", "sep_conv_3x3"),
    "s4": uniform("noise", "sep_conv_3x3"),
    "s5": uniform(*(op for op in DARTS.normal[0] if op != "none")),
}
"""Name -> search space.

s1 to s4 are those of Zela et al. 2020, section 4, s1 as in automl/RobustDARTS@3a87007 src/spaces.py: the two
operators of each edge that an iterative search kept, for 4 nodes. s5 is DARTS without `none` (Chen and Hsieh 2020).
"""
