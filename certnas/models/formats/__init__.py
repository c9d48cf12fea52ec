"""Checkpoint formats by file suffix: a new one is one file with a reader, and one line here.

A reader returns a StateDict where an architecture must be named, or an Architecture where the file holds
the network's structure too.  It raises UserError for what it cannot read, and never runs a file's code.
"""

from collections.abc import Callable
from pathlib import Path

from certnas.models.architectures import Architecture
from certnas.models.formats.contents import StateDict
from certnas.models.formats.keras_npz import read_keras_npz
from certnas.models.formats.safetensors_file import read_safetensors
from certnas.models.formats.torch_checkpoint import read_torch_checkpoint

__all__ = ["FORMATS", "StateDict"]

FORMATS: dict[str, Callable[[Path], StateDict | Architecture]] = {
    ".npz": read_keras_npz,
    ".pt": read_torch_checkpoint,
    ".pth": read_torch_checkpoint,
    ".safetensors": read_safetensors,
    ".th": read_torch_checkpoint,
}
