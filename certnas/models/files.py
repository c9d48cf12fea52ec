"""Opening of files: detection of the format, and loading of weights into an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from certnas.errors import UserError
from certnas.models.architectures import ARCHITECTURES, Architecture
from certnas.models.architectures.torchvision_models import SMALLEST, TORCHVISION
from certnas.models.building import build
from certnas.models.formats import CODE, FORMATS, StateDict
from certnas.models.formats.onnx import read_onnx
from certnas.models.opened import first_line


def suffix_of(path: Path) -> str:
    """The longest suffix of the file's name that belongs to a format; otherwise the last suffix."""
    known = [suffix for suffix in FORMATS if path.name.endswith(suffix)]
    return max(known, key=len, default=path.suffix)


def open_file(
    path: Path,
    arch: str | None,
    options: Mapping[str, object],
    input_shape: tuple[int, ...] | None,
    *,
    unsafe_load: bool,
    output: str | None = None,
) -> tuple[Architecture, str]:
    """The network in a file, and a line about its origin.

    Raises UserError if the file cannot be read, or if an architecture, a shape or the permission to run
    code is missing.
    """
    contents = _read(path, input_shape, unsafe_load=unsafe_load, output=output)
    if isinstance(contents, StateDict):
        if arch is None:
            raise UserError(_unnamed(path, contents))
        architecture = build(arch, options, input_shape=input_shape)
        _load(architecture.module, contents, path, arch)
        return architecture, f"file {path}{contents.entry}, architecture {arch}"
    for name, value in (("arch", arch), ("arch_options", options or None)):
        if value is not None:
            raise UserError(f"'{path}' has its own architecture: it takes no {name}; leave it out")
    if isinstance(contents, Architecture):
        return contents, f"file {path}{contents.note}"
    if input_shape is None:
        raise UserError(f"'{path}' does not define its input shape; give input_shape=(C, H, W)")
    return Architecture(contents, input_shape), f"file {path}, whose code was run"


def _read(
    path: Path, input_shape: tuple[int, ...] | None, *, unsafe_load: bool, output: str | None
) -> StateDict | Architecture | nn.Module:
    if path.is_dir():
        raise UserError(
            f"'{path}' is a folder; give a file, or one that certnas train wrote, such as RUN/best"
        )
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        raise UserError(f"'{path}' has suffix {suffix!r}; accepted: {', '.join(FORMATS)}")
    if output is not None and FORMATS[suffix] is not read_onnx:
        raise UserError(f"'{path}' has one output: it takes no output name; leave it out")
    if unsafe_load and suffix not in CODE:
        raise UserError(f"'{path}' is read without running code: it takes no unsafe_load; leave it out")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"'{path}' is empty; save the network again")
        if output is not None:
            return read_onnx(path, output=output)
        return CODE[suffix](path, input_shape) if unsafe_load else FORMATS[suffix](path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or first_line(error)}") from error


def _unnamed(path: Path, contents: StateDict) -> str:
    """The message that weights need an architecture, with the built-in ones that fit."""
    fitting = matching_architectures(contents)
    advice = (
        f"arch: they fit {', '.join(fitting)}"
        if fitting
        else "arch: a name such as resnet20, or a factory package.module:function"
    )
    return f"'{path}' has weights only; name the network they belong to with {advice}"


def matching_architectures(contents: StateDict) -> list[str]:
    """The built-in architectures whose tensors, with default options, have these names and shapes."""
    shapes = {name: tuple(value.shape) for name, value in contents.tensors.items()}
    found = []
    for name, factory in ARCHITECTURES.items():
        if name in TORCHVISION and len(shapes) < SMALLEST:
            continue  # too few tensors for any of them, and building them takes time
        with torch.device("meta"):
            own = factory().module.state_dict()
        if {key: tuple(value.shape) for key, value in own.items()} == shapes:
            found.append(name)
    return found


def _load(module: nn.Module, contents: StateDict, path: Path, arch: str) -> None:
    """Load the tensors of the file into the module. Raises UserError, which names the difference, if they
    differ.
    """
    tensors = dict(contents.tensors)
    try:
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        own = module.state_dict()
        differing = [
            f"{name} is {list(tensors[name].shape)} in the file and {list(value.shape)} in the architecture"
            for name, value in own.items()
            if name in tensors and tensors[name].shape != value.shape
        ]
        raise _mismatch(path, arch, differing or [first_line(error)]) from error
    reasons = [f"missing {_first(missing)}"] if missing else []
    reasons += [f"unexpected {_first(unexpected)}"] if unexpected else []
    if reasons:
        raise _mismatch(path, arch, ["; ".join(reasons)])


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _mismatch(path: Path, arch: str, reasons: Sequence[str]) -> UserError:
    rest = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return UserError(
        f"'{path}' does not match architecture {arch!r}: {reasons[0]}{rest}; "
        "name the architecture, and the options, it was trained with"
    )
