"""A comparison over many images, split into parts for several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from torch import Tensor, nn

from certnas.crosscheck.comparison import Comparison, compare
from certnas.engine import Job, Tell

IMAGES = 4
"""Number of images that certnas bounds together."""


@dataclass(frozen=True)
class Part:
    """A part of the comparison: some images at one radius."""

    x: Tensor
    """Images [N, *shape]."""
    first: int
    """Index of the first image."""
    eps: float
    """Radius of the ball, in units of x."""


@dataclass(frozen=True)
class Crosscheck(Job[Part, list[Comparison]]):
    """The job that runs `compare` on each part; its random points depend on the seed and the part only."""

    model: nn.Module
    """The network."""
    norm: str
    """Norm of the ball."""
    methods: Sequence[str]
    """Names of the methods to compare."""
    samples: int
    """Number of random points per image."""
    seed: int
    """Seed of the points."""

    def open(self, rank: int) -> Callable[[Part, Tell], list[Comparison]]:
        return self._compare

    def _compare(self, part: Part, tell: Tell) -> list[Comparison]:
        settings = {"samples": self.samples, "seed": self.seed + part.first}
        return compare(self.model, part.x, part.eps, self.norm, methods=self.methods, **settings)

    def describe(self, item: Part) -> str:
        return f"images {item.first} to {item.first + len(item.x) - 1} at {item.eps:g}"


def parts(x: Tensor, eps: Sequence[float]) -> list[Part]:
    """Split x [N, *shape] at each radius into parts of IMAGES images."""
    return [Part(x[n : n + IMAGES].clone(), n, e) for e, n in product(eps, range(0, len(x), IMAGES))]


def joined(found: Sequence[Comparison]) -> Comparison:
    """Join the comparisons of one method at one radius over all parts; at least one part is required."""
    whole = found[0]
    for part in found[1:]:
        both, count = (whole, part), whole.images + part.images
        greatest = {
            name: max(getattr(one, name) for one in both)
            for name in ("clean", "absolute", "relative", "worst", "our_beyond", "their_beyond")
        }
        sums = {
            name: getattr(whole, name) + getattr(part, name)
            for name in ("our_violations", "their_violations", "our_seconds", "their_seconds")
        }
        whole = replace(
            whole,
            images=count,
            known=whole.known or part.known,
            unusable=whole.unusable or part.unusable,
            looser=(whole.looser * whole.images + part.looser * part.images) / count,
            **greatest,
            **sums,
        )
    return whole
