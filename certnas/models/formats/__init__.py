"""Checkpoint formats by file suffix. A new format is one file with a reader, and one line here.

A reader returns a StateDict if the file has weights only, and an Architecture if it has the network's
structure too. It raises UserError for a file that it cannot read, and never runs code in a file.
"""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from certnas.models.architectures import Architecture
from certnas.models.formats.contents import StateDict
from certnas.models.formats.keras_h5 import read_keras_h5
from certnas.models.formats.keras_npz import read_keras_npz
from certnas.models.formats.onnx import read_onnx
from certnas.models.formats.pt2 import read_pt2, run_pt2
from certnas.models.formats.safetensors_file import read_safetensors
from certnas.models.formats.torch_checkpoint import read_torch_checkpoint, run_torch_checkpoint

__all__ = ["CODE", "FORMATS", "StateDict"]

FORMATS: dict[str, Callable[[Path], StateDict | Architecture]] = {
    ".h5": read_keras_h5,
    ".npz": read_keras_npz,
    ".onnx": read_onnx,
    ".onnx.gz": read_onnx,
    ".pt": read_torch_checkpoint,
    ".pt2": read_pt2,
    ".pth": read_torch_checkpoint,
    ".safetensors": read_safetensors,
    ".th": read_torch_checkpoint,
}

CODE: dict[str, Callable[[Path, tuple[int, ...] | None], StateDict | Architecture | nn.Module]] = {
    ".pt": run_torch_checkpoint,
    ".pt2": run_pt2,
    ".pth": run_torch_checkpoint,
    ".th": run_torch_checkpoint,
}
"""Suffix -> reader that may run code in the file; it also gets the shape of the images."""
