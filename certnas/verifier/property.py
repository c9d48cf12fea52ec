"""A property in exact arithmetic: boxes of inputs, and the linear constraints that a counterexample satisfies."""

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
    """The linear constraint Σⱼ coef[j]·Y_j + Σᵢ inputs[i]·X_i ≤ bound, or < if strict, in exact rationals."""

    coef: tuple[tuple[int, Fraction], ...]
    """The coefficients of outputs, as pairs (j, coefficient)."""
    bound: Fraction
    """The bound."""
    strict: bool = False
    """Whether the inequality is strict."""
    inputs: tuple[tuple[int, Fraction], ...] = ()
    """The coefficients of inputs, as pairs (i, coefficient)."""

    def holds(self, outputs: Sequence[Fraction], inputs: Sequence[Fraction] = ()) -> bool:
        """Whether the constraint holds for exact outputs and inputs."""
        value = sum((a * outputs[j] for j, a in self.coef), Fraction(0))
        value += sum((a * inputs[i] for i, a in self.inputs), Fraction(0))
        return value < self.bound if self.strict else value <= self.bound


@dataclass(frozen=True)
class Box:
    """A box of inputs: lower[i] ≤ X_i ≤ upper[i], exactly as the decimals state."""

    sides: tuple[Interval, ...]
    """The exact interval of each input."""

    @cached_property
    def outward(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest float64 box that contains this one.  [n] each"""
        lower = np.array([rounded(low, -math.inf) for low, _ in self.sides])
        return lower, np.array([rounded(high, math.inf) for _, high in self.sides])

    @cached_property
    def inside(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest float32 box within this one.  [n] each, float32

        A side that contains no float32 number becomes the nearest one, since a float32 network has no other input
        there.
        """
        lower = np.array([rounded(low, math.inf, np.float32) for low, _ in self.sides], dtype=np.float32)
        upper = np.array([rounded(high, -math.inf, np.float32) for _, high in self.sides], dtype=np.float32)
        empty = lower > upper
        nearest = np.array([np.float32(float((low + high) / 2)) for low, high in self.sides], np.float32)
        return np.where(empty, nearest, lower), np.where(empty, nearest, upper)


@dataclass(frozen=True)
class Clause:
    """One kind of counterexample: X lies in the box, and Y = f(X) satisfies every constraint."""

    box: Box
    """The box of inputs."""
    constraints: tuple[Constraint, ...]
    """The constraints, all of which must hold."""

    def holds(self, inputs: np.ndarray, outputs: np.ndarray) -> bool:
        """Whether a float32 input [n] with outputs [m] is a counterexample of this kind.

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
    """A disjunction of clauses; the verdict is `unsat`, and the network is safe, if no input satisfies any of them.

    A property without clauses is never satisfied: its boxes contain no input.
    """

    inputs: int
    """The number of inputs."""
    outputs: int
    """The number of outputs."""
    clauses: tuple[Clause, ...]
    """The clauses."""
    input_shape: tuple[int, ...] | None = None
    """The shape of the input that VNN-LIB 2.0 declares; None if only the number of inputs is given."""
    output_shape: tuple[int, ...] | None = None
    """The shape of the output that VNN-LIB 2.0 declares; None if only the number of outputs is given."""

    @property
    def relational(self) -> bool:
        """Whether any constraint involves inputs, apart from the boxes."""
        return any(constraint.inputs for clause in self.clauses for constraint in clause.constraints)

    def violated_by(self, inputs: np.ndarray, outputs: np.ndarray) -> bool:
        """Whether a float32 input [n] with the outputs [m] of the network is a counterexample."""
        return any(clause.holds(inputs, outputs) for clause in self.clauses)


def rounded(value: Fraction, towards: float, dtype: type[np.floating] = np.float64) -> float:
    """The nearest float to `value` on the side of `towards`, which is ±∞; `value` itself if it is a float."""
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
