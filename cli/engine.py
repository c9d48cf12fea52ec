"""The options that choose an engine: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from . import names

if TYPE_CHECKING:
    from certnas.engine import Engine

ENGINE = (
    click.option(
        "--workers",
        type=int,
        help="Number of processes.  [default: 1; with ray, as many as the cluster has room for]",
    ),
    click.option(
        "--engine",
        type=names.ENGINE,
        default="processes",
        show_default=True,
        help=f"Where the work is done: {names.ENGINE.text} (a Ray cluster).",
    ),
    click.option(
        "--address",
        help="Address of the Ray cluster: host:port, or auto; without it this machine starts one.",
    ),
)


def chosen_engine(options: Mapping[str, Any], *, gpu: bool = False) -> Engine:
    """The engine that the options describe; warns where its threads are more than this machine's cores."""
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
