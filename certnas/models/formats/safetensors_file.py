"""Weights from a .safetensors file."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from certnas.errors import UserError
from certnas.models.formats.contents import StateDict


def read_safetensors(path: Path) -> StateDict:
    """The tensors of a .safetensors file.  Raises UserError for a truncated or foreign file."""
    try:
        return StateDict(load_file(path, device="cpu"))
    except SafetensorError as error:
        raise UserError(
            f"cannot read '{path}' as safetensors: it is truncated or in another format; save it again"
        ) from error
