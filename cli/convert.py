"""`certnas convert` writes a network in another format, and compares the outputs of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .failure import refusals
from .names import MODEL
from .opening import OPENING, SHAPE, opened
from .options import with_options


@click.command()
@click.argument("source", metavar="MODEL", type=MODEL)
@click.argument("out", type=click.Path(path_type=Path))
@with_options(*OPENING, SHAPE)
def convert(source: str, out: Path, **options: Any) -> None:
    """Write MODEL to OUT, a file .safetensors (with its structure in a .json beside it), .pt2 or .onnx.

    The preprocessing becomes part of the network, so the new file reads [0, 1] pixels.  The file is read back.  It is
    kept only if its outputs on random images differ by at most 1e-5 of the largest output.
    """
    with refusals():
        from certnas.models.conversion import convert as write

        written, difference = write(opened(source, options), out)
        names = " and ".join(str(path) for path in written)
        click.echo(
            f"wrote {names}; outputs differ by at most {difference:.1e} of the largest on random images"
        )
