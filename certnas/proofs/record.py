"""Builds a certificate from the bound engine: interval claims, planes (each stored once), and refutations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import NodeAlphas, Relaxation, TargetAlphas
from certnas.checker import ClaimedPlane, IntervalClaim, Planes, Refutation
from certnas.proofs.extract import Plain
from certnas.proofs.outward import SLACK, Outward, written
from certnas.proofs.reading import array


@dataclass
class CertificateRecord:
    """The planes of a certificate so far, by key; equal planes of a node share a key."""

    plain: Plain
    """The checker's network."""
    slack: float = SLACK
    """The share of 1 + their size by which claimed bounds are smaller than computed ones."""
    planes: dict[str, Planes] = field(default_factory=dict)
    """The planes by key."""
    keys: dict[tuple[str, bytes], str] = field(default_factory=dict)
    """The keys by node id and the bytes of the planes."""

    def key(self, name: str, planes: Planes) -> str:
        """The key of a nonlinear node's planes; new planes are stored."""
        raw = b"".join(a.tobytes() for p in (planes.lower, planes.upper) for a in (p.slope, p.bias))
        key = self.keys.setdefault((self.plain.ids[name], raw), f"planes{len(self.planes)}")
        self.planes.setdefault(key, planes)
        return key

    def named(
        self, relaxed: Mapping[str, Relaxation], image: int = 0, row: int | None = None
    ) -> dict[str, str]:
        """The keys of the planes of nonlinear nodes, by the checker's ids."""
        return {
            self.plain.ids[name]: self.key(
                name, Planes(written(r.lower, image, row), written(r.upper, image, row))
            )
            for name, r in relaxed.items()
        }

    # Claims

    def steps(self, state: Outward, slopes: TargetAlphas | None) -> list[list[IntervalClaim]]:
        """The interval claims of intermediate bounds for every image; each is claimed before the next is computed.

        slopes: α-CROWN's slopes by tensor; other tensors are bounded by CROWN. None uses interval arithmetic, for
            which only the tensors that it starts from are claimed.
        """
        made: list[list[IntervalClaim]] = [[] for _ in state.region.x]
        exactly, output = state.bounded_exactly(), state.network.graph.output
        readers = [name for name in state.facts.readers if name != output]
        for target in [*(name for name in exactly if name not in readers), *readers]:
            if slopes is not None or target in exactly:
                node_alphas = None if slopes is None else slopes.get(target)
                state.refine(target, node_alphas)
                self._claim(state, target, node_alphas, made)
            else:
                state.widen(target)
        return made

    def _claim(
        self, state: Outward, target: str, node_alphas: NodeAlphas | None, made: list[list[IntervalClaim]]
    ) -> None:
        """Claims the present interval of a target."""
        x, relaxed = state.intervals[target], relaxations(state, target, node_alphas)
        for image, own in enumerate(made):
            lower, upper = array(x.lower[image]), array(x.upper[image])
            own.append(IntervalClaim(self.plain.ids[target], lower, upper, self.named(relaxed, image)))

    # Refutations

    def backed(self, excess: np.ndarray) -> np.ndarray:
        """The claimed bounds for computed ones: smaller by the slack."""
        return excess - self.slack * (1 + np.abs(excess))

    def refuted(
        self, excess: np.ndarray, clauses: Sequence[int], planes: Mapping[str, str], depth: int = 0
    ) -> tuple[Refutation, list[int]]:
        """The refutation of the clauses whose best row has a positive bound, and their positions.

        excess: the lower bounds of each clause's rows, [C, S]. clauses: the clause numbers. planes: the keys of the
            planes. depth: the number of splits of the part.
        """
        excess = np.where(np.isnan(excess), -np.inf, excess)
        bounds = self.backed(excess.max(1))
        places = [place for place in range(len(excess)) if 0 < bounds[place] < np.inf]
        mix = np.eye(excess.shape[1])[excess.argmax(1)[places]]
        chosen = tuple(clauses[place] for place in places)
        return Refutation(chosen, mix, bounds[places], planes, np.zeros((len(places), depth))), places

    def formed(self, state: Outward, rows: Tensor, node_alphas: NodeAlphas | None = None) -> Formed:
        """Bounds rows [N, R, *out] by planes."""
        output = state.network.graph.output
        lower = state.lower_bounds(output, rows, node_alphas)
        relaxed = relaxations(state, output, node_alphas)
        return Formed(array(lower), [self.named(relaxed, image) for image in range(len(rows))])

    def boxed(self, state: Outward, rows: Tensor) -> Formed:
        """Bounds rows [N, R, *out] by the intervals of the last nonlinear nodes, written as constant planes."""
        ends = state.facts.tail_ends
        for name in ends:
            state.widen(name)
        lower, keys = array(state.lower_bounds_by_intervals(rows)), list[dict[str, str]]()
        for image in range(len(rows)):
            keys.append({})
            for name in ends:
                x, node = state.intervals[name], self.plain.network.nodes[self.plain.ids[name]]
                slope = np.zeros((1, *(node.arrays["index"].shape if node.op == "max" else node.shape)))
                sides = (ClaimedPlane(slope, array(side[image])[None]) for side in (x.lower, x.upper))
                keys[-1][node.id] = self.key(name, Planes(*sides))
        return Formed(lower, keys)


@dataclass(frozen=True)
class Formed:
    """Lower bounds of rows, and the planes that prove them."""

    lower: np.ndarray
    """The lower bounds, [N, R]."""
    planes: list[dict[str, str]]
    """The keys of the planes, for each image."""


def relaxations(state: Outward, target: str, node_alphas: NodeAlphas | None) -> dict[str, Relaxation]:
    """The relaxation of every nonlinear node before a target."""
    return {
        name: state.relaxation(name) if node_alphas is None else state.relaxation_at(name, node_alphas[name])
        for name in state.relaxed_before(target)
    }


def area(region: bounds.Region) -> dict[str, Any]:
    """The fields of a certificate that define its area: the ball of one image, and its box rounded outward."""
    box, infinity = region.box(), torch.full_like(region.x, torch.inf)
    low, high = torch.nextafter(box.lower, -infinity), torch.nextafter(box.upper, infinity)
    if region.lower is not None:
        low = torch.maximum(low, torch.as_tensor(region.lower).to(low))
    if region.upper is not None:
        high = torch.minimum(high, torch.as_tensor(region.upper).to(high))
    return {
        "norm": next(name for name, kind in bounds.NORMS.items() if type(region) is kind),
        "x": array(region.x[0]),
        "eps": float(region.radii.max()),
        "box": (array(low[0]), array(high[0])),
    }
