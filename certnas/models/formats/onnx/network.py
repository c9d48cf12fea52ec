"""The network that an ONNX graph becomes: one small module for each node that depends on the input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from certnas.models.formats.onnx.site import Function


@dataclass(frozen=True)
class Wiring:
    """Where a node's arguments come from, what its outputs are called, and where it stands in the file, in words."""

    label: str
    function: Function
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    where: str


class File(Protocol):
    """The file that a network was imported from."""

    def compare(self, network: OnnxNetwork, x: Tensor, y: Tensor) -> None:
        """Raises UserError where the file does not give y at x [N, *input_shape]."""


class OnnxNode(nn.Module):
    """One node; its name in the network says where it stands in the file."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(*inputs)


class OnnxNetwork(nn.Module):
    """x [N, *input_shape] -> [N, *output]: the nodes of an ONNX graph in their order, the batch free.

    whole: whether the file's own input has no batch dimension, and is of input_shape.
    Parameters are the graph's initialisers under their own names, characters that Python does not take replaced
    by underscores.
    """

    def __init__(
        self,
        wirings: Sequence[Wiring],
        constants: Mapping[str, Tensor],
        *,
        input: str,
        output: str,
        input_shape: tuple[int, ...],
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.whole = whole
        self.file: File | None = None
        self.input, self.output, self.input_shape = input, output, input_shape
        needed = dict.fromkeys(name for wiring in wirings for name in wiring.inputs if name in constants)
        self.weights = nn.ParameterDict()
        self.keys: dict[str, str] = {}
        for name in needed:
            self.keys[name] = key = _free(re.sub(r"\W", "_", name), self.weights)
            self.weights[key] = nn.Parameter(constants[name], requires_grad=False)
        self.nodes = nn.ModuleDict({wiring.label: OnnxNode(wiring.function) for wiring in wirings})
        last = {name: wiring.label for wiring in wirings for name in wiring.inputs}
        self.wirings = tuple(
            (w, tuple(n for n in dict.fromkeys((*w.inputs, *w.outputs)) if last.get(n, w.label) == w.label))
            for w in wirings
        )

    def compare(self, x: Tensor, y: Tensor) -> None:
        """Raises UserError, which names the node, where onnxruntime does not give y at x from the same file."""
        if self.file is not None:
            self.file.compare(self, x, y)

    def forward(self, x: Tensor) -> Tensor:
        for _, values in self.steps(x):  # noqa: B007
            pass
        return values[self.output]

    def steps(self, x: Tensor) -> Iterator[tuple[Wiring, dict[str, Tensor]]]:
        """Each node after it was evaluated, and the values that are known then, its outputs among them."""
        values = {self.input: x}
        for wiring, spent in self.wirings:
            arguments = [
                self.weights[self.keys[name]] if name in self.keys else values[name] for name in wiring.inputs
            ]
            result = self.nodes[wiring.label](*arguments)
            pieces = (result,) if isinstance(result, Tensor) else result
            values |= zip(wiring.outputs, pieces, strict=True)
            yield wiring, values
            for name in spent:
                if name != self.output:
                    values.pop(name, None)


def _free(key: str, taken: nn.ParameterDict) -> str:
    """The key, or with a number after it where another name already became it."""
    found, number = key, 1
    while found in taken:
        found, number = f"{key}_{number}", number + 1
    return found
