"""Opening of a network for certification, from any source."""

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

DIGITS = (1, 8, 8)  # input shape of the embedded networks


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
    """Open a classifier of [0, 1] pixels.

    Args:
        source: one of
            the name of an embedded network (digits-cnn, digits-cell);
            a folder that `certnas train` wrote;
            a file with a suffix in FORMATS;
            a factory package.module:function.
        arch: name in ARCHITECTURES, or factory, for a file that has weights only.
        arch_options: keywords of the architecture or factory.
        mean, std: normalisation per channel; they replace the architecture's own.
        input_range: (lo, hi), the pixel range that the network expects.
        layout: "NCHW", "NHWC" or "flat", the order of the network's input.
        channels: "rgb" or "bgr".  `Preprocessing` explains these five settings.
        input_shape: shape (C, H, W) of the images.  It is required if the network does not define it, and checked
            otherwise.
        unsafe_load: allow the file to run code.  Without it, no code in a file runs; a factory always runs.
        output: name of the output to use, for an ONNX file with several.

    Returns:
        The network x [N, C, H, W] in [0, 1] pixels -> logits [N, K], with its preprocessing as first layers.

    Raises:
        UserError: the source cannot be opened; the message is one line.

    >>> from certnas.models import open_model
    >>> opened = open_model("digits-cnn")
    >>> opened.input_shape, opened.classes
    ((1, 8, 8), 10)
    """
    options = dict(arch_options or {})
    name = source
    if unsafe_load and not _is_file(source):
        raise UserError(f"{source!r} is not a file: it takes no unsafe_load; leave it out")
    if output is not None and not _is_file(source):
        raise UserError(f"{source!r} is not a file: it takes no output name; leave it out")
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
            f"cannot open {source!r}; accepted: an embedded network ({', '.join(_embedded())}), a file "
            f"({', '.join(FORMATS)}) or a factory package.module:function"
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
        EMBEDDED,  # imported here because certnas.nas.space imports this package
    )

    return EMBEDDED


def _is_file(source: str) -> bool:
    return suffix_of(Path(source)) in FORMATS or Path(source).exists()


def _refuse(source: str, reason: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{source!r} {reason}: it takes no {name}; leave it out")
