"""A comparison over many images in parts, each for any process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from torch import Tensor, nn

from certnas.crosscheck.comparison import Comparison, compare
from certnas.engine import Job, Tell

IMAGES = 4
"""How many images certnas bounds together."""


@dataclass(frozen=True)
class Part:
    """Images x [N, *shape] from the image `first` on, at one radius."""

    x: Tensor
    first: int
    eps: float


@dataclass(frozen=True)
class Crosscheck(Job[Part, list[Comparison]]):
    """`compare` on one part after another; its random points depend on the seed and the part alone."""

    model: nn.Module
    norm: str
    methods: Sequence[str]
    samples: int
    seed: int

    def open(self, rank: int) -> Callable[[Part, Tell], list[Comparison]]:
        return self._compare

    def _compare(self, part: Part, tell: Tell) -> list[Comparison]:
        settings = {"samples": self.samples, "seed": self.seed + part.first}
        return compare(self.model, part.x, part.eps, self.norm, methods=self.methods, **settings)

    def describe(self, item: Part) -> str:
        return f"images {item.first} to {item.first + len(item.x) - 1} at {item.eps:g}"


def parts(x: Tensor, eps: Sequence[float]) -> list[Part]:
    """x [N, *shape] at each radius, in parts of IMAGES images."""
    return [Part(x[n : n + IMAGES].clone(), n, e) for e, n in product(eps, range(0, len(x), IMAGES))]


def joined(found: Sequence[Comparison]) -> Comparison:
    """One method at one radius over all images of the parts, at least one."""
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
