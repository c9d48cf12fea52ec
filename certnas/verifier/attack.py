"""Looking for a counterexample: projected gradient descent on each clause's own constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certnas.verifier.deadline import Deadline
from certnas.verifier.problem import Problem
from certnas.verifier.property import Property
from certnas.verifier.verdict import Counterexample

Replay = Callable[[np.ndarray], np.ndarray]
"""The network as it will be run: inputs [n] float32, flat, to outputs [m]."""
NEAR = 1e-4
"""Points whose excess is below this × (1 + max |offset|) are worth a replay: rounding may tip them."""


@dataclass(frozen=True)
class CounterexampleJudge:
    """Says whether a point is a counterexample, by a replay and in exact arithmetic."""

    prop: Property
    replay: Replay

    def __call__(self, points: Tensor) -> Counterexample | None:
        """The first counterexample among points [M, *shape], each moved to the nearest float32 input of a box."""
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
    """How long: gradient steps, and starting points of each clause (the centre is the first)."""

    steps: int
    restarts: int


DESCENTS = {"quick": Descent(20, 1), "thorough": Descent(100, 10)}
CHUNK = 256


def attack(
    problem: Problem, judge: CounterexampleJudge, descent: Descent, deadline: Deadline, *, seed: int
) -> Counterexample | None:
    """A counterexample found by signed gradient steps (PGD, Madry et al. 2018) on max over rows of the excess.

    Restarts are uniform in the box and, every second, at its corners.  Points whose excess comes near 0 are judged.
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
    """Where to begin, in [−1, 1] of the box."""
    if restart == 0:
        return torch.zeros(shape)
    uniform = 2 * torch.rand(shape, generator=generator) - 1
    return uniform if restart % 2 else uniform.sign()


def _descend(
    centre: Tensor, radius: Tensor, start: Tensor, excess: Callable[[Tensor], Tensor], steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The iterates and their excess, in units of the box: steps from 1/2 down to 1/100 of its radius."""
    way = start
    for step in range(steps + 1):
        x = (centre + radius * way).detach().requires_grad_(True)
        with torch.enable_grad():
            value = excess(x)
            (slope,) = torch.autograd.grad(value.sum(), x)
        yield x.detach(), value.detach()
        size = 0.5 * (0.02 ** (step / max(steps, 1)))
        way = (way - size * slope.sign()).clamp(-1, 1)
