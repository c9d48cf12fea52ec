"""Runs all stages on one problem: attacks, bounds from the cheapest on, and branch and bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import BoundState, budget
from certnas.verifier.branch import Branching, State
from certnas.verifier.deadline import Deadline
from certnas.verifier.exact import Equal
from certnas.verifier.input_split import FEW_INPUTS, InputSplitting, free_inputs
from certnas.verifier.problem import Problem
from certnas.verifier.proof import Proof
from certnas.verifier.relaxed import Choice, UnitSplit
from certnas.verifier.verdict import VerificationProgress

CHEAP: dict[str, bounds.Method] = {"ibp": bounds.IBP(), "crown-ibp": bounds.CrownIBP()}
"""The methods that run before CROWN, the cheapest first."""
ROOT_SHARE, ROOT_ITERATIONS, ROOT_COST = 0.3, 40, 10.0
"""α-CROWN before branching: its share of the remaining time, its iterations, and the cost of one iteration in CROWN
passes.
"""
UNLIMITED = 600.0
"""The seconds of which α-CROWN gets its share if there is no time limit."""


@dataclass
class Search:
    """One search over the clauses of a problem."""

    problem: Problem
    """The problem of the clauses that are still open."""
    deadline: Deadline
    """The time limit."""
    memory: int
    """The memory budget, in bytes."""
    judge: Callable[[Tensor], bool]
    """Receives points [M, *shape] that may be counterexamples; returns whether to stop."""
    attack: Callable[[Problem, str], bool]
    """Runs the attack of that name on a problem; returns whether to stop."""
    progress: Callable[[VerificationProgress], None] | None = None
    """Receives the progress."""
    proof: Proof | None = None
    """Records how each clause was proved; None to record nothing."""
    equal: Equal | None = None
    """Decides in rational arithmetic a strict inequality at its exact bound; None if there is none."""
    stage: str = "start"
    """The present stage."""
    state: State = field(init=False)
    """The progress of the open clauses."""
    root: BoundState | None = None
    """CROWN's bound state before any split; None before CROWN ran."""

    def __post_init__(self) -> None:
        self.state = State(dict.fromkeys(range(len(self.problem)), -math.inf))
        self.clauses = list(range(len(self.problem)))  # the open clauses, as indices in the first problem
        self.groups = list(range(len(self.problem.region.x)))

    def go(self) -> None:
        """Runs all stages until no clause is open, a counterexample is found, or no stage is left.

        Raises OutOfTime, or MemoryError if open subproblems exceed the budget. `state` then holds the proved bounds.
        """
        if self._attacked("quick"):
            return
        for name, method in CHEAP.items():
            self._tell(name)
            if self._settled(self._lower(method)):
                return
        self._tell("crown")
        began = self.deadline.spent
        self.root = self._bound_state()
        with torch.no_grad():
            lower = bounds.Crown().lower(self.root, self.problem.rows)
        seconds = self.deadline.spent - began
        if self._settled(lower) or self._equal() or self._attacked("thorough"):
            return
        if self.problem.region.is_box and free_inputs(self.problem) <= FEW_INPUTS:
            self._tell("input splitting")
            InputSplitting(self.problem, self.memory, self._note, self._equal_on).search(
                self.deadline, self.state, lambda: self._tell(self.stage), self.judge
            )
            return
        starts = self._alpha(seconds)
        if self.state.left:
            self._tell("branch and bound")
            Branching(self.problem, self.root, self.memory, self._note).search(
                starts, self.deadline, self.state, lambda: self._tell(self.stage), self.judge
            )

    def _tell(self, stage: str) -> None:
        self.stage = stage
        self.deadline.check()
        if self.progress is not None:
            state = self.state
            self.progress(VerificationProgress(stage, state.left, state.bound, state.open, state.done))

    def _attacked(self, name: str) -> bool:
        self._tell("attack")
        return self.attack(self.problem, name)

    def _bound_state(self) -> BoundState:
        network = self.problem.network
        limit = budget(self.memory, network.dtype, network.device)
        return BoundState(network, self.problem.region, limit, bounds.Slope.ADAPTIVE)

    def _lower(self, method: bounds.Method) -> Tensor:
        problem = self.problem
        with torch.no_grad():
            return bounds.lower_bounds(
                problem.network, problem.region, problem.rows, method, memory=self.memory
            )

    def _settled(self, lower: Tensor) -> bool:
        """Applies lower bounds [G, R] of the problem's rows; returns whether no clause is left open."""
        before = self.state.lower
        excess = self.problem.excess(lower)
        best = excess.nan_to_num(nan=-torch.inf).amax(1).tolist()
        left = self.problem.unproved(excess)
        self.state.lower = {i: max(best[c], before[c]) for i, c in enumerate(left)}
        if self.proof is not None:
            proved = set(range(len(self.problem))) - set(left)
            self.proof.methods |= {self.clauses[c]: self.stage for c in proved}
        return self._left(left)

    def _left(self, left: list[int]) -> bool:
        """Restricts the problem to the clauses `left`; returns whether there are none."""
        self.clauses = [self.clauses[c] for c in left]
        if left:
            self.problem, groups = self.problem.only(left)
            self.groups = [self.groups[g] for g in groups.tolist()]
            if self.root is not None:
                self.root = self._narrowed(self.root, groups)
        return not left

    def _equal(self) -> bool:
        """Decides clauses over their whole boxes in rational arithmetic; returns whether no clause is left open."""
        if self.equal is None:
            return False
        box = self.problem.region.box()
        left = []
        for c, g in enumerate(self.problem.group.tolist()):
            self.deadline.check()
            if not self._equal_on(c, box.lower[g].flatten(), box.upper[g].flatten(), math.inf):
                left.append(c)
        self.state.lower = {i: self.state.lower[c] for i, c in enumerate(left)}
        return self._left(left)

    def _equal_on(self, clause: int, lower: Tensor, upper: Tensor, bound: float) -> bool:
        """Whether rational arithmetic proves a clause in a box [n] with float64 lower bound `bound`."""
        if self.equal is None or not bound > -float(self.problem.needed[clause]):
            return False
        settled = self.equal(self.clauses[clause], lower, upper)
        if settled and self.proof is not None:
            self.proof.equal = True
        return settled

    def _note(self, clause: int, splits: tuple[UnitSplit, ...], choice: Choice | None) -> None:
        """Records a proved subproblem of the present problem."""
        if self.proof is not None:
            self.proof.note(self.clauses[clause], splits, choice)

    def _narrowed(self, root: BoundState, groups: Tensor) -> BoundState:
        """The bound state of some regions, with the bounds of nonlinear operands and nothing derived from them."""
        found = self._bound_state()
        found.give({name: root.interval(name).at(groups) for name in root.facts.readers})
        return found

    def _alpha(self, seconds: float) -> list[Choice | None]:
        """Runs α-CROWN if it fits into its share of the time; returns the optimised parameters of each open clause.

        seconds: the time of one CROWN pass.
        """
        share = ROOT_SHARE * min(self.deadline.left, UNLIMITED)
        iterations = min(ROOT_ITERATIONS, int(share / (ROOT_COST * max(seconds, 1e-3))))
        problem, width = self.problem, self.problem.width
        assert self.root is not None
        if iterations < 1:
            return [None] * len(problem)
        self._tell("alpha-crown")
        optimised = bounds.AlphaCrown(iterations).optimise(self.root, problem.rows)
        with torch.no_grad():
            lower = optimised.lower(self.root, problem.rows)
        output = problem.network.graph.output
        slopes = optimised.alphas[output]
        choices: list[Choice | None] = []
        for c in range(len(problem)):
            g, first = int(problem.group[c]), int(problem.slot[c]) * width
            own = [
                *range(first, first + width),
                *([first] if width > 1 else []),
            ]  # the mixed row starts like the first
            chosen = {
                name: tuple(t[g, own].to(torch.float32) for t in alphas) for name, alphas in slopes.items()
            }
            choices.append(Choice(chosen, {}))
        left = problem.unproved(problem.excess(lower))
        if self.proof is not None:
            inner = {
                target: node_alphas for target, node_alphas in optimised.alphas.items() if target != output
            }
            for g, group in enumerate(self.groups):
                self.proof.slopes[group] = {
                    target: {name: tuple(t[g : g + 1] for t in ts) for name, ts in node_alphas.items()}
                    for target, node_alphas in inner.items()
                }
            for c in set(range(len(problem))) - set(left):
                self.proof.note(self.clauses[c], (), choices[c])
        self._settled(lower)
        return [choices[c] for c in left]
