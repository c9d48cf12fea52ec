"""Reading of weights from a CNN-Cert .npz: Keras arrays layer0_kernel, layer0_bias, …"""

import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from certnas.errors import UserError
from certnas.models.formats.archive import checked_members
from certnas.models.formats.contents import StateDict

_SUFFIX = {"kernel": "weight", "bias": "bias"}
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}  # [kh, kw, in, out] -> [out, in, kh, kw] and [in, out] -> [out, in]


def read_keras_npz(path: Path) -> StateDict:
    """Arrays layerI_kernel and layerI_bias as tensors layerI.weight and layerI.bias, in torch's axis order.

    The rows of a dense kernel keep their order. After a Keras Flatten this is H, W, C order, and the
    architecture must flatten accordingly. Raises UserError for another file, other names or other ranks.
    """
    checked_members(path)
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"cannot read '{path}' as .npz: it is truncated, in another format, or "
            "has Python objects; save plain arrays with numpy.savez"
        ) from error
    return StateDict(dict(keras_tensor(path, name, array) for name, array in arrays.items()))


def keras_tensor(path: Path, name: str, array: np.ndarray) -> tuple[str, Tensor]:
    """An array as a tensor in torch's axis order. Raises UserError for another name, rank or type."""
    match = re.fullmatch(r"(layer\d+)_(kernel|bias)", name)
    ranks = (2, 4) if name.endswith("kernel") else (1,)
    if match is None or array.ndim not in ranks or array.dtype.kind != "f":
        raise UserError(
            f"'{path}' has an array {name!r} of shape {list(array.shape)} and type {array.dtype}; accepted: "
            "floating layer0_kernel [kh, kw, in, out] or [in, out], layer0_bias [out], layer1_kernel, …"
        )
    ordered = np.ascontiguousarray(array.transpose(_AXES.get(array.ndim, (0,))))
    return f"{match[1]}.{_SUFFIX[match[2]]}", torch.from_numpy(ordered)
