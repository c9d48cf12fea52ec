"""Verifies one property of one network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.bounds.extend import free_memory
from certnas.errors import UserError
from certnas.faithful import Faithful, dtype_of, points_within
from certnas.verifier.attack import DESCENTS, CounterexampleJudge, Replay, attack
from certnas.verifier.deadline import Deadline, OutOfTime
from certnas.verifier.exact import equal_bounds
from certnas.verifier.problem import Problem, problem_of
from certnas.verifier.proof import Proof
from certnas.verifier.property import Property
from certnas.verifier.search import Search
from certnas.verifier.verdict import (
    SAT,
    TIMEOUT,
    UNKNOWN,
    UNSAT,
    Counterexample,
    Verdict,
    VerificationProgress,
)

LEAST_MEMORY = 1 << 26
"""The smallest default memory budget, in bytes."""


def share_of_memory(workers: int) -> int | None:
    """The memory for each of several processes that verify on this machine, in bytes; None for one process, which
    decides itself.
    """
    free = free_memory(torch.device("cpu"))
    return None if workers == 1 else max(free // (4 * workers), LEAST_MEMORY)


def network_of(
    model: nn.Module, shape: tuple[int, ...], box: tuple[Tensor, Tensor] | None = None
) -> bounds.Network:
    """Traces a model in evaluation mode for `verify`, in float64.

    model: maps inputs [N, *shape] to outputs. shape: the shape of one input.
    box: the lower and upper limit [*shape] of the inputs that will be verified, [0, 1] by default. Trace and model
        are compared at points of the box.
    Raises bounds.UnsupportedOp for an operator without a rule, and UserError if the trace differs from the model.
    """
    graph = bounds.trace(model, torch.zeros(1, *shape, dtype=dtype_of(model, torch.float32)))
    bounds.check(graph)
    lower, upper = box or (torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))
    Faithful(model, graph).check(points_within(lower, upper))
    return graph.bind(dtype=torch.float64)


def verify(
    network: bounds.Network,
    prop: Property,
    *,
    replay: Replay | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    seed: int = 0,
    proof: bool = False,
    progress: Callable[[VerificationProgress], None] | None = None,
) -> Verdict:
    """Decides whether any input of the property's boxes gives outputs that satisfy its constraints.

    `unsat`: for every clause and every x of its box, rounded outward to float64, some constraint's excess Σ coef·f(x)
    − bound is above PROOF_MARGIN · (1 + its scale), for the network f in float64. For a strict constraint, rational
    arithmetic may prove instead that the excess is at least 0.
    `sat`: at some float32 input, `replay` gives outputs that satisfy a clause in exact arithmetic.

    network: the result of `network_of(model, shape)`; X_i are its inputs in flattened order, Y_j its outputs.
    prop: the property.
    replay: maps inputs [n] float32 to outputs [m], the network as it will be run; the network in float64 if None.
    timeout: the time limit in seconds; None for no limit.
    memory: the budget for the coefficients of a batch, in bytes; a quarter of the free memory if None.
    seed: the seed of the attacks.
    proof: whether to record an `unsat` so that `certnas.proofs` can write a certificate; this needs as much memory
        again.
    progress: receives the progress.

    Returns the verdict. Ctrl-C ends the search like the timeout. Raises UserError if property and network do not fit.
    """
    deadline = Deadline(timeout)
    _check_sizes(network, prop)
    judge = CounterexampleJudge(prop, replay or _in_double(network))
    found: list[Counterexample] = []

    def refuted(points: Tensor) -> bool:
        assert search is not None
        worst = search.problem.least_excess(points)
        near = worst <= 0
        if bool(near.any()):
            best = judge(points[near][worst[near].argsort()[:4]])
            found.extend([best] if best is not None else [])
        return bool(found)

    def attacked(problem: Problem, name: str) -> bool:
        best = attack(problem, judge, DESCENTS[name], deadline, seed=seed)
        found.extend([best] if best is not None else [])
        return bool(found)

    if not prop.clauses:
        return Verdict(
            UNSAT, np.inf, deadline.spent, "empty box", note="no input lies in a box of the property"
        )
    room = memory if memory is not None else max(free_memory(network.device) // 4, LEAST_MEMORY)
    search: Search | None = None
    kept: Proof | None = None

    def verdict(status: str, note: str = "") -> Verdict:
        if search is None:
            return Verdict(status, -np.inf, deadline.spent, "preparation", note=note)
        state, example = search.state, found[0] if found else None
        return Verdict(status, state.bound, deadline.spent, search.stage, state.done, example, note)

    try:
        with deadline.enforced():
            problem = problem_of(network, prop)
            kept = Proof(problem, room) if proof else None
            equal = equal_bounds(problem.network, prop)
            search = Search(problem, deadline, room, refuted, attacked, progress, kept, equal)
            search.go()
    except OutOfTime:
        return verdict(TIMEOUT)
    except KeyboardInterrupt:
        return replace(verdict(UNKNOWN, "interrupted"), interrupted=True)
    except MemoryError:
        return verdict(UNKNOWN, "the open subproblems exceed the memory budget")
    if found or search.state.left:
        return verdict(SAT if found else UNKNOWN)
    return replace(verdict(UNSAT), proof=kept)


def _check_sizes(network: bounds.Network, prop: Property) -> None:
    inputs, outputs = (int(np.prod(s)) for s in (network.graph.input_shape, network.graph.output_shape))
    if (inputs, outputs) != (prop.inputs, prop.outputs):
        raise UserError(
            f"verify: the property has {prop.inputs} inputs and {prop.outputs} outputs, the network {inputs} and "
            f"{outputs}; give the network that the property was written for"
        )
    for kind, declared, own in (
        ("inputs", prop.input_shape, network.graph.input_shape),
        ("outputs", prop.output_shape, network.graph.output_shape),
    ):
        # axes of size 1, and flattening to one axis, do not change the order of the elements
        said, has = ([size for size in shape or () if size != 1] for shape in (declared, own))
        if said != has and min(len(said), len(has)) > 1:
            raise UserError(
                f"verify: the property declares {kind} of shape {list(declared or ())}, the network has {list(own)}; "
                "give the network that the property was written for"
            )


def _in_double(network: bounds.Network) -> Replay:
    def replay(inputs: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(inputs.astype(np.float64)).reshape(1, *network.graph.input_shape)
        with torch.no_grad():
            return network(x.to(network.device)).flatten().cpu().numpy()

    return replay
