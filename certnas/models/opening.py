"""Opening a network for certification, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.building import build, is_factory
from certnas.models.formats import FORMATS, StateDict
from certnas.models.opened import OpenedModel, finish, first_line

DIGITS = (1, 8, 8)  # what the embedded networks read


def open_model(
    source: str,
    *,
    arch: str | None = None,
    arch_options: Mapping[str, object] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> OpenedModel:
    """A classifier x [N, C, H, W] in [0, 1] pixels -> logits [N, K], its normalisation inside.

    source is the name of an embedded network (digits-cnn, digits-cell); a checkpoint whose suffix is in
    FORMATS, with the architecture it belongs to in `arch` (a name in ARCHITECTURES or a factory); or a
    factory package.module:function.  arch_options are keywords of the architecture or factory.
    mean and std, one number per channel in [0, 1] pixel units, replace the architecture's own normalisation.
    input_shape (C, H, W) is the shape of the images: needed for a factory that returns a bare nn.Module,
    checked otherwise.
    A checkpoint is read without running code; a factory is code, and is run.
    Raises UserError, one line, for whatever cannot be opened.
    """
    options = dict(arch_options or {})
    name = source
    if source in _embedded():
        _refuse(source, "is complete", arch=arch, arch_options=arch_options or None, mean=mean, std=std)
        architecture, origin = Architecture(_embedded()[source](), DIGITS), "embedded in certnas"
    elif _is_file(source):
        name = Path(source).stem
        architecture, origin = _from_file(Path(source), arch, options, input_shape)
    elif is_factory(source):
        _refuse(source, "is the architecture", arch=arch)
        architecture, origin = build(source, options, input_shape=input_shape), f"factory {source}"
    else:
        raise UserError(
            f"cannot open {source!r}: it is no embedded network ({', '.join(_embedded())}), no file "
            f"({', '.join(FORMATS)}) and no factory package.module:function"
        )
    if mean is not None or std is not None:
        architecture = replace(
            architecture,
            mean=None if mean is None else tuple(mean),
            std=None if std is None else tuple(std),
        )
    _expect_shape(name, architecture.input_shape, input_shape)
    return finish(architecture, name=name, origin=origin)


def _embedded() -> dict[str, Callable[[], nn.Module]]:
    from certnas.models.embedded import EMBEDDED  # here: they are built of certnas.space, which imports us

    return EMBEDDED


def _is_file(source: str) -> bool:
    return Path(source).suffix in FORMATS or Path(source).exists()


def _expect_shape(name: str, own: tuple[int, int, int], images: tuple[int, int, int] | None) -> None:
    if images is not None and images != own:
        raise UserError(
            f"{name!r} reads images of shape {list(own)} (channels, height, width), "
            f"the images have shape {list(images)}"
        )


def _refuse(source: str, reason: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{source!r} {reason}: it takes no {name}; leave it out")


def _from_file(
    path: Path, arch: str | None, options: Mapping[str, object], input_shape: tuple[int, int, int] | None
) -> tuple[Architecture, str]:
    contents = _read(path)
    if isinstance(contents, Architecture):
        _refuse(str(path), "holds its own architecture", arch=arch, arch_options=options or None)
        return contents, f"file {path}"
    if arch is None:
        raise UserError(
            f"'{path}' holds weights alone; name the network they belong to with arch: a name such as "
            "resnet20, or a factory package.module:function"
        )
    architecture = build(arch, options, input_shape=input_shape)
    _load(architecture.module, contents, path, arch)
    return architecture, f"file {path}{contents.entry}, architecture {arch}"


def _read(path: Path) -> StateDict | Architecture:
    if path.suffix not in FORMATS:
        raise UserError(f"'{path}' has suffix {path.suffix!r}; accepted: {', '.join(FORMATS)}")
    try:
        if path.is_dir():
            raise UserError(f"'{path}' is a folder; give a file")
        if path.stat().st_size == 0:
            raise UserError(f"'{path}' is empty; save the network again")
        return FORMATS[path.suffix](path)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or first_line(error)}") from error


def _load(module: nn.Module, contents: StateDict, path: Path, arch: str) -> None:
    """Gives the module the tensors of the file.  Raises UserError naming what differs."""
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
