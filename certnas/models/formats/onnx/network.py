"""The network of an ONNX graph: one small module per node that depends on the input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from certnas.models.formats.onnx.site import Function


@dataclass(frozen=True)
class Wiring:
    """The inputs and outputs of a node."""

    label: str
    """Name of the node's module in the network."""
    function: Function
    """The node's operator."""
    inputs: tuple[str, ...]
    """Names of its arguments."""
    outputs: tuple[str, ...]
    """Names of its results."""
    where: str
    """Its location in the file, for messages."""


class File(Protocol):
    """The file of an imported network."""

    def compare(self, network: OnnxNetwork, x: Tensor, y: Tensor) -> None:
        """Raises UserError unless the file maps x [N, *input_shape] to y."""


class OnnxNode(nn.Module):
    """One node; its name in the network states its location in the file."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(*inputs)


class OnnxNetwork(nn.Module):
    """The nodes of an ONNX graph in their order, with a free batch size. x [N, *input_shape] -> [N, *output]

    `whole` is True if the file's input has no batch dimension and shape input_shape. The parameters are the
    graph's initialisers under their own names, with underscores for characters that Python does not allow.
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
        """Raises UserError, which names the node, unless onnxruntime maps x to y with the same file."""
        if self.file is not None:
            self.file.compare(self, x, y)

    def forward(self, x: Tensor) -> Tensor:
        for _, values in self.steps(x):  # noqa: B007
            pass
        return values[self.output]

    def steps(self, x: Tensor) -> Iterator[tuple[Wiring, dict[str, Tensor]]]:
        """Yields each node after its evaluation, with all values so far by name."""
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


def _free(key: str, used: nn.ParameterDict) -> str:
    """The key; if another name already has it, the key with a number."""
    found, number = key, 1
    while found in used:
        found, number = f"{key}_{number}", number + 1
    return found
