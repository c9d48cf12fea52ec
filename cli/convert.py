"""`certnas convert`: the same network in another format, its outputs compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .failure import refusals
from .opening import opened, with_opening


@click.command()
@click.argument("source", metavar="MODEL")
@click.argument("out", type=click.Path(path_type=Path))
@with_opening
def convert(source: str, out: Path, **options: Any) -> None:
    """Write MODEL to OUT: .safetensors (with its structure in a .json beside it), .pt2 or .onnx.

    Its preprocessing becomes part of it, so the new file reads [0, 1] pixels.  The file is read back, and nothing is
    kept unless its outputs on random images are the same to 1e-5 of the largest.
    """
    with refusals():
        from certnas.models.conversion import convert as write

        written, difference = write(opened(source, options), out)
        names = " and ".join(str(path) for path in written)
        click.echo(
            f"wrote {names}; outputs differ by at most {difference:.1e} of the largest on random images"
        )
