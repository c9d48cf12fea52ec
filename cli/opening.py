"""The options that say how a network is opened; every command that reads a network has them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from . import names
from .values import NumberList, Setting

if TYPE_CHECKING:
    from certnas.models import OpenedModel

OPENING = (
    click.option(
        "--arch",
        type=names.ARCHITECTURE,
        help="Architecture of a checkpoint: a name, or a factory package.module:function.",
    ),
    click.option(
        "--arch-option",
        "arch_options",
        type=Setting(),
        multiple=True,
        help="Keyword argument of the architecture, such as layers=4; may be repeated.",
    ),
    click.option(
        "--mean",
        type=NumberList(),
        help="Mean of each channel that the network subtracts, in [0, 1] pixels: 0.49,0.48,0.45.",
    ),
    click.option(
        "--std", type=NumberList(), help="Standard deviation of each channel that the network divides by."
    ),
    click.option(
        "--input-range",
        type=NumberList(),
        help="Range that the network expects instead of [0, 1]: 0,255 or -1,1; mean and std are then in its units.",
    ),
    click.option(
        "--layout", type=names.LAYOUT, help=f"Layout of images that the network expects: {names.LAYOUT.text}."
    ),
    click.option(
        "--channels",
        type=names.CHANNELS,
        help=f"Order of colours that the network expects: {names.CHANNELS.text}.",
    ),
    click.option(
        "--output", help="Name of the output to take, for an ONNX file with several; the first by default."
    ),
    click.option(
        "--unsafe-load", is_flag=True, help="Run the code that the file holds; do so only where you trust it."
    ),
)
"""The preprocessing becomes part of the model, so that radii stay in units of [0, 1] pixels."""

SHAPE = click.option(
    "--input-shape",
    type=NumberList(),
    help="Shape of its images, where the network does not say it: 3,32,32.",
)


def opened(
    source: str, options: Mapping[str, Any], input_shape: tuple[int, ...] | None = None
) -> OpenedModel:
    """The network that the options describe, for images of input_shape, or of --input-shape."""
    from certnas.models import open_model

    return open_model(source, **opening_keywords(options, input_shape))


def opening_keywords(
    options: Mapping[str, Any], input_shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """The keywords of `open_model` that the options describe.  Raises UserError for an --input-shape that is none."""
    from certnas.errors import UserError

    asked = options.get("input_shape")
    if asked is not None and any(not 1 <= size < 2**31 or size != int(size) for size in asked):
        raise UserError("--input-shape takes channels, height and width: 3,32,32, or the length of a row: 30")
    as_given = ("arch", "mean", "std", "input_range", "layout", "channels", "unsafe_load", "output")
    return {name: options[name] for name in as_given} | {
        "arch_options": dict(options["arch_options"]),
        "input_shape": input_shape or (tuple(int(size) for size in asked) if asked else None),
    }


def as_arguments(source: str, options: Mapping[str, Any]) -> str:
    """The model and its options as one types them for `certnas certify`."""
    words = [source]
    for name in ("arch", "layout", "channels", "output"):
        if options[name] is not None:
            words += [f"--{name}", options[name]]
    for key, value in options["arch_options"]:
        words += ["--arch-option", f"{key}={value}"]
    for name in ("mean", "std", "input_range"):
        if options[name] is not None:
            words.append(f"--{name.replace('_', '-')}={','.join(f'{value:g}' for value in options[name])}")
    if options["unsafe_load"]:
        words.append("--unsafe-load")
    return shlex.join(words)
