"""The options that several commands share, and how a command is given its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .names import DATASET

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[Any], Any]

IMAGES_FROM = f"Images: a data set ({DATASET.text}), a folder with a folder for each class, or an .npz file."
DATA = click.option("--data", type=DATASET, default="digits", show_default=True, help=IMAGES_FROM)
DATA_BY_CONFIGURATION = click.option("--data", type=DATASET, help=f"{IMAGES_FROM}  [default: digits]")
DATA_ROOT = click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder that holds torchvision's data sets."
)
DOWNLOAD = click.option(
    "--download", is_flag=True, help="Fetch the data set into --data-root if it is not there."
)
DEVICE = click.option("--device", default="cpu", show_default=True, help="Device: cpu, cuda or cuda:N.")
THREADS = click.option(
    "--threads", type=click.IntRange(1), help="Number of CPU threads; take few where others use the CPU too."
)


def with_options(*options: Option) -> Callable[[F], F]:
    """A decorator that gives a command these options, in the order of the help text."""

    def given(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return given


def set_threads(threads: int | None) -> None:
    """Sets how many threads torch's operators take; None leaves torch's choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
