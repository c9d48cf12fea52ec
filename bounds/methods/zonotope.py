"""Zonotopes for the intermediate bounds; the rows by their forms, or by one backward pass as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..passes.zonotope import ZonotopePass
from ..relaxation import Slope
from ..state import BoundState
from .method import Method


def _check_errors(errors: int | None) -> None:
    if errors is not None and errors < 0:
        raise InvalidInput(f"zonotope: errors must be None or at least 0, got {errors}")


@dataclass(frozen=True)
class Zonotope(Method):
    """Forward affine forms of the input with `errors` error symbols kept a layer (None: all), the rest boxed."""

    errors: int | None = None

    def __post_init__(self) -> None:
        _check_errors(self.errors)

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        forms = ZonotopePass(state, self.errors)
        formed = state.defined(coef, forms.lower(forms.run(), coef))
        return torch.fmax(formed, state.lower_bounds_by_intervals(coef))


@dataclass(frozen=True)
class ZonotopeCrown(Method):
    """A zonotope for the intermediate bounds, one backward pass for the rows."""

    errors: int | None = None
    slope: Slope = Slope.ADAPTIVE

    def __post_init__(self) -> None:
        _check_errors(self.errors)

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        formed = Zonotope(self.errors).lower(state, coef)
        return torch.fmax(formed, state.lower_bounds(state.network.graph.output, coef))
