"""One node of an ONNX graph, as its importer sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certnas.errors import UserError
from certnas.models.formats.limits import LARGEST, LISTED

Function = Callable[..., Any]


@dataclass(frozen=True)
class Step:
    """The torch function of a node: function(*tensors at `inputs`) is a tensor, or a tuple for several outputs."""

    function: Function
    """The function."""
    inputs: tuple[int, ...] = (0,)
    """Indices of the tensor inputs. Other inputs are integers that the importer read; with no inputs the
    result is a constant.
    """


@dataclass(frozen=True)
class Site:
    """One node: its operator, location, attributes and inputs."""

    op: str
    """Name of the ONNX operator."""
    where: str
    """Location in the file, for messages."""
    opset: int
    """Opset of the model."""
    batch: int
    """Length of the batch dimension of computed inputs."""
    attributes: Mapping[str, Any]
    """Attribute name -> value."""
    inputs: tuple[Tensor | None, ...]
    """A constant input is a tensor with values. A computed input is a meta tensor, which has only a shape,
    with the batch as first dimension. None is an optional input that is left out.
    """

    def refuse(self, why: str) -> UserError:
        """An error that names this node."""
        return UserError(f"ONNX {self.op} at {self.where}: {why}")

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def tensor(self, i: int) -> Tensor:
        """Input i. Raises UserError if the node has none."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise self.refuse(f"input {i} is missing")
        return value

    def present(self, count: int) -> tuple[int, ...]:
        """The indices of those of the first `count` inputs that are not left out.

        Raises UserError for a gap before the last one.
        """
        given = [i for i in range(count) if self.has(i)]
        if given != list(range(len(given))):
            raise self.refuse("an input before the last one is left out")
        return tuple(given)

    def shape(self, i: int = 0) -> tuple[int, ...]:
        return tuple(self.tensor(i).shape)

    def computed(self, i: int = 0) -> bool:
        """True if input i depends on the network's input."""
        return self.tensor(i).is_meta

    def constant(self, i: int) -> Tensor:
        """Input i, which must be a constant. Raises UserError otherwise."""
        value = self.tensor(i)
        if value.is_meta:
            raise self.refuse(f"input {i} depends on the image; it must be a constant")
        return value

    def given(self, name: str, i: int | None = None) -> Any:
        """A setting that is an attribute in one opset and a constant input in another; None if left out."""
        if i is not None and self.has(i):
            if self.constant(i).numel() > LISTED:
                raise self.refuse(f"input {i} has {self.constant(i).numel()} elements; at most {LISTED}")
            return self.constant(i).tolist()
        return self.attributes.get(name)

    def ints(self, name: str, i: int | None = None) -> list[int] | None:
        """A setting as a list of integers. Raises UserError if it is none."""
        value = self.given(name, i)
        if value is None:
            return None
        listed = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(number, int) for number in listed):
            raise self.refuse(f"{name} is {value}; accepted: whole numbers")
        return list(listed)

    def axis(self, value: int, *, rank: int | None = None) -> int:
        """A dimension counted from the front. Raises UserError if it does not exist or is the batch."""
        rank = len(self.shape()) if rank is None else rank
        if not -rank <= value < rank:
            raise self.refuse(f"axis {value} is not among {rank} dimensions")
        if value % rank == 0 and self.inputs and self.computed():
            raise self.refuse("works along the batch dimension; images must stay apart")
        return value % rank

    def bounded(self, shape: list[int]) -> list[int]:
        """The shape. Raises UserError if a tensor of this shape is too large."""
        elements = 1
        for size in shape:
            if size < 0:
                raise self.refuse(f"shape {shape} has a negative size")
            elements *= size
        if elements > LARGEST:
            raise self.refuse(f"shape {shape} has {elements} elements; accepted: at most {LARGEST}")
        return shape

    def resized(self, shape: list[int]) -> Step:
        """Input 0 reshaped, with a free batch size."""
        self.bounded(shape)
        if not self.computed():
            return Step(lambda x: x.reshape(shape))
        if not shape or shape[0] != self.batch:
            raise self.refuse(f"shape {shape} does not keep the batch of {self.batch} as its first dimension")
        rest = shape[1:]
        return Step(lambda x: x.reshape(x.shape[0], *rest))


def plain(function: Function, inputs: int = 1) -> Callable[[Site], Step]:
    """The importer of an operator that is one function of all its inputs."""

    def importer(site: Site) -> Step:
        for i in range(inputs):
            site.tensor(i)
        return Step(function, tuple(range(inputs)))

    return importer


def integral(*tensors: Tensor) -> bool:
    """True if all tensors have integers or booleans."""
    return not any(tensor.is_floating_point() for tensor in tensors)


def scalar(tensor: Tensor) -> float | None:
    """The value of a constant with one element; None for any other tensor."""
    return None if tensor.is_meta or tensor.numel() != 1 else float(tensor.to(torch.float64).reshape(()))
