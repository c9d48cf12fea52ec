"""The options that say where work is done, shared by the commands that have much of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from certnas.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])

ENGINE = (
    click.option(
        "--workers", type=int, help="Processes at a time.  [default: 1; with ray, all there is room for]"
    ),
    click.option(
        "--engine",
        type=click.Choice(["processes", "ray"]),
        default="processes",
        show_default=True,
        help="Processes of this machine, or Ray.",
    ),
    click.option(
        "--address", help="Ray cluster: host:port, or auto; without it one is started on this machine."
    ),
)


def with_engine(function: F) -> F:
    """The command with the options of ENGINE, in the order of the help text."""
    for option in reversed(ENGINE):
        function = option(function)
    return function


def chosen_engine(options: Mapping[str, Any], *, gpu: bool = False) -> Engine:
    """The engine that the options describe; says so where its processes would crowd this machine's cores."""
    from certnas.engine import crowded, open_engine

    engine = open_engine(options["engine"], workers=options["workers"], address=options["address"], gpu=gpu)
    threads = None if options["address"] else crowded(options["workers"] or 1)
    if threads is not None:
        click.echo(
            f"certnas: {options['workers']} workers of {threads} threads on {os.cpu_count()} cores; "
            "--threads 1 is faster (radii differ in the last digits)",
            err=True,
        )
    return engine
