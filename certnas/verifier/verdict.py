"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certnas.verifier.proof import Proof

UNSAT, SAT, UNKNOWN, TIMEOUT, ERROR = "unsat", "sat", "unknown", "timeout", "error"


@dataclass(frozen=True)
class Counterexample:
    """An input [n] float32 and the outputs [m] that the network gives there, in which a clause holds exactly."""

    inputs: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """The answer to a property.

    status: `unsat`, no input meets the property (proved); `sat`, the counterexample does (replayed); `unknown`, the
    search ended without either; `timeout`; `error`.  bound: no input comes nearer than this to a counterexample, as
    proved so far: the least over clauses of the greatest proved lower bound of a violated constraint's excess
    Σ coef·Y − bound; above 0 where unsat.  by: what decided, or what ran last.  domains: subproblems bounded by
    branch and bound.  interrupted: whether it was stopped from outside.  proof: of `unsat`, where it was asked for.
    """

    status: str
    bound: float
    seconds: float
    by: str
    domains: int = 0
    counterexample: Counterexample | None = None
    note: str = ""
    interrupted: bool = False
    proof: Proof | None = None


@dataclass(frozen=True)
class VerificationProgress:
    """Where a verification stands: the stage, clauses still open, the bound proved, open and done subproblems."""

    stage: str
    clauses: int
    bound: float
    open: int = 0
    done: int = 0
