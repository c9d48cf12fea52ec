"""Bound methods: each a value, each a composition of the passes.

Every method returns lower bounds only; an upper bound of a row is minus the lower bound of its negation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.analysis import Analysis
from bounds.boxes import boxes
from bounds.errors import InvalidInput, OutOfMemory
from bounds.folding import folded
from bounds.forward import Zonotope as Forms
from bounds.graph import Network
from bounds.interval import Interval
from bounds.memory import budget, ran_out
from bounds.ops import Nonlinear, rule_for
from bounds.region import Region
from bounds.relaxation import Slope


class Method(ABC):
    """A way to bound rows of a network's output over a region.

    `lower` starts from the bounds that the analysis was given, and leaves in it those that it found.
    """

    slope: Slope = Slope.ADAPTIVE

    @abstractmethod
    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        """coef [N, S, *out] -> [N, S]."""


@dataclass(frozen=True)
class IBP(Method):
    """Interval arithmetic (Gowal et al. 2018); what is affine in the input, and the affine tail of rows, is exact."""

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        analysis.restart()
        analysis.derive(boxes(analysis, analysis.plan.tail_ends))
        return analysis.boxed_rows(coef)


@dataclass(frozen=True)
class CrownIBP(Method):
    """Interval arithmetic inside, one backward pass for the rows (Zhang et al. 2020)."""

    slope: Slope = Slope.ADAPTIVE

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        analysis.restart()
        boxed = analysis.boxed_rows(coef)
        return torch.fmax(boxed, analysis.rows(analysis.network.graph.output, coef))


def _check_errors(errors: int | None) -> None:
    if errors is not None and errors < 0:
        raise InvalidInput(f"zonotope: errors must be None or at least 0, got {errors}")


@dataclass(frozen=True)
class Zonotope(Method):
    """Forward affine forms of the input with `errors` error symbols kept a layer (None: all), the rest boxed."""

    errors: int | None = None

    def __post_init__(self) -> None:
        _check_errors(self.errors)

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        analysis.restart()
        forms = Forms(analysis, self.errors)
        formed = analysis.defined(coef, forms.lower(forms.run(), coef))
        return torch.fmax(formed, analysis.boxed_rows(coef))


@dataclass(frozen=True)
class ZonotopeCrown(Method):
    """A zonotope for the intermediate bounds, one backward pass for the rows."""

    errors: int | None = None
    slope: Slope = Slope.ADAPTIVE

    def __post_init__(self) -> None:
        _check_errors(self.errors)

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        formed = Zonotope(self.errors).lower(analysis, coef)
        return torch.fmax(formed, analysis.rows(analysis.network.graph.output, coef))


def _newer(old: Interval, new: Interval) -> Interval:
    return Interval.between(*new)


@dataclass(frozen=True)
class Crown(Method):
    """Backward passes for every tensor that a nonlinearity reads, then for the rows (Zhang et al. 2018).

    With `slope=Slope.PARALLEL` it is Fast-Lin and CNN-Cert, with ADAPTIVE CNN-Cert-Ada.  intersect: whether the
    intermediate bounds are met with interval arithmetic's.  That is tighter on average, but a tighter interval may flip
    the adaptive slope of a ReLU, so a single row can come out looser; False gives the bounds of auto_LiRPA, or tighter
    ones where intervals met on the way decide the sign of a unit that CROWN alone would leave open.  The output of a
    nonlinear operator is met with its range on the operand's interval in any case: planes of it reach beyond that.
    """

    slope: Slope = Slope.ADAPTIVE
    intersect: bool = True

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        analysis.restart()
        nodes = analysis.network.graph.nodes
        for target in analysis.plan.readers:
            ranged = target in nodes and isinstance(rule_for(nodes[target]), Nonlinear)
            analysis.refine(target, meet=Interval.intersect if self.intersect or ranged else _newer)
        boxed = analysis.boxed_rows(coef)
        return torch.fmax(boxed, analysis.rows(analysis.network.graph.output, coef))


@contextmanager
def _full_precision() -> Iterator[None]:
    """TF32 would round inside of a bound."""
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv


def lower_bounds(
    network: Network, region: Region, rows: Tensor, method: Method, *, memory: int | None = None
) -> Tensor:
    """rows·f(x') ≥ result for every x' in the region.  rows [N, S, K] -> [N, S]

    Differentiable in the network's parameters, the region's centre and radius, and the rows.  memory: bytes that
    coefficients may take (None: half of what is free); the result does not depend on it.  Where intervals grow
    beyond what the precision can hold, the result is −∞.
    Raises InvalidInput where rows and images do not fit together, UnsupportedOp for an operator without a rule,
    OutOfMemory where the device has no room.  Where smaller blocks of rows have, a MemoryWarning says so once.
    """
    out = network.graph.output_shape
    images = len(region.x)
    if rows.dim() < 2 or len(rows) != images or tuple(rows.shape[2:]) != out:
        raise InvalidInput(
            f"rows: shape {list(rows.shape)} does not fit {images} images and outputs {list(out)}; "
            "expected [N, S, *outputs]"
        )
    if tuple(region.x.shape[1:]) != network.graph.input_shape:
        raise InvalidInput(
            f"region: images have shape {list(region.x.shape[1:])}, the network takes {list(network.graph.input_shape)}"
        )
    region = region.to(network.dtype, network.device)
    rows = rows.to(dtype=network.dtype, device=network.device)
    if not rows.shape[0] or not rows.shape[1]:
        return rows.new_zeros(rows.shape[:2])
    with _full_precision():
        analysis = Analysis(
            folded(network), region, budget(memory, network.dtype, network.device), method.slope
        )
        try:
            found = method.lower(analysis, rows)
            return torch.where(
                found < torch.inf, found, -torch.inf
            )  # an overflow, NaN among them, says nothing
        except RuntimeError as error:
            if not ran_out(error):
                raise
            raise OutOfMemory(
                f"out of memory: the bounds of {images} images do not fit on {network.device}; "
                "give fewer images at a time, or take a cheaper method"
            ) from error


def output_bounds(network: Network, region: Region, method: Method, *, memory: int | None = None) -> Interval:
    """Bounds of every output over the region.  [N, *out] each"""
    out = network.graph.output_shape
    units = 1
    for size in out:
        units *= size
    eye = torch.eye(units, dtype=network.dtype, device=network.device).reshape(units, *out)
    rows = torch.cat([eye, -eye]).expand(len(region.x), 2 * units, *out)
    both = lower_bounds(network, region, rows, method, memory=memory)
    return Interval(both[:, :units].reshape(-1, *out), -both[:, units:].reshape(-1, *out))
