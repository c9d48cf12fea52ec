"""Reading of torch.save files. No code in a file runs unless the caller allows it."""

import mmap
import re
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.formats.archive import UNSAFE, archive_kind, asks_for_bytes
from certnas.models.formats.contents import StateDict
from certnas.models.formats.pt2 import read_pt2, run_pt2
from certnas.models.formats.torchscript import run_script

_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "ema")  # the first one present counts
_PREFIXES = ("module.", "_orig_mod.")  # prefixes from DataParallel and torch.compile
_AGAIN = (
    "it is truncated or in another format; save its weights again: "
    "torch.save(model.state_dict(), 'weights.pth')"
)
_DEPTH = 8  # no state dict nests deeper; a pickled list may even contain itself


def read_torch_checkpoint(path: Path) -> StateDict | Architecture:
    """The state dict of a .pt, .pth or .th file, or the network of a torch.export archive with such a suffix.

    The state dict may be under the keys state_dict, model_state_dict, model, net or ema (tried in that
    order), or at entry 0 of a list. A `module.` or `_orig_mod.` prefix that all names share is removed, and
    values that are not tensors are left out. Raises UserError for a file that needs code, is truncated or
    has no tensors.
    """
    kind = archive_kind(path)
    if kind == "export":
        return read_pt2(path)
    if kind == "script":
        raise UserError(
            f"'{path}' is TorchScript, a program: {UNSAFE}; or where it was made, "
            "torch.export.save(torch.export.export(model, (x,)), 'net.pt2')"
        )
    return _state_dict(_load(path), path)


def run_torch_checkpoint(path: Path, shape: tuple[int, ...] | None) -> StateDict | Architecture | nn.Module:
    """The contents of the file, which may also be a pickled module, or TorchScript as far as torch can convert it.

    This runs code in the file.
    """
    kind = archive_kind(path)
    if kind == "export":
        return run_pt2(path, shape)
    if kind == "script":
        return run_script(path, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            contents = torch.load(path, map_location="cpu", weights_only=False)
        except OSError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"cannot read '{path}' as a torch checkpoint: {reason}") from error
    module = contents
    for _ in range(_DEPTH):
        if isinstance(module, nn.Module):
            return module
        key = next((key for key in _ENTRIES if isinstance(module, dict) and key in module), None)
        if key is None:
            break
        module = module[key]
    return _state_dict(contents, path)


def _state_dict(contents: object, path: Path) -> StateDict:
    entry = ""
    for _ in range(_DEPTH):
        match contents:
            case dict() if _is_state_dict(contents):
                tensors = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
                return StateDict(_without_prefixes(tensors), entry)
            case dict() if any(key in contents for key in _ENTRIES):
                key = next(key for key in _ENTRIES if key in contents)
                contents, entry = contents[key], f"{entry}[{key!r}]"
            case [first, *_]:
                contents, entry = first, f"{entry}[0]"
            case _:
                break
    found = f"type {type(contents).__name__}"
    if isinstance(contents, dict):
        found += f" with keys {', '.join(map(repr, list(contents)[:5])) or 'none'}"
    raise UserError(
        f"no state dict in '{path}'{entry and ' at '}{entry} (found {found}); accepted: tensors by name, "
        f"alone or under {', '.join(_ENTRIES)}"
    )


def _load(path: Path) -> object:
    if _asks_for_bytes(path):
        raise UserError(
            f"'{path}' asks for a bytearray, which no state dict needs; refused: it could be of any size"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:
            code = _code_in(path, str(error))
            if code:
                raise UserError(
                    f"'{path}' can only be read by running code that it names ({', '.join(code)}): {UNSAFE}; or "
                    "where it was made, save its weights only: torch.save(model.state_dict(), 'weights.pth')"
                ) from error
            raise UserError(f"cannot read '{path}' as a torch checkpoint: {_AGAIN}") from error


def _asks_for_bytes(path: Path) -> bool:
    """True if unpickling would make a bytearray. torch allows one of any size."""
    if zipfile.is_zipfile(path):
        try:
            return asks_for_bytes(path)
        except (
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            EOFError,
            RuntimeError,
            ValueError,
        ) as error:
            raise UserError(f"cannot read '{path}' as a torch checkpoint: {_AGAIN}") from error
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"bytearray") >= 0


def _code_in(path: Path, message: str) -> list[str]:
    """The sorted names that the pickle would import beyond those of tensors; empty if it cannot be parsed."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file older than torch's zip format; torch's message names the first one
        return re.findall(r"GLOBAL ([\w.]+)", message)


def _is_state_dict(contents: object) -> bool:
    if not isinstance(contents, dict) or any(isinstance(contents.get(k), dict | list) for k in _ENTRIES):
        return False
    return any(isinstance(value, Tensor) for value in contents.values())


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors
