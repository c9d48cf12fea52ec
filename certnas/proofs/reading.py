"""Translates one traced operator into nodes of the checker's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from certnas.bounds.extend import Call
from certnas.checker import CheckedNetwork

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """One traced node, its operands already translated."""

    network: CheckedNetwork
    """The checker's network so far."""
    call: Call
    """The traced node with its constants."""
    operands: tuple[str, ...]
    """The ids of the operands."""

    @property
    def shape(self) -> Shape:
        """The shape of the node's output, without the batch."""
        return self.call.shape

    @property
    def source(self) -> Shape:
        """The shape of the first operand, without the batch."""
        return self.call.shapes[0]

    def add(self, op: str, shape: Shape | None = None, **arrays: np.ndarray) -> str:
        """Adds an operator on the operands; returns its id."""
        return self.network.add(op, self.operands, self.shape if shape is None else shape, arrays)

    def reshaped(self) -> str:
        """Adds a reshape to the shape of the output."""
        return self.add("select", index=np.arange(prod(self.shape)).reshape(self.shape))

    def then(self, operand: str) -> Reading:
        """The same reading with another operand."""
        return Reading(self.network, self.call, (operand,))

    def scale(self, gamma: Any = 1.0, beta: Any = 0.0, divisor: Any = 1.0, **norm: np.ndarray | float) -> str:
        """Adds γ (x − mean) / (divisor √(variance + eps)) + β, with constants that broadcast over the batch and the
        shape.
        """
        given = {"gamma": gamma, "beta": beta, "divisor": divisor, "mean": 0.0, "variance": 1.0, "eps": 0.0}
        arrays = {name: self._constant(value) for name, value in (given | norm).items()}
        return self.network.add("scale", self.operands, self.shape, arrays)

    def _constant(self, value: Any) -> np.ndarray:
        constant = array(value)
        while constant.ndim > len(self.shape):
            constant = constant[0]
        return constant.reshape(*[1] * (len(self.shape) - constant.ndim), *constant.shape)


def array(value: Any) -> np.ndarray:
    """The value as a float64 array."""
    if isinstance(value, Tensor):
        return value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def constant_of(r: Reading) -> tuple[Any, bool]:
    """The constant operand, and whether it is on the left; (None, False) if both operands are perturbed."""
    arguments = r.call.node.arguments
    own = [r.call.is_operand(arguments[key]) for key in ("self", "other")]
    if all(own):
        return None, False
    return (r.call["other"], False) if own[0] else (r.call["self"], True)


Rule = Callable[[Reading], str]
"""Adds the computation of a traced operator to the checker's network, and returns the id of its result."""
