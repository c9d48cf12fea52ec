"""The options that say how a network is opened, shared by every command that reads one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .values import Numbers, Setting

if TYPE_CHECKING:
    from certnas.models import OpenedModel

F = TypeVar("F", bound=Callable[..., Any])

OPENING = (
    click.option(
        "--arch", help="Architecture of a checkpoint: a name, or a factory package.module:function."
    ),
    click.option(
        "--arch-option",
        "arch_options",
        type=Setting(),
        multiple=True,
        help="Keyword of the architecture, such as layers=4; may be repeated.",
    ),
    click.option("--mean", type=Numbers(), help="Mean of each channel, in [0, 1] pixels: 0.49,0.48,0.45."),
    click.option("--std", type=Numbers(), help="Standard deviation of each channel."),
    click.option(
        "--input-range",
        type=Numbers(),
        help="What the network takes for [0, 1]: 0,255 or -1,1; mean and std are then in these units.",
    ),
    click.option(
        "--layout", type=click.Choice(["NCHW", "NHWC", "flat"]), help="How the network reads an image."
    ),
    click.option("--channels", type=click.Choice(["rgb", "bgr"]), help="In which order it reads colours."),
    click.option(
        "--output", help="Of an ONNX file with several outputs, the one that counts; else the first."
    ),
    click.option(
        "--unsafe-load", is_flag=True, help="Run the code that the file holds; only where you trust it."
    ),
)
"""Preprocessing is part of the model: radii stay in [0, 1] pixels."""

SHAPE = click.option(
    "--input-shape", type=Numbers(), help="Images that it reads, where it does not say: 3,32,32."
)


def with_opening(function: F) -> F:
    """The command with the options of OPENING and SHAPE, in the order of the help text."""
    for option in reversed((*OPENING, SHAPE)):
        function = option(function)
    return function


def opened(
    source: str, options: Mapping[str, Any], input_shape: tuple[int, ...] | None = None
) -> OpenedModel:
    """The network that the options describe, for images of input_shape, or of --input-shape."""
    from certnas.errors import UserError
    from certnas.models import open_model

    asked = options.get("input_shape")
    if asked is not None and any(not 1 <= size < 2**31 or size != int(size) for size in asked):
        raise UserError("--input-shape takes channels, height and width: 3,32,32, or the length of a row: 30")
    return open_model(
        source,
        arch=options["arch"],
        arch_options=dict(options["arch_options"]),
        mean=options["mean"],
        std=options["std"],
        input_range=options["input_range"],
        layout=options["layout"],
        channels=options["channels"],
        input_shape=input_shape or (tuple(int(size) for size in asked) if asked else None),
        unsafe_load=options["unsafe_load"],
        output=options["output"],
    )


def as_arguments(source: str, options: Mapping[str, Any]) -> str:
    """The model and its options as one would type them for `certnas certify`."""
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
