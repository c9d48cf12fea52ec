"""ONNX files: `read_onnx` for a classifier, `import_onnx` for any network of one tensor."""

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
    """Of several outputs, of a network or a node, one was taken that nobody named."""


def import_onnx(path: Path, *, output: str | None = None, inputs: int | None = None) -> OnnxNetwork:
    """The network in an .onnx or .onnx.gz file: x [N, *input_shape] -> [N, *output], exactly as it is stored.

    Its outputs on random inputs equal onnxruntime's to 10⁻⁵ of the largest.  A graph that works along its first
    dimension has no batch: all of its input is one image.  So it is where `inputs`, the numbers of one image, are all
    that it reads.  output: the name of the output that counts; of several, the first does where none is named, and a
    warning (OutputChosen) says so.
    Raises UserError, naming the node, for what cannot be read, followed or reproduced.
    """
    return _imported(path, softmax=True, output=output, inputs=inputs)[0]


def read_onnx(path: Path, *, output: str | None = None) -> Architecture:
    """The classifier in the file; a softmax at its end is left out, which keeps the order of the classes.

    output: as `import_onnx` takes it.  Logits of a graph without a batch dimension are put in one row.
    """
    network, note = _imported(path, softmax=False, output=output, inputs=None)
    module: nn.Module = network
    if network.whole:
        module = nn.Sequential(OrderedDict(network=network, row=nn.Flatten()))
    return Architecture(module, network.input_shape, note=note)


def _imported(
    path: Path, *, softmax: bool, output: str | None, inputs: int | None
) -> tuple[OnnxNetwork, str]:
    """The network, and a note for its origin where outputs were left out."""
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
        others = f"'{path}' has {len(names)} outputs: {', '.join(names)}; {names[0]!r} is taken"
        warnings.warn(f"{others}; name one with --output, or output=", OutputChosen, stacklevel=4)
    model = inlined(stored)
    whole = _reading(stored, model, f"'{path}'", inputs)
    if not softmax and without_softmax(model):
        return _network(model, model, f"'{path}'", whole=whole.whole), note
    return whole, note


def _reading(
    stored: "onnx.ModelProto", model: "onnx.ModelProto", what: str, inputs: int | None
) -> OnnxNetwork:
    """The network with its first dimension as the batch, or without one where that cannot be."""
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
    """The import of a model, compared with onnxruntime, on the model as it is stored, too, where that is another."""
    from certnas.models.formats.onnx.checking import StoredFile  # here: onnxruntime loads slowly
    from certnas.models.formats.onnx.importing import import_graph

    network = import_graph(model, whole=whole)
    StoredFile(network, model, what).check(network)
    network.file = file = StoredFile(network, stored, what)
    if model is not stored:  # onnxruntime replaces the functions by code of its own
        file.check(network)
    return network
