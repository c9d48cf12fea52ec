"""ONNX files: `read_onnx` for a classifier, `import_onnx` for any network of one tensor."""

from pathlib import Path

from certnas.models.architectures import Architecture
from certnas.models.formats.onnx.network import OnnxNetwork

__all__ = ["OnnxNetwork", "import_onnx", "read_onnx"]


def import_onnx(path: Path) -> OnnxNetwork:
    """The network in an .onnx or .onnx.gz file: x [N, *input_shape] -> [N, *output], exactly as it is stored.

    Its outputs on random inputs equal onnxruntime's to 10⁻⁵ of the largest.
    Raises UserError, naming the node, for what cannot be read, followed or reproduced.
    """
    return _imported(path, softmax=True)


def read_onnx(path: Path) -> Architecture:
    """The classifier in the file; a softmax at its end is left out, which keeps the order of the classes."""
    network = _imported(path, softmax=False)
    return Architecture(network, network.input_shape)


def _imported(path: Path, *, softmax: bool) -> OnnxNetwork:
    from certnas.models.formats.onnx.checking import (
        check_against_onnxruntime,  # here: onnxruntime loads slowly
    )
    from certnas.models.formats.onnx.importing import import_graph
    from certnas.models.formats.onnx.inlining import inlined
    from certnas.models.formats.onnx.reading import read_model, without_softmax

    stored = read_model(path)
    model = inlined(stored)
    if model is not stored:  # onnxruntime replaces the functions by code of its own
        check_against_onnxruntime(import_graph(model), stored, f"'{path}'")
    if not softmax:
        without_softmax(model)
    network = import_graph(model)
    check_against_onnxruntime(network, model, f"'{path}'")
    return network
