"""Opening a network for certification, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.building import build, is_factory
from certnas.models.files import open_file, suffix_of
from certnas.models.formats import FORMATS
from certnas.models.opened import OpenedModel, finish
from certnas.models.preprocessing import Preprocessing
from certnas.models.trained import DESCRIPTION, read_network

DIGITS = (1, 8, 8)  # what the embedded networks read


def open_model(
    source: str,
    *,
    arch: str | None = None,
    arch_options: Mapping[str, object] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_range: Sequence[float] | None = None,
    layout: str | None = None,
    channels: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    unsafe_load: bool = False,
    output: str | None = None,
) -> OpenedModel:
    """A classifier x [N, C, H, W] in [0, 1] pixels -> logits [N, K], its preprocessing inside.

    source is the name of an embedded network (digits-cnn, digits-cell); a file whose suffix is in FORMATS, with
    the architecture its weights belong to in `arch` (a name in ARCHITECTURES or a factory) where it holds
    weights alone; or a factory package.module:function.  arch_options are keywords of the architecture or factory.
    mean and std replace the architecture's own; they, input_range (lo, hi), layout ("NCHW", "NHWC", "flat") and
    channels ("rgb", "bgr") are what `Preprocessing` says.
    input_shape (C, H, W) is the shape of the images: needed where the network does not say it, checked otherwise.
    output: the name of the output that counts, of an ONNX file with several.
    A file is read without running code unless unsafe_load allows it; a factory is code, and is run.
    Raises UserError, one line, for whatever cannot be opened.
    """
    options = dict(arch_options or {})
    name = source
    if unsafe_load and not _is_file(source):
        raise UserError(f"{source!r} is no file: it takes no unsafe_load; leave it out")
    if output is not None and not _is_file(source):
        raise UserError(f"{source!r} is no file: it takes no output name; leave it out")
    if source in _embedded():
        _refuse(source, "is complete", arch=arch, arch_options=arch_options or None, mean=mean, std=std)
        architecture, origin = Architecture(_embedded()[source](), DIGITS), "embedded in certnas"
    elif (Path(source) / DESCRIPTION).is_file():
        _refuse(source, "is complete", arch=arch, arch_options=arch_options or None, mean=mean, std=std)
        architecture, origin = read_network(Path(source)), f"folder {source}"
    elif _is_file(source):
        name = Path(source).name.removesuffix(suffix_of(Path(source)))
        architecture, origin = open_file(
            Path(source), arch, options, input_shape, unsafe_load=unsafe_load, output=output
        )
    elif is_factory(source):
        _refuse(source, "is the architecture", arch=arch)
        architecture, origin = build(source, options, input_shape=input_shape), f"factory {source}"
    else:
        raise UserError(
            f"cannot open {source!r}: it is no embedded network ({', '.join(_embedded())}), no file "
            f"({', '.join(FORMATS)}) and no factory package.module:function"
        )
    if input_range is not None and len(input_range) != 2:
        raise UserError(f"{name}: input_range is {list(input_range)}; accepted: two numbers, such as 0,255")
    asked = Preprocessing(
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        input_range=None if input_range is None else (input_range[0], input_range[1]),
        layout=layout,
        channels=channels,
    )
    return finish(architecture, asked, images=input_shape, name=name, origin=origin)


def _embedded() -> dict[str, Callable[[], nn.Module]]:
    from certnas.models.embedded import (
        EMBEDDED,  # here: they are built of certnas.nas.space, which imports us
    )

    return EMBEDDED


def _is_file(source: str) -> bool:
    return suffix_of(Path(source)) in FORMATS or Path(source).exists()


def _refuse(source: str, reason: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{source!r} {reason}: it takes no {name}; leave it out")
