"""The certificates of a proved property: one for each box of inputs, which refutes the clauses, in parts if
necessary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import TargetAlphas, budget
from certnas.checker import Certificate, CertificatePart, Refutation, Split
from certnas.proofs.extract import Plain
from certnas.proofs.outward import SLACK, Outward
from certnas.proofs.reading import array
from certnas.proofs.record import CertificateRecord, Formed, area
from certnas.verifier import relaxed
from certnas.verifier.problem import box_region
from certnas.verifier.proof import Leaf, Proof

BATCH = 64
"""The number of leaves that are processed together."""
RETRIES = 100
"""The optimiser's steps for a leaf whose proof fails after its slopes are rounded and its planes are moved outward.
"""
DEEPEST = 300
"""The greatest depth of a tree of splits."""
METHODS = ("ibp", "crown-ibp", "crown")
"""The methods that prove a clause on its whole region, the cheapest first."""


class Uncertified(Exception):
    """A proof cannot be written as a certificate; the message states the reason in one line."""


def certificates_of(
    plain: Plain,
    proof: Proof,
    *,
    memory: int | None = None,
    slack: float = SLACK,
    about: Mapping[str, object] | None = None,
) -> list[Certificate]:
    """One certificate for each region of a proved problem; it refutes all clauses of the region.

    plain: the result of `extract.plain` for the problem's network.
    proof: the record of the search.
    memory: the budget in bytes.
    slack: the share of 1 + their size by which bounds move outward.
    about: statements that the certificates store without proof.
    Raises Uncertified if the proof fails after outward rounding, or was not recorded.
    """
    if not proof.complete:
        raise Uncertified(f"its proof takes more than the {proof.most} bytes that it was given (--memory)")
    if proof.equal:
        raise Uncertified(
            "a strict inequality is refuted at its exact bound; a certificate needs a positive margin"
        )
    with torch.no_grad():
        return [
            _Region(plain, proof, group, memory, slack).certificate(about or {})
            for group in range(len(proof.problem.region.x))
        ]


class _Region:
    """One region and its certificate so far; parts are numbered in order of appearance, the whole region first."""

    def __init__(self, plain: Plain, proof: Proof, group: int, memory: int | None, slack: float) -> None:
        self.proof, self.problem, self.group = proof, proof.problem, group
        network = self.problem.network
        self.record = CertificateRecord(plain, slack)
        self.region = self.problem.region.at(torch.tensor([group], device=network.device))
        self.budget = budget(memory, network.dtype, network.device)
        self.clauses = self._distinct((self.problem.group == group).nonzero().flatten().tolist())
        self.parts: list[CertificatePart] = [CertificatePart((), ())]

    def _distinct(self, clauses: Sequence[int]) -> list[int]:
        """The clauses without repetitions of earlier ones."""
        firsts: dict[tuple[bytes, ...], int] = {}
        for c in clauses:
            said = (self.problem.coef[c], self.problem.offset[c])
            firsts.setdefault(tuple(array(part).tobytes() for part in said), c)
        return list(firsts.values())

    def certificate(self, about: Mapping[str, object]) -> Certificate:
        """The certificate of the region."""
        leaves = {c: self.proof.leaves[c] for c in self.clauses if c in self.proof.leaves}
        halved = [c for c, own in leaves.items() if all(self._box(leaf) for leaf in own)]
        methods = {c: self.proof.methods[c] for c in self.clauses if c not in leaves}
        methods |= {c: "crown" for c in halved if leaves[c] == [Leaf((), None)]}
        self._whole(methods)
        for c, own in leaves.items():
            if c not in methods:
                self._tree(own, self._boxes(c, own) if c in halved else self._activations(c, own))
        return Certificate(
            network=self.record.plain.network.output,
            **area(self.region),
            rows=array(self.problem.coef[self.clauses]),
            offsets=array(self.problem.offset[self.clauses]),
            parts=tuple(self.parts),
            planes=self.record.planes,
            about=dict(about),
        )

    def _box(self, leaf: Leaf) -> bool:
        """Whether a leaf is a box of inputs that CROWN proves."""
        name = self.problem.network.graph.input
        return leaf.choice is None and all(split.node == name for split in leaf.splits)

    def _add(self, part: CertificatePart, to: int = 0) -> None:
        """Appends the contents of a part to an earlier part."""
        old = self.parts[to]
        self.parts[to] = CertificatePart(
            old.steps + part.steps, old.refutations + part.refutations, old.splits + part.splits
        )

    def _state(self, region: bounds.Region) -> Outward:
        return Outward(self.problem.network, region, self.budget, bounds.Slope.ADAPTIVE, self.record.slack)

    def _claimed(self, state: Outward, slopes: TargetAlphas | None) -> Outward:
        """The state, after its bounds are claimed on the whole region."""
        (steps,) = self.record.steps(state, slopes)
        self._add(CertificatePart(tuple(steps), ()))
        return state

    @cached_property
    def _crowned(self) -> Outward:
        """CROWN's bounds on the whole region."""
        return self._claimed(self._state(self.region), {})

    @cached_property
    def _root(self) -> Outward:
        """The bounds that hold before any split: CROWN's, then those with α-CROWN's slopes."""
        slopes = self.proof.slopes.get(self.group)
        return self._crowned if slopes is None else self._claimed(self._crowned.again(), slopes)

    # Clauses that are refuted on the whole region

    def _whole(self, methods: Mapping[int, str]) -> None:
        """Refutes clauses by the method that proved each, or by the next tighter one."""
        left: list[int] = []
        for method in METHODS:
            left += [c for c in methods if methods[c] == method]
            if left:
                left = self._by_method(method, left)
        if left:
            raise Uncertified(f"{len(left)} clauses have a smaller margin than the rounding of a certificate")

    def _by_method(self, method: str, clauses: list[int]) -> list[int]:
        """Refutes the clauses that a method proves; returns the others."""
        state = self._crowned if method == "crown" else self._claimed(self._state(self.region), None)
        ways = [self.record.boxed] if method == "ibp" else [self.record.formed, self.record.boxed]
        for way in ways:
            if clauses:
                rows = self.problem.coef[clauses].flatten(0, 1).unsqueeze(0)
                clauses = self._by_bounds(way(state, rows), clauses)
        return clauses

    def _by_bounds(self, found: Formed, clauses: list[int]) -> list[int]:
        """Refutes the clauses whose rows exceed their offsets; returns the others."""
        excess = found.lower[0].reshape(len(clauses), -1) - array(self.problem.offset[clauses])
        named = [self.clauses.index(c) for c in clauses]
        refutation, places = self.record.refuted(excess, named, found.planes[0])
        if places:
            self._add(CertificatePart((), (refutation,)))
        return [c for place, c in enumerate(clauses) if place not in places]

    # Leaves that are boxes of inputs

    def _boxes(self, clause: int, leaves: Sequence[Leaf]) -> Iterator[CertificatePart]:
        """One part for each leaf that is a box of inputs: CROWN's intermediate bounds, and the refuted clause."""
        for first in range(0, len(leaves), BATCH):
            yield from self._some_boxes(clause, leaves[first : first + BATCH])

    def _some_boxes(self, clause: int, leaves: Sequence[Leaf]) -> Iterator[CertificatePart]:
        lower, upper = self._sides(leaves)
        state = self._state(box_region(lower, upper, self.problem.network))
        steps = self.record.steps(state, {})
        rows = self.problem.coef[clause].expand(len(leaves), *self.problem.coef.shape[1:])
        offset = array(self.problem.offset[clause])
        ways = [way(state, rows) for way in (self.record.formed, self.record.boxed)]
        for b, leaf in enumerate(leaves):
            excess = [np.nan_to_num(way.lower[b] - offset, nan=-np.inf) for way in ways]
            best = int(np.argmax([each.max() for each in excess]))
            refutation, places = self.record.refuted(
                excess[best][None], [self.clauses.index(clause)], ways[best].planes[b], len(leaf.splits)
            )
            if not places:
                raise Uncertified("a box of inputs has a smaller margin than the rounding of a certificate")
            yield CertificatePart(tuple(steps[b]), (refutation,))

    def _sides(self, leaves: Sequence[Leaf]) -> tuple[Tensor, Tensor]:
        """The sides of the region's box, halved by the splits of each leaf.  [leaves, inputs] each"""
        whole = self.region.box()
        lower, upper = (side.flatten().repeat(len(leaves), 1) for side in (whole.lower, whole.upper))
        for b, leaf in enumerate(leaves):
            for split in leaf.splits:
                if split.side > 0:
                    lower[b, split.unit] = max(float(lower[b, split.unit]), split.point)
                else:
                    upper[b, split.unit] = min(float(upper[b, split.unit]), split.point)
        return lower, upper

    # Leaves with split units

    def _activations(self, clause: int, leaves: Sequence[Leaf]) -> Iterator[CertificatePart]:
        """One part for each leaf with split units: the clause is refuted with the leaf's slopes and multipliers."""
        for first in range(0, len(leaves), BATCH):
            yield from self._some_activations(clause, leaves[first : first + BATCH])

    def _some_activations(self, clause: int, leaves: Sequence[Leaf]) -> Iterator[CertificatePart]:
        same = torch.tensor([clause] * len(leaves), device=self.problem.group.device)
        coef, offset = self.problem.coef[same], self.problem.offset[same]
        batch = relaxed.SubproblemBatch(
            self._root, torch.zeros_like(same), coef, offset, [leaf.splits for leaf in leaves]
        )
        choice, lower = self._chosen(batch, [leaf.choice for leaf in leaves], 4 * self.problem.needed[same])
        planes = {name: batch.state.relaxation_at(name, choice.node_alphas[name]) for name in batch.nodes}
        for b, leaf in enumerate(leaves):
            row = int(lower[b].nan_to_num(nan=-torch.inf).argmax())
            bound = float(lower[b, row] - self.record.slack * (1 + lower[b, row].abs()))
            if not bound > 0:
                raise Uncertified(
                    "a subproblem has a smaller margin than the rounding of a certificate: "
                    f"excess {float(lower[b, row]):.3g}"
                )
            mix, multipliers = _shares(choice, b, row, coef.shape[1]), _multipliers(choice, b, row, leaf)
            named, place = self.record.named(planes, b, row), (self.clauses.index(clause),)
            yield CertificatePart((), (Refutation(place, mix, np.array([bound]), named, multipliers),))

    def _chosen(
        self, batch: relaxed.SubproblemBatch, choices: Sequence[relaxed.Choice | None], needed: Tensor
    ) -> tuple[relaxed.Choice, Tensor]:
        """The slopes and multipliers of leaves, and their bounds; they are optimised once more if a bound falls
        short.
        """
        choice, slack = batch.start(choices), self.record.slack
        lower = batch.bound(choice, batch.region)
        best = lower.amax(1)
        if not bool((best > 2 * slack * (1 + best.abs())).all()):
            choice = batch.start(batch.optimise(choices, RETRIES, needed).choices)
            lower = batch.bound(choice, batch.region)
        return choice, lower

    # The tree of splits

    def _tree(self, leaves: Sequence[Leaf], parts: Iterator[CertificatePart]) -> None:
        """Adds the leaves of a clause as the parts that their splits make of the region."""
        self._grow(0, list(zip((leaf.splits for leaf in leaves), parts, strict=True)), 0)

    def _grow(
        self, number: int, leaves: Sequence[tuple[tuple[relaxed.UnitSplit, ...], CertificatePart]], depth: int
    ) -> None:
        """Adds leaves that share their first `depth` splits to a part."""
        if len(leaves) == 1 and len(leaves[0][0]) == depth:
            self._add(leaves[0][1], number)
            return
        if depth == DEEPEST:
            raise Uncertified(f"its tree of splits is deeper than {DEEPEST}")
        first = leaves[0][0][depth]
        halves = [[leaf for leaf in leaves if leaf[0][depth].side == side] for side in (-1, 1)]
        numbers = (len(self.parts), len(self.parts) + 1)
        self.parts += [CertificatePart((), ()), CertificatePart((), ())]
        graph, tensor = self.problem.network.graph, first.node
        if tensor != graph.input:
            (tensor,) = graph.nodes[tensor].operands
        split = Split(self.record.plain.ids[tensor], first.unit, first.point, numbers)
        self._add(CertificatePart((), (), (split,)), number)
        for half, own in zip(numbers, halves, strict=True):
            self._grow(half, own, depth + 1)


def _shares(choice: relaxed.Choice, leaf: int, row: int, constraints: int) -> np.ndarray:
    """The weight of each constraint in a row: one constraint, or the mix for the row that combines them.  [1,
    constraints]
    """
    if row == constraints and choice.mix is not None:
        return array(choice.mix[leaf].softmax(0))[None]
    return np.eye(constraints + 1)[[row], :-1]


def _multipliers(choice: relaxed.Choice, b: int, row: int, leaf: Leaf) -> np.ndarray:
    """The multiplier of each split of a leaf in a row; 0 for a split that another split of the unit implies.  [1,
    splits]
    """
    found = np.zeros((1, len(leaf.splits)))
    for (node, unit), k in _binding(leaf.splits).items():
        found[0, k] = max(0.0, float(choice.multipliers[node][b, row].flatten()[unit]))
    return found


def _binding(splits: Sequence[relaxed.UnitSplit]) -> dict[tuple[str, int], int]:
    """The position of the split that each split unit's multiplier belongs to: the tightest, preferably from above."""
    places: dict[tuple[str, int], int] = {}
    for k, split in enumerate(splits):
        held = places.get((split.node, split.unit))
        if held is None or split.side < 0 or splits[held].side > 0:
            places[split.node, split.unit] = k
    return places
