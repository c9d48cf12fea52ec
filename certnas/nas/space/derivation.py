"""Derivation of cells from the operator weights of a supernet."""

from collections.abc import Sequence

from certnas.nas.space.genotypes import Edges
from certnas.nas.space.spaces import Candidates


def strongest_edges(weights: Sequence[Sequence[float]], candidates: Candidates, nodes: int) -> Edges:
    """The two strongest incoming edges of each node, each with its strongest operator other than `none`.

    weights[e][o] is the weight of operator candidates[e][o] on edge e. The strength of an edge is the
    weight of its strongest operator other than `none`. The edges of a node are in order of decreasing
    strength; in a tie, the earlier edge counts as stronger. Liu et al. 2019, section 2.4.
    """
    edges: list[tuple[str, int]] = []
    first = 0
    for node in range(2, nodes + 2):
        best = []
        for state in range(node):
            row, names = weights[first + state], candidates[first + state]
            kept = [(-weight, at) for at, weight in enumerate(row) if names[at] != "none"]
            negative, at = min(kept)
            best.append((negative, state, names[at]))
        edges += [(op, state) for _, state, op in sorted(best)[:2]]
        first += node
    return tuple(edges)
