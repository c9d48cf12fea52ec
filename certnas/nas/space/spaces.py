"""Search spaces: the candidate operators of each edge of a cell."""

from dataclasses import dataclass

from certnas.errors import UserError
from certnas.nas.space.ops import OPS

Candidates = tuple[tuple[str, ...], ...]
"""The candidate operators of each edge, in edge order."""


@dataclass(frozen=True)
class SearchSpace:
    """A search space: the candidate operators of each edge, in edge order (0,2), (1,2), (0,3), (1,3), (2,3), (0,4), …

    A single row applies to every edge, for any number of nodes. All edges have the same number of
    candidates. Raises UserError if an edge has no candidate other than `none`, an unknown operator, or an
    operator twice.
    """

    normal: Candidates
    """Candidates of each edge of a normal cell."""
    reduce: Candidates
    """Candidates of each edge of a reduction cell."""

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
        """The candidates of each of the nodes·(nodes+3)/2 edges of a cell; `kind` is `normal` or `reduce`.

        Raises UserError if the space is defined for another number of nodes.
        """
        rows: Candidates = getattr(self, kind)
        edges = edge_count(nodes)
        if len(rows) not in (1, edges):
            raise UserError(
                f"search space: it has {len(rows)} edges in {kind} cells, {nodes} nodes have {edges}; "
                "choose the number of nodes that the space is defined for"
            )
        return rows * edges if len(rows) == 1 else rows


def edge_count(nodes: int) -> int:
    """The number of edges (i, j), i < j, into `nodes` nodes behind two inputs: 2 + 3 + … + (nodes + 1)."""
    return nodes * (nodes + 3) // 2


def uniform(*operators: str) -> SearchSpace:
    """The space with these candidates on every edge of both cells."""
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
"""The search space of Liu et al. 2019, section 3.1, in the order of its published code."""

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

s1 to s4 are the spaces of Zela et al. 2020, section 4. s1 is that of automl/RobustDARTS@3a87007
src/spaces.py: an iterative search kept two operators on each edge, for 4 nodes. s5 is DARTS without `none`
(Chen and Hsieh 2020).
"""
