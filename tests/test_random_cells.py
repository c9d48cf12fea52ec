"""Random cells: valid, uniform, repeatable, and matched in size."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from certnas.errors import UserError
from certnas.nas.space import DARTS, SPACES, Genotype, matched_genotype, parameter_count, random_genotype
from certnas.nas.space.spaces import edge_count


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SPACES)
def test_a_random_genotype_is_of_its_space(name: str) -> None:
    space, drawn = SPACES[name], generator()
    for _ in range(50):
        genotype = random_genotype(space, drawn)
        assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5)
        for kind in ("normal", "reduce"):
            edges = getattr(genotype, kind)
            for position, (op, state) in enumerate(edges):
                edge = edge_count(position // 2) + state
                assert op != "none" and op in space.candidates(kind, 4)[edge]
            assert all(edges[at][1] < edges[at + 1][1] for at in range(0, 8, 2)), "different inputs, in order"


def test_every_genotype_of_one_node_is_equally_likely() -> None:
    draws = 14_700
    seen, drawn = Counter(), generator(1)
    for _ in range(draws // 2):
        genotype = random_genotype(DARTS, drawn, nodes=1)
        seen.update([genotype.normal, genotype.reduce])
    assert len(seen) == 49
    deviation = sum((count - draws / 49) ** 2 / (draws / 49) for count in seen.values())
    assert 22 < deviation < 84, "χ² of 48 degrees of freedom, its 0.1 % tails"


def test_every_pair_of_inputs_is_equally_likely() -> None:
    seen, drawn = Counter(), generator(2)
    for _ in range(3000):
        seen[tuple(state for _, state in random_genotype(DARTS, drawn, nodes=3).normal[4:])] += 1
    assert len(seen) == 6
    assert all(430 < count < 570 for count in seen.values())


def test_the_same_seed_draws_the_same_and_torch_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = generator(3), generator(3)
    draws = [(random_genotype(DARTS, first), random_genotype(DARTS, second)) for _ in range(5)]
    assert all(a == b for a, b in draws)
    assert all(a[0] != b[0] for a, b in pairwise(draws))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_other_nodes_and_outputs() -> None:
    genotype = random_genotype(DARTS, generator(), nodes=5, concat=(4, 6))
    assert len(genotype.normal) == len(genotype.reduce) == 10
    assert genotype.normal_concat == genotype.reduce_concat == (4, 6)
    with pytest.raises(UserError, match="it has 14 edges in normal cells, 3 nodes have 9"):
        random_genotype(SPACES["s1"], generator(), nodes=3)


def count(genotype: Genotype) -> int:
    return parameter_count(genotype, 4, 3, 10, in_channels=1)


def test_a_matched_genotype_has_about_the_target() -> None:
    sizes = {count(random_genotype(DARTS, generator(seed), nodes=2)) for seed in range(20)}
    target = sorted(sizes)[10]
    drawn = generator(5)
    for _ in range(3):
        genotype = matched_genotype(DARTS, drawn, count, target=target, tolerance=0.1, nodes=2)
        assert abs(count(genotype) - target) <= 0.1 * target


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^random cells: none of 5 has 10 parameters within 5%; they have \d+ to "
    ):
        matched_genotype(DARTS, generator(), count, target=10, tolerance=0.05, nodes=2, draws=5)
