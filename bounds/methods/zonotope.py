"""Methods whose intermediate bounds come from zonotopes, with or without a backward pass for the specification."""

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
    """Forward affine forms of the input with error symbols (DeepZ, Singh et al. 2018).

    Raises InvalidInput for a negative number of errors.
    """

    errors: int | None = None
    """The number of new error symbols that each layer keeps; the other errors are joined into a box.  None keeps
    all.
    """

    def __post_init__(self) -> None:
        _check_errors(self.errors)

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        forms = ZonotopePass(state, self.errors)
        by_forms = state.defined(coef, forms.lower(forms.run(), coef))
        return torch.fmax(by_forms, state.lower_bounds_by_intervals(coef))


@dataclass(frozen=True)
class ZonotopeCrown(Method):
    """Zonotopes for the intermediate bounds, one backward pass for the specification.

    Raises InvalidInput for a negative number of errors.
    """

    errors: int | None = None
    """The number of new error symbols that each layer keeps, as in `Zonotope`."""
    slope: Slope = Slope.ADAPTIVE
    """How the lower slope of an unstable ReLU is chosen."""

    def __post_init__(self) -> None:
        _check_errors(self.errors)

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        by_forms = Zonotope(self.errors).lower(state, coef)
        return torch.fmax(by_forms, state.lower_bounds(state.network.graph.output, coef))
