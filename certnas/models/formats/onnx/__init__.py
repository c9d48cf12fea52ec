"""ONNX files: `read_onnx` reads a classifier, `import_onnx` any network with one input."""

import warnings
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.formats.onnx.network import OnnxNetwork

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxNetwork", "OutputChosen", "import_onnx", "read_onnx"]


class OutputChosen(UserWarning):
    """One of several outputs of a network or a node was selected without a name from the user."""


def import_onnx(path: Path, *, output: str | None = None, inputs: int | None = None) -> OnnxNetwork:
    """The network in an .onnx or .onnx.gz file, without any change. x [N, *input_shape] -> [N, *output]

    On random inputs its outputs equal onnxruntime's up to 10⁻⁵ of the largest one. If the graph computes
    along its first dimension, it has no batch dimension, and its whole input is one image. The same holds
    if `inputs`, the number of elements of an image, equals the whole input. `output` selects an output by
    name; without it the first of several is used, with the warning OutputChosen.

    Raises UserError, which names the node, for a file that cannot be read, imported or reproduced.
    """
    return _imported(path, softmax=True, output=output, inputs=inputs)[0]


def read_onnx(path: Path, *, output: str | None = None) -> Architecture:
    """The classifier in the file, without a final softmax, which does not change the order of the classes.

    `output` is that of `import_onnx`. Logits of a graph without a batch dimension are reshaped to one row.
    """
    network, note = _imported(path, softmax=False, output=output, inputs=None)
    module: nn.Module = network
    if network.whole:
        module = nn.Sequential(OrderedDict(network=network, row=nn.Flatten()))
    return Architecture(module, network.input_shape, note=note)


def _imported(
    path: Path, *, softmax: bool, output: str | None, inputs: int | None
) -> tuple[OnnxNetwork, str]:
    """The network, and a note about outputs that were left out."""
    from certnas.models.formats.onnx.inlining import inlined
    from certnas.models.formats.onnx.reading import (
        outputs_of,
        read_model,
        with_output,
        without_softmax,
        without_unread,
    )

    stored = read_model(path)
    names = outputs_of(stored)
    with_output(stored, output, f"'{path}'")
    for line in without_unread(stored):
        warnings.warn(f"'{path}': {line}", OutputChosen, stacklevel=4)
    note = f", output {output or names[0]!r} of {', '.join(names)}" if len(names) > 1 else ""
    if note and output is None:
        others = f"'{path}' has {len(names)} outputs: {', '.join(names)}; this uses {names[0]!r}"
        warnings.warn(f"{others}; name one with --output, or output=", OutputChosen, stacklevel=4)
    model = inlined(stored)
    whole = _reading(stored, model, f"'{path}'", inputs)
    if not softmax and without_softmax(model):
        return _network(model, model, f"'{path}'", whole=whole.whole), note
    return whole, note


def _reading(
    stored: "onnx.ModelProto", model: "onnx.ModelProto", what: str, inputs: int | None
) -> OnnxNetwork:
    """The network with its first dimension as batch; without a batch if that fails."""
    from certnas.models.formats.onnx.importing import fixed_input

    fixed = fixed_input(model)
    if fixed is not None and inputs == prod(fixed) != prod(fixed[1:]):
        return _network(stored, model, what, whole=True)
    try:
        return _network(stored, model, what, whole=False)
    except UserError:
        if fixed is None:
            raise
        try:
            return _network(stored, model, what, whole=True)
        except UserError:
            pass
        raise


def _network(stored: "onnx.ModelProto", model: "onnx.ModelProto", what: str, *, whole: bool) -> OnnxNetwork:
    """The imported network, compared with onnxruntime on the model, and on the stored model if the two differ."""
    from certnas.models.formats.onnx.checking import StoredFile  # imported here because it loads slowly
    from certnas.models.formats.onnx.importing import import_graph

    network = import_graph(model, whole=whole)
    StoredFile(network, model, what).check(network)
    network.file = file = StoredFile(network, stored, what)
    if model is not stored:  # onnxruntime has its own implementations of some functions
        file.check(network)
    return network
