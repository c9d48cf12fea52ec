"""The result of a verification."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certnas.verifier.proof import Proof

UNSAT, SAT, UNKNOWN, TIMEOUT, ERROR = "unsat", "sat", "unknown", "timeout", "error"


@dataclass(frozen=True)
class Counterexample:
    """An input of a box at which the network's outputs satisfy a clause exactly."""

    inputs: np.ndarray
    """The input, [n] float32, flat."""
    outputs: np.ndarray
    """The outputs of the network, [m], flat."""


@dataclass(frozen=True)
class Verdict:
    """The answer to a property."""

    status: str
    """`unsat` (proved: no input satisfies the property), `sat` (the counterexample does, by a replay), `unknown` (the
    search ended without either), `timeout` or `error`.
    """
    bound: float
    """The proved distance to a counterexample: the least over the clauses of the greatest lower bound of a violated
    constraint's excess Σ coef·Y − bound. It is above 0 for unsat.
    """
    seconds: float
    """The time spent, in seconds."""
    by: str
    """The stage that decided, or that ran last."""
    domains: int = 0
    """The number of subproblems that branch and bound bounded."""
    counterexample: Counterexample | None = None
    """The counterexample for `sat`."""
    note: str = ""
    """A remark in one line."""
    interrupted: bool = False
    """Whether the user interrupted the search."""
    proof: Proof | None = None
    """The proof of `unsat`, if it was requested."""


@dataclass(frozen=True)
class VerificationProgress:
    """The progress of a verification."""

    stage: str
    """The present stage."""
    clauses: int
    """The number of open clauses."""
    bound: float
    """The smallest proved lower bound of an open clause's excess."""
    open: int = 0
    """The number of open subproblems."""
    done: int = 0
    """The number of subproblems that were bounded."""
