"""Searches for a counterexample by projected gradient descent on each clause's own constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certnas.ascent import sign_step
from certnas.verifier.deadline import Deadline
from certnas.verifier.problem import Problem
from certnas.verifier.property import Property
from certnas.verifier.verdict import Counterexample

Replay = Callable[[np.ndarray], np.ndarray]
"""Runs the network as it will be deployed: flat inputs [n] float32 to outputs [m]."""
NEAR = 1e-4
"""Points whose excess is below NEAR × (1 + max |offset|) are replayed, because rounding may decide there."""


@dataclass(frozen=True)
class CounterexampleJudge:
    """Decides whether a point is a counterexample, by a replay and exact arithmetic."""

    prop: Property
    """The property."""
    replay: Replay
    """Runs the network on one input."""

    def __call__(self, points: Tensor) -> Counterexample | None:
        """The first counterexample among points [M, *shape]; each point is first moved to the nearest float32 input
        of a box.
        """
        for point in points.detach().flatten(1).cpu().numpy():
            for lower, upper in {id(c.box): c.box.inside for c in self.prop.clauses}.values():
                inputs = np.clip(point.astype(np.float32), lower, upper)
                if (np.abs(inputs - point) > NEAR * (1 + np.abs(point))).any():
                    continue
                outputs = self.replay(inputs)
                if self.prop.violated_by(inputs, outputs):
                    return Counterexample(inputs, outputs)
        return None


@dataclass(frozen=True)
class Descent:
    """The length of an attack."""

    steps: int
    """The number of gradient steps."""
    restarts: int
    """The number of starting points for each clause; the first is the centre of the box."""


DESCENTS = {"quick": Descent(20, 1), "thorough": Descent(100, 10)}
"""The attacks by name."""
CHUNK = 256
"""The number of starting points that descend together."""


def attack(
    problem: Problem, judge: CounterexampleJudge, descent: Descent, deadline: Deadline, *, seed: int
) -> Counterexample | None:
    """Searches for a counterexample by signed gradient steps on the largest excess of a clause's rows.

    problem: the clauses and their boxes. judge: decides whether a point is a counterexample. descent: the number of
        steps and restarts. deadline: raises OutOfTime at its end. seed: the seed of the restarts.
    Restarts are uniform in the box, and every second one is a corner. Points whose excess comes close to 0 are
    judged.
    Returns the first counterexample, or None. Source: PGD, Madry et al. 2018.
    """
    network = problem.network
    generator = torch.Generator().manual_seed(seed)
    starts = [(c, r) for r in range(descent.restarts) for c in range(len(problem))]
    tolerance = NEAR * (1 + problem.offset.abs().max())
    for first in range(0, len(starts), CHUNK):
        chosen = starts[first : first + CHUNK]
        c = torch.tensor([c for c, _ in chosen], device=problem.group.device)
        region, coef, offset = (
            problem.region.at(problem.group[c]),
            problem.coef[c].flatten(2),
            problem.offset[c],
        )
        start = torch.stack([_start(r, region.x.shape[1:], generator) for _, r in chosen]).to(region.x)

        def excess(x: Tensor, coef: Tensor = coef, offset: Tensor = offset) -> Tensor:
            return ((coef @ network(x).flatten(1).unsqueeze(2)).squeeze(2) - offset).amax(1)

        for x, value in _descend(region.x, region.radii, start, excess, descent.steps):
            deadline.check()
            near = value <= tolerance
            if bool((value <= -tolerance).any()):
                near = value <= -tolerance
            if bool(near.any()):
                order = value[near].argsort()[:4]
                found = judge(x[near][order])
                if found is not None:
                    return found
    return None


def _start(restart: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """The starting point of a restart, in units of the box from −1 to 1."""
    if restart == 0:
        return torch.zeros(shape)
    uniform = 2 * torch.rand(shape, generator=generator) - 1
    return uniform if restart % 2 else uniform.sign()


def _descend(
    centre: Tensor, radius: Tensor, start: Tensor, excess: Callable[[Tensor], Tensor], steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the iterates and their excess; the step falls from 1/2 to 1/100 of the radius of the box."""

    def fall(position: Tensor) -> Tensor:
        return -excess(centre + radius * position)

    position = start
    for step in range(steps + 1):
        size = 0.5 * (0.02 ** (step / max(steps, 1)))
        following, value = sign_step(fall, position, size, lambda moved: moved.clamp(-1, 1))
        yield centre + radius * position, -value
        position = following
