"""From the weights of a supernet's operators to cells."""

from collections.abc import Sequence

from certnas.nas.space.genotypes import Edges
from certnas.nas.space.spaces import Candidates


def strongest_edges(weights: Sequence[Sequence[float]], candidates: Candidates, nodes: int) -> Edges:
    """For each node its two strongest incoming edges, each with its strongest operator but `none`.

    weights[e][o] is the weight of operator candidates[e][o] on edge e; an edge is as strong as its strongest
    operator but `none`. Edges of a node are in the order of their strength; of equals the earlier one is
    stronger.  Liu et al. 2019, section 2.4.
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
