"""Branch and bound over the units of nonlinear operands, best first, in batches (Bunel et al. 2020)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from certnas.bounds import Nonlinear
from certnas.bounds.extend import BoundState, rule_for
from certnas.verifier.deadline import Deadline
from certnas.verifier.problem import Problem
from certnas.verifier.proof import Note
from certnas.verifier.relaxed import Bounded, Choice, SubproblemBatch, UnitSplit, splittable

LARGEST_BATCH = 64
"""The most subproblems that are bounded together."""
ITERATIONS, LAST_ITERATIONS = 10, 200
"""The optimiser's steps for a subproblem, and for one that has nothing left to split."""
CANDIDATES = 12
"""How many splits of a subproblem are bounded before one is chosen (filtered smart branching, De Palma 2021)."""


@dataclass(frozen=True)
class Domain:
    """One subproblem of a clause."""

    clause: int
    """The index of the clause in the problem."""
    splits: tuple[UnitSplit, ...]
    """The splits that define the subproblem."""
    lower: float
    """The lower bound of its best row's excess."""
    choice: Choice | None
    """The optimised slopes and multipliers of its last bound; None for the default."""


@dataclass
class State:
    """The progress of a search."""

    lower: dict[int, float]
    """The proved lower bound of each open clause's excess; ∞ once the clause is proved."""
    done: int = 0
    """The number of subproblems that were bounded."""
    open: int = 0
    """The number of open subproblems."""
    stuck: int = 0
    """The number of unproved subproblems that cannot be split further."""

    @property
    def left(self) -> int:
        """The number of clauses that are not proved."""
        return sum(lower < torch.inf for lower in self.lower.values())

    @property
    def bound(self) -> float:
        """The smallest lower bound over the clauses."""
        return min(self.lower.values(), default=torch.inf)


@dataclass
class Tree:
    """The open subproblems, ordered by their lower bound, and the stuck ones."""

    heap: list[tuple[float, int, Domain]] = field(default_factory=list)
    """The open subproblems as a heap of (lower bound, serial number, subproblem)."""
    stuck: list[Domain] = field(default_factory=list)
    """Unproved subproblems that cannot be split further."""
    count: itertools.count[int] = field(default_factory=itertools.count)
    """Serial numbers, which break ties in the heap."""

    def push(self, domain: Domain) -> None:
        """Adds an open subproblem."""
        heapq.heappush(self.heap, (domain.lower, next(self.count), domain))

    def pop(self, most: int) -> list[Domain]:
        """Removes up to `most` open subproblems with the smallest lower bounds."""
        return [heapq.heappop(self.heap)[2] for _ in range(min(most, len(self.heap)))]

    def settle(self, state: State, clauses: int) -> None:
        """Writes the present bounds into `state`; a clause without unproved subproblems is proved."""
        lower = dict.fromkeys(range(clauses), torch.inf)
        for domain in itertools.chain((entry[2] for entry in self.heap), self.stuck):
            lower[domain.clause] = min(lower[domain.clause], domain.lower)
        state.lower, state.open, state.stuck = lower, len(self.heap), len(self.stuck)


class Branching:
    """Branch and bound for one problem.

    root: a bound state that holds the bounds of every nonlinear operand over each box.
    memory: the bytes for the coefficients of one batch, and the same again for the slopes that open subproblems keep.
    note: receives every proved subproblem.
    """

    def __init__(self, problem: Problem, root: BoundState, memory: int, note: Note) -> None:
        self.problem, self.root, self.note = problem, root, note
        graph = problem.network.graph
        nodes = root.relaxed_before(graph.output)
        self.nodes = [name for name in nodes if splittable(problem.network, name)]
        sizes = [int(torch.Size(node.shape).numel()) for node in graph.nodes.values()]
        rows = problem.width + (problem.width > 1)
        self.batch = max(1, min(LARGEST_BATCH, memory // (6 * 8 * rows * sum(sizes))))
        self.kept = memory // (4 * rows * max(1, sum(sizes)))

    def search(
        self,
        starts: Sequence[Choice | None],
        deadline: Deadline,
        state: State,
        tell: Callable[[], None],
        judge: Callable[[Tensor], bool],
    ) -> None:
        """Bounds and splits until no subproblem is open or `judge` accepts a point as a counterexample.

        starts: where each clause's optimiser starts. state: receives the progress. tell: is called after each batch.
        Afterwards `state` holds the open and stuck subproblems. Raises OutOfTime at the end of the deadline.
        """
        tree = Tree()
        roots = [Domain(c, (), state.lower[c], start) for c, start in enumerate(starts)]
        for first in range(0, len(roots), self.batch):
            deadline.check()
            part = roots[first : first + self.batch]
            if self._grow(tree, part, self._bounded(part, ITERATIONS), judge):
                return
        tree.settle(state, len(starts))
        tell()
        while tree.heap:
            deadline.check()
            parents = tree.pop(max(1, self.batch // 2))
            children, ends = self._children(parents)
            if ends and self._close(tree, ends, judge):
                return
            children = [child for child in children if not self._proved(child, child.lower, child.choice)]
            if children and self._grow(tree, children, self._bounded(children, ITERATIONS), judge):
                return
            state.done += len(parents)
            tree.settle(state, len(starts))
            tell()

    def _close(self, tree: Tree, ends: Sequence[Domain], judge: Callable[[Tensor], bool]) -> bool:
        """Optimises subproblems that have nothing to split for longer; those that stay unproved are stuck.

        Returns whether a counterexample was found.
        """
        found = self._bounded(ends, LAST_ITERATIONS)
        for domain, lower, choice in zip(ends, self._best(found), found.choices, strict=True):
            if not self._proved(domain, lower, choice):
                tree.stuck.append(
                    Domain(domain.clause, domain.splits, max(lower, domain.lower), domain.choice)
                )
        return judge(found.worst)

    def _grow(
        self, tree: Tree, domains: Sequence[Domain], found: Bounded, judge: Callable[[Tensor], bool]
    ) -> bool:
        """Adds the subproblems that their bounds do not prove; returns whether a counterexample was found."""
        crowded = len(tree.heap) > self.kept
        for domain, lower, choice in zip(domains, self._best(found), found.choices, strict=True):
            if not self._proved(domain, lower, choice):
                tree.push(
                    Domain(
                        domain.clause,
                        domain.splits,
                        max(lower, domain.lower),
                        None if crowded else choice,
                    )
                )
        return judge(found.worst)

    def _proved(self, domain: Domain, lower: float, choice: Choice | None) -> bool:
        """Whether a bound proves a subproblem; if so, `note` receives it with the choice that gave the bound."""
        proved = lower > float(self.problem.needed[domain.clause])
        if proved:
            self.note(domain.clause, domain.splits, choice)
        return proved

    def _best(self, found: Bounded) -> list[float]:
        """The best row's bound of each subproblem; −∞ for a bound that is NaN, which proves nothing."""
        lower = found.lower.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        return [float(v) for v in lower.amax(1)]

    def _of(self, domains: Sequence[Domain]) -> tuple[SubproblemBatch, Tensor]:
        """The batch of some subproblems, and the bounds that prove each of them."""
        problem = self.problem
        c = torch.tensor([domain.clause for domain in domains], device=problem.group.device)
        splits = [domain.splits for domain in domains]
        return SubproblemBatch(
            self.root, problem.group[c], problem.coef[c], problem.offset[c], splits
        ), problem.needed[c]

    def _bounded(self, domains: Sequence[Domain], iterations: int) -> Bounded:
        batch, needed = self._of(domains)
        return batch.optimise([domain.choice for domain in domains], iterations, needed)

    # Which unit to split

    def _children(self, parents: Sequence[Domain]) -> tuple[list[Domain], list[Domain]]:
        """Splits each subproblem on its best unit; returns both halves, and the subproblems that have nothing to
        split.
        """
        candidates = self._candidates(parents)
        ends = [domain for domain, splits in zip(parents, candidates, strict=True) if not splits]
        tried = [
            (p, Domain(d.clause, (*d.splits, half), d.lower, d.choice))
            for p, (d, splits) in enumerate(zip(parents, candidates, strict=True))
            for split in splits
            for half in (split, UnitSplit(split.node, split.unit, split.point, -split.side))
        ]
        lower: list[float] = []
        for first in range(0, len(tried), self.batch):
            domains = [domain for _, domain in tried[first : first + self.batch]]
            batch, _ = self._of(domains)
            with torch.no_grad():
                bound = batch.bound(batch.start([domain.choice for domain in domains]), batch.region)
            lower += self._best(Bounded(bound, batch.region.x, []))
        best: dict[int, tuple[tuple[float, float], int]] = {}
        for first in range(0, len(tried), 2):
            p, pair = tried[first][0], lower[first : first + 2]
            score = (min(pair), max(pair))
            if p not in best or score > best[p][0]:
                best[p] = (score, first)
        children = [
            Domain(d.clause, d.splits, max(d.lower, lower[k]), d.choice)
            for _, first in best.values()
            for k, (_, d) in enumerate(tried[first : first + 2], first)
        ]
        return children, ends

    def _candidates(self, parents: Sequence[Domain]) -> list[list[UnitSplit]]:
        """The splits of each subproblem with the largest effect of the relaxation on its best row."""
        batch, _ = self._of(parents)
        choice = batch.start([domain.choice for domain in parents])
        seen: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            row = batch.bound(choice, batch.region, seen).argmax(1)
        found: list[list[tuple[float, UnitSplit]]] = [[] for _ in parents]
        for name in self.nodes:
            if name not in seen:
                continue
            score, point = self._gap(batch, name, choice, seen[name][-1], row)
            most = score.flatten(1).topk(min(CANDIDATES, score[0].numel()), 1)
            points = point.flatten(1)
            for b, (values, units) in enumerate(
                zip(most.values.tolist(), most.indices.tolist(), strict=True)
            ):
                found[b] += [
                    (value, UnitSplit(name, unit, float(points[b, unit]), 1))
                    for value, unit in zip(values, units, strict=True)
                    if value > 0
                ]
        return [[split for _, split in sorted(own, key=lambda pair: -pair[0])[:CANDIDATES]] for own in found]

    def _gap(
        self, batch: SubproblemBatch, name: str, choice: Choice, coef: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How much the relaxation of each unit may cost the row, and the point at which to split it.  [B, *operand]
        each

        The cost is |coef| times the largest distance between the function and the plane that the row uses, at both
        ends of the interval and at the point of the split. The point is 0 for a ReLU, and the middle of the interval
        elsewhere.
        """
        network = self.problem.network
        node = network.graph.nodes[name]
        rule, call = rule_for(node), network.call(node)
        assert isinstance(rule, Nonlinear)
        x = batch.state.intervals[node.operands[0]]
        b = torch.arange(len(row), device=row.device)
        planes = batch.state.relaxation_at(
            name, tuple(t[b, row].unsqueeze(1) for t in choice.node_alphas[name])
        )
        middle = x.lower / 2 + x.upper / 2
        bend = _bends(node.op) & (x.lower < 0) & (x.upper > 0)
        point = torch.where(bend, torch.zeros_like(middle), middle)
        above = below = torch.zeros_like(middle)
        for z in (x.lower, point, x.upper):
            z = torch.where(torch.isfinite(z), z, 0)
            value = call.apply(z)
            high = (planes.upper.map.apply(z.unsqueeze(1)) + planes.upper.bias).squeeze(1)
            low = (planes.lower.map.apply(z.unsqueeze(1)) + planes.lower.bias).squeeze(1)
            above, below = torch.maximum(above, high - value), torch.maximum(below, value - low)
        own = coef[b, row]
        score = own.clamp(min=0) * below - own.clamp(max=0) * above
        (mask,) = rule.unstable(call, x)
        wide = torch.isfinite(x.upper - x.lower) & (x.lower < point) & (point < x.upper)
        return torch.where(mask & wide, score.nan_to_num(0.0), 0), point


def _bends(op: str) -> bool:
    """Whether an operator has two pieces that meet at 0."""
    return op in ("aten.relu.default", "aten.leaky_relu.default", "aten.prelu.default", "aten.abs.default")
