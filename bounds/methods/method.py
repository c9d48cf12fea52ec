"""The interface of a bound method, and the two functions that run one: `lower_bounds` and `output_bounds`.

A method returns lower bounds only; the upper bound of a linear form is minus the lower bound of its negation.
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
    """A method that bounds linear forms of a network's output over a region.

    A subclass implements `lower`, which works on a `bounds.extend.BoundState`: it calls `state.restart()`, computes
    intermediate bounds, leaves them in the state, and returns the bounds of the specification.
    """

    slope: Slope = Slope.ADAPTIVE
    """How the lower slope of an unstable ReLU is chosen."""

    @abstractmethod
    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        """Return lower bounds of the specification.  coef [N, S, *out] -> [N, S]"""


@contextmanager
def _full_precision() -> Iterator[None]:
    """Disable TF32, whose rounding would make the bounds unsound."""
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv


def lower_bounds(
    network: Network, region: Region, rows: Tensor, method: Method, *, memory: int | None = None
) -> Tensor:
    """Return certified lower bounds of linear forms of the outputs: rows·f(x') ≥ result for every x' in the region.

    network: a traced and bound network, f.  region: the perturbation region of N images; ε is in the units of the
    network's input.  rows [N, S, K]: the specification, such as `margins`; K stands for the shape of the output.
    method: an element of `METHODS`, or another instance of `Method`.  memory: the bytes that coefficients may take
    (half of the free memory if None); the result does not depend on it.
    Returns [N, S], differentiable in the network's parameters, the region's centre and radius, and the rows.  A bound
    is −∞ if intervals grow beyond the range of the precision.
    Raises InvalidInput if rows, images and network do not fit together, UnsupportedOp for an operator without a rule,
    and OutOfMemory if the device has too little memory.  Issues a MemoryWarning if smaller blocks of rows are needed.

    >>> import torch
    >>> import bounds
    >>> model = torch.nn.Linear(2, 2, bias=False).requires_grad_(False)
    >>> _ = model.weight.copy_(torch.eye(2))
    >>> network = bounds.trace(model, torch.zeros(1, 2)).bind()
    >>> region = bounds.Linf(torch.tensor([[1.0, 0.0]]), eps=0.25)
    >>> rows = bounds.margins(torch.tensor([0]), classes=2)
    >>> bounds.lower_bounds(network, region, rows, bounds.Crown())
    tensor([[0.5000]])
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
            )  # after an overflow, NaN included, nothing is proved
        except RuntimeError as error:
            if not ran_out(error):
                raise
            raise OutOfMemory(
                f"out of memory: the bounds of {images} images do not fit on {network.device}; "
                "give fewer images at a time, or take a cheaper method"
            ) from error


def output_bounds(network: Network, region: Region, method: Method, *, memory: int | None = None) -> Interval:
    """Return lower and upper bounds of every output over the region.

    network, region, method, memory, errors: as in `lower_bounds`.
    Returns an interval [N, *out].

    >>> import torch
    >>> import bounds
    >>> network = bounds.trace(torch.nn.ReLU(), torch.zeros(1, 2)).bind()
    >>> region = bounds.Linf(torch.tensor([[1.0, 0.0]]), eps=0.25)
    >>> found = bounds.output_bounds(network, region, bounds.IBP())
    >>> found.lower, found.upper
    (tensor([[0.7500, 0.0000]]), tensor([[1.2500, 0.2500]]))
    """
    out = network.graph.output_shape
    units = 1
    for size in out:
        units *= size
    eye = torch.eye(units, dtype=network.dtype, device=network.device).reshape(units, *out)
    rows = torch.cat([eye, -eye]).expand(len(region.x), 2 * units, *out)
    both = lower_bounds(network, region, rows, method, memory=memory)
    return Interval(both[:, :units].reshape(-1, *out), -both[:, units:].reshape(-1, *out))
