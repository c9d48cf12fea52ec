"""Random Python forwards: the trace computes what they compute, or refuses; never anything else."""

import pytest
from effort import examples
from random_forwards import NAMES, STEPS

from benchmarks.differential import compared

GROUPS, SEEDS = 10, 20
EACH = examples(8, SEEDS)


@pytest.mark.parametrize("group", range(GROUPS))
def test_the_trace_of_a_random_forward_is_the_forward_or_a_refusal(group: int) -> None:
    seeds = range(SEEDS * group, SEEDS * group + EACH)
    found = [compared(seed) for seed in seeds]
    wrong = [(seed, why) for seed, (verdict, why) in zip(seeds, found, strict=True) if verdict == "violation"]
    assert not wrong
    equal = sum(verdict == "equal" for verdict, _ in found)
    assert equal >= 0.6 * EACH, "a generator of which all is refused tests nothing"


def test_every_step_is_drawn() -> None:
    assert set(NAMES) == set(STEPS)
