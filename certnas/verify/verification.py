"""One property of one network: attacked, bounded by the cheapest method that proves it, then branched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

import bounds
from bounds.analysis import Analysis
from bounds.memory import budget, free_memory
from certnas.errors import UserError
from certnas.verify.attack import QUICK, THOROUGH, Descent, Judge, Replay, attack
from certnas.verify.branch import Branching, State
from certnas.verify.deadline import Deadline, OutOfTime
from certnas.verify.input_split import FEW_INPUTS, InputSplitting, free_inputs
from certnas.verify.problem import Problem, fits
from certnas.verify.property import Property
from certnas.verify.relaxed import Choice
from certnas.verify.verdict import SAT, TIMEOUT, UNKNOWN, UNSAT, Counterexample, Step, Verdict

METHODS: dict[str, bounds.Method] = {"ibp": bounds.IBP(), "crown-ibp": bounds.CrownIBP()}
"""What is tried before `crown`, cheapest first."""
ROOT_SHARE, ROOT_ITERATIONS, ROOT_COST = 0.3, 20, 5.0
"""alpha-crown at the root: the share of the remaining time it may take, its iterations, and how many times a crown
pass one iteration costs."""
UNLIMITED = 3600.0
"""The seconds that alpha-crown's share is taken of where there is no time limit."""


def network_of(model: nn.Module, shape: tuple[int, ...]) -> bounds.Network:
    """The model, in evaluation mode on inputs [N, *shape], as `verify` takes it: traced, in float64.

    Raises bounds.UnsupportedOp.
    """
    dtype = next((p.dtype for p in [*model.parameters(), *model.buffers()] if p.is_floating_point()), None)
    graph = bounds.trace(model, torch.zeros(1, *shape, dtype=dtype or torch.float32))
    bounds.check(graph)
    return graph.bind(dtype=torch.float64)


def verify(
    network: bounds.Network,
    prop: Property,
    *,
    replay: Replay | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    seed: int = 0,
    progress: Callable[[Step], None] | None = None,
) -> Verdict:
    """Whether any input of the property's boxes gives outputs that meet its constraints.

    `unsat`: for every clause and every x of its box, bounded outward to float64, some constraint's excess
    Σ coef·f(x) − bound is above PROOF_MARGIN · (1 + its scale) for the network f in float64.  `sat`: a float32 input
    at which `replay` gives outputs that meet a clause in exact arithmetic.

    network: `network_of(model, shape)`; X_i are its inputs in flattened order, Y_j its outputs.  replay: inputs [n]
    float32 to outputs [m], the network as it will be run; the network in float64 where None.  timeout in seconds,
    memory in bytes for the coefficients of a batch (None: a quarter of what is free).  Ctrl-C ends the search as
    the timeout does.  Raises UserError where property and network do not fit.
    """
    deadline = Deadline(timeout)
    reason = fits(prop, network)
    if reason:
        raise UserError(f"verify: {reason}; give the network that the property was written for")
    memory = memory if memory is not None else max(free_memory(network.device) // 4, 1 << 26)
    run = _Run(Problem.of(network, prop.clauses), Judge(prop, replay or _in_double(network)), deadline)
    run.memory, run.seed, run.progress = memory, seed, progress
    try:
        with deadline.enforced():
            run.go()
    except OutOfTime:
        return run.verdict(TIMEOUT)
    except KeyboardInterrupt:
        return replace(run.verdict(UNKNOWN), interrupted=True, note="interrupted")
    except MemoryError:
        return replace(run.verdict(UNKNOWN), note="the open subproblems exceed the memory budget")
    if run.found is not None:
        return run.verdict(SAT)
    return run.verdict(UNKNOWN if run.state.left else UNSAT)


def _in_double(network: bounds.Network) -> Replay:
    def replay(inputs: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(inputs.astype(np.float64)).reshape(1, *network.graph.input_shape)
        with torch.no_grad():
            return network(x).flatten().cpu().numpy()

    return replay


class _Run:
    """The state of one verification: the clauses still open, what is proved of them, what was found."""

    memory: int
    seed: int
    progress: Callable[[Step], None] | None

    def __init__(self, problem: Problem, judge: Judge, deadline: Deadline) -> None:
        self.problem, self.judge, self.deadline = problem, judge, deadline
        self.state = State(dict.fromkeys(range(len(problem.clauses)), -math.inf))
        self.root: Analysis | None = None
        self.found: Counterexample | None = None
        self.stage = "start"

    def go(self) -> None:
        """All stages, until nothing is open, a counterexample is found, or there is no more to try."""
        if self._attacked(QUICK):
            return
        for name, method in METHODS.items():
            self._tell(name)
            if self._settled(self._lower(method)):
                return
        self._tell("crown")
        began = self.deadline.spent
        self.root = self._analysis()
        with torch.no_grad():
            lower = bounds.Crown().lower(self.root, self.problem.coef) - self.problem.offset
        seconds = self.deadline.spent - began
        if self._settled(lower) or self._attacked(THOROUGH):
            return
        if free_inputs(self.problem) <= FEW_INPUTS:
            self._tell("input splitting")
            InputSplitting(self.problem, self.memory).search(
                self.deadline, self.state, lambda: self._tell(self.stage), self._met
            )
            return
        starts = self._alpha(seconds)
        if self.state.lower:
            self._tell("branch and bound")
            Branching(self.problem, self.root, self.memory).search(
                starts, self.deadline, self.state, lambda: self._tell(self.stage), self._met
            )

    def verdict(self, status: str) -> Verdict:
        """What is known now, under that status."""
        return Verdict(status, self.state.bound, self.deadline.spent, self.stage, self.state.done, self.found)

    def _tell(self, stage: str) -> None:
        self.stage = stage
        self.deadline.check()
        if self.progress is not None:
            state = self.state
            self.progress(Step(stage, state.left, state.bound, state.open, state.done))

    def _attacked(self, descent: Descent) -> bool:
        self._tell("attack")
        self.found = attack(self.problem, self.judge, descent, self.deadline, seed=self.seed)
        return self.found is not None

    def _met(self, points: Tensor) -> bool:
        """Whether a counterexample is among points [M, *shape]."""
        with torch.no_grad():
            outputs = self.problem.network(points).flatten(1)
        excess = torch.einsum("gsk,mk->mgs", self.problem.coef.flatten(2), outputs) - self.problem.offset
        worst = torch.stack([self.problem.by_clause(own).amin() for own in excess])
        near = worst <= 0
        if bool(near.any()):
            self.found = self.judge(points[near][worst[near].argsort()[:4]])
        return self.found is not None

    # Bounds

    def _analysis(self) -> Analysis:
        network = self.problem.network
        limit = budget(self.memory, network.dtype, network.device)
        return Analysis(network, self.problem.region, limit, bounds.Slope.ADAPTIVE)

    def _lower(self, method: bounds.Method) -> Tensor:
        problem = self.problem
        with torch.no_grad():
            found = bounds.lower_bounds(
                problem.network, problem.region, problem.coef, method, memory=self.memory
            )
        return found - problem.offset

    def _settled(self, lower: Tensor) -> bool:
        """Takes note of lower bounds [G, S] of the excess; whether no clause is left open."""
        problem, before = self.problem, self.state.lower
        best = problem.by_clause(lower.nan_to_num(nan=-torch.inf)).tolist()
        left = problem.unproved(lower)
        self.state.lower = {i: max(best[c], before[c]) for i, c in enumerate(left)}
        if left:
            groups = dict.fromkeys(problem.places[c][0] for c in left)
            self.problem = problem.only(left)
            if self.root is not None:
                self.root = self._narrowed(self.root, torch.tensor(list(groups)))
        return not left

    def _narrowed(self, root: Analysis, groups: Tensor) -> Analysis:
        """The same for some boxes, knowing the bounds of what nonlinear operators read and nothing derived."""
        analysis = self._analysis()
        for name in root.plan.readers:
            x = root.interval(name)
            analysis.intervals[name] = bounds.Interval(x.lower[groups], x.upper[groups])
        return analysis

    def _alpha(self, seconds: float) -> list[Choice | None]:
        """Bounds by alpha-crown if they fit into their share of the time; where each clause's optimiser stands.

        seconds: what a pass of crown took.
        """
        share = ROOT_SHARE * min(self.deadline.left, UNLIMITED)
        iterations = min(ROOT_ITERATIONS, int(share / (ROOT_COST * max(seconds, 1e-3))))
        assert self.root is not None
        if iterations < 1:
            return [None] * len(self.problem.clauses)
        self._tell("alpha-crown")
        tuned = bounds.AlphaCrown(iterations).optimise(self.root, self.problem.coef)
        with torch.no_grad():
            lower = tuned.lower(self.root, self.problem.coef) - self.problem.offset
        problem, left = self.problem, self.problem.unproved(lower)
        if self._settled(lower):
            return []
        # the row that mixes a clause's rows begins like the first of them
        width = self.problem.width
        slopes = tuned.slopes[problem.network.graph.output]
        choices: list[Choice | None] = []
        for g, rows in (problem.places[c] for c in left):
            own = rows[[*range(width), 0]] if width > 1 else rows[:1]
            chosen = {
                name: tuple(t[g, own].to(torch.float32) for t in tuning) for name, tuning in slopes.items()
            }
            choices.append(Choice(chosen, {}))
        return choices
