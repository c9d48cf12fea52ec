"""What a bound method is, and the two verbs that ask one: `lower_bounds` and `output_bounds`.

Every method returns lower bounds only; an upper bound of a row is minus the lower bound of its negation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..chunking import budget, ran_out
from ..errors import InvalidInput, OutOfMemory
from ..graph import Network
from ..graph.folding import folded
from ..interval import Interval
from ..region import Region
from ..relaxation import Slope
from ..state import BoundState


class Method(ABC):
    """A way to bound rows of a network's output over a region.

    `lower` starts from the bounds that the bound state was given, and leaves in it those that it found.
    """

    slope: Slope = Slope.ADAPTIVE

    @abstractmethod
    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        """coef [N, S, *out] -> [N, S]."""


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
        state = BoundState(
            folded(network), region, budget(memory, network.dtype, network.device), method.slope
        )
        try:
            found = method.lower(state, rows)
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
