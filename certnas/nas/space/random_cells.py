"""Random cells of a search space, the control of a search."""

from collections.abc import Callable, Sequence

import torch

from certnas.errors import UserError
from certnas.nas.space.genotypes import Edges, Genotype
from certnas.nas.space.spaces import Candidates, SearchSpace, edge_count


def random_genotype(
    space: SearchSpace, generator: torch.Generator, *, nodes: int = 4, concat: Sequence[int] | None = None
) -> Genotype:
    """A uniformly random genotype.

    Each node gets two different input states, and each edge a random candidate except `none`. `concat`
    lists the output states of both cells, by default all nodes. The two cells are independent. Raises
    UserError if the space is defined for another number of nodes.
    """
    outputs = tuple(range(2, nodes + 2)) if concat is None else tuple(concat)
    normal, reduce = (_cell(space.candidates(kind, nodes), nodes, generator) for kind in ("normal", "reduce"))
    return Genotype(normal, outputs, reduce, outputs)


def _cell(candidates: Candidates, nodes: int, generator: torch.Generator) -> Edges:
    edges = []
    for node in range(2, nodes + 2):
        for state in sorted(torch.randperm(node, generator=generator)[:2].tolist()):
            names = [op for op in candidates[edge_count(node - 2) + state] if op != "none"]
            edges.append((names[int(torch.randint(len(names), (1,), generator=generator))], state))
    return tuple(edges)


def matched_genotype(
    space: SearchSpace,
    generator: torch.Generator,
    parameters: Callable[[Genotype], int],
    *,
    target: int,
    tolerance: float,
    nodes: int = 4,
    concat: Sequence[int] | None = None,
    draws: int = 1000,
) -> Genotype:
    """The first random genotype with |parameters(genotype) / target − 1| ≤ tolerance.

    It is uniform among all such genotypes. Raises UserError, with the range of the counts, if none of
    `draws` genotypes matches.
    """
    seen = []
    for _ in range(draws):
        genotype = random_genotype(space, generator, nodes=nodes, concat=concat)
        seen.append(parameters(genotype))
        if abs(seen[-1] - target) <= tolerance * target:
            return genotype
    raise UserError(
        f"random cells: none of {draws} has {target} parameters within {tolerance:.0%}; they have {min(seen)} to "
        f"{max(seen)}; choose a target in this range, or a larger tolerance"
    )
