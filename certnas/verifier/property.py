"""What a property says, exactly: boxes of inputs and linear constraints on outputs that a counterexample meets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

Interval = tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Constraint:
    """Σⱼ coef[j]·Y_j + Σᵢ inputs[i]·X_i ≤ bound, or < where strict.  Exact rationals."""

    coef: tuple[tuple[int, Fraction], ...]
    bound: Fraction
    strict: bool = False
    inputs: tuple[tuple[int, Fraction], ...] = ()

    def holds(self, outputs: Sequence[Fraction], inputs: Sequence[Fraction] = ()) -> bool:
        value = sum((a * outputs[j] for j, a in self.coef), Fraction(0))
        value += sum((a * inputs[i] for i, a in self.inputs), Fraction(0))
        return value < self.bound if self.strict else value <= self.bound


@dataclass(frozen=True)
class Box:
    """lower[i] ≤ X_i ≤ upper[i] for every input, as the decimals say."""

    sides: tuple[Interval, ...]

    @cached_property
    def outward(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest float64 box that holds this one.  [n] each"""
        lower = np.array([rounded(low, -math.inf) for low, _ in self.sides])
        return lower, np.array([rounded(high, math.inf) for _, high in self.sides])

    @cached_property
    def inside(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest float32 box within this one, [n] each, float32.

        A side that holds no float32 number becomes the one nearest to it: no float32 network has another input there.
        """
        lower = np.array([rounded(low, math.inf, np.float32) for low, _ in self.sides], dtype=np.float32)
        upper = np.array([rounded(high, -math.inf, np.float32) for _, high in self.sides], dtype=np.float32)
        empty = lower > upper
        nearest = np.array([np.float32(float((low + high) / 2)) for low, high in self.sides], np.float32)
        return np.where(empty, nearest, lower), np.where(empty, nearest, upper)


@dataclass(frozen=True)
class Clause:
    """A counterexample of this kind: X in the box, and Y = f(X) meets every constraint."""

    box: Box
    constraints: tuple[Constraint, ...]

    def holds(self, inputs: np.ndarray, outputs: np.ndarray) -> bool:
        """Whether a float32 input [n], and the outputs [m] that it gives, are of this kind.

        The input must lie in `box.inside`; the constraints are evaluated in exact arithmetic.
        """
        lower, upper = self.box.inside
        if not (np.isfinite(outputs).all() and (lower <= inputs).all() and (inputs <= upper).all()):
            return False
        exact = [Fraction(float(y)) for y in outputs]
        x = [Fraction(float(v)) for v in inputs] if any(c.inputs for c in self.constraints) else []
        return all(constraint.holds(exact, x) for constraint in self.constraints)


@dataclass(frozen=True)
class Property:
    """A disjunction of clauses; it is `unsat`, and the network safe, where no input meets any.

    Without a clause it is met nowhere: the boxes that it states hold no input.  The shapes are those that VNN-LIB 2.0
    declares, None where only the numbers of inputs and outputs are known.
    """

    inputs: int
    outputs: int
    clauses: tuple[Clause, ...]
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None

    @property
    def relational(self) -> bool:
        """Whether any constraint speaks of inputs, beyond the boxes."""
        return any(constraint.inputs for clause in self.clauses for constraint in clause.constraints)

    def violated_by(self, inputs: np.ndarray, outputs: np.ndarray) -> bool:
        """Whether a float32 input [n] and the outputs [m] that it gives are a counterexample."""
        return any(clause.holds(inputs, outputs) for clause in self.clauses)


def rounded(value: Fraction, towards: float, dtype: type[np.floating] = np.float64) -> float:
    """The float nearest to `value` on the side of `towards`, ±∞; `value` itself where it is one."""
    try:
        with np.errstate(over="ignore"):
            nearest = dtype(float(value))
    except OverflowError:
        nearest = dtype(math.inf if value > 0 else -math.inf)
    if math.isinf(nearest):
        beyond = bool(nearest > 0)
    else:
        beyond = Fraction(float(nearest)) > value
        if Fraction(float(nearest)) == value:
            return float(nearest)
    if beyond == (towards > 0):
        return float(nearest)
    return float(np.nextafter(nearest, dtype(towards)))
