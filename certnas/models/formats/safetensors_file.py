"""Reading of weights from a .safetensors file, or of the network if certnas wrote its structure next to it."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.formats.certnas_json import is_structure, read_structure
from certnas.models.formats.contents import StateDict


def read_safetensors(path: Path) -> StateDict | Architecture:
    """The tensors of a .safetensors file; the network, if there is a .json file from `certnas convert`.

    Raises UserError for a truncated or foreign file.
    """
    try:
        tensors = load_file(path, device="cpu")
    except SafetensorError as error:
        raise UserError(
            f"cannot read '{path}' as safetensors: it is truncated or in another format; save it again"
        ) from error
    structure = path.with_suffix(".json")
    if not is_structure(structure):
        return StateDict(tensors)
    network = read_structure(structure, tensors)
    return Architecture(network, network.input_shape)
