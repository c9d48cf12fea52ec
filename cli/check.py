"""`certnas check`: certificates proved again, by a checker that shares nothing with the bound engine."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.failure import UNSOUND, Ended, refusals
from cli.opening import opened, with_opening

if TYPE_CHECKING:
    from torch import nn

ARITHMETIC = {"auto": None, "exact": True, "float": False}


@click.command()
@click.argument("certificate", type=click.Path(path_type=Path))
@click.argument("model")
@with_opening
@click.option(
    "--property", "prop", type=click.Path(path_type=Path), help="That it has to prove: a .vnnlib file."
)
@click.option(
    "--arithmetic",
    type=click.Choice(list(ARITHMETIC)),
    default="auto",
    show_default=True,
    help="exact: integers; float: float64 with its rounding bounded; auto: exact where that is quick.",
)
def check(certificate: Path, model: str, **options: Any) -> None:
    """Prove certificates of MODEL again, from the numbers that they hold.

    CERTIFICATE is a file that `certnas certify` or `certnas verify` wrote with --certificates DIR, or the folder.  The
    check uses numpy and integers, and nothing of the bound engine but its reading of the network's structure.  Exit
    code 1: one proves nothing about this model, or not the property.
    """
    with refusals():
        _check(certificate, model, options)


def _check(path: Path, source: str, options: dict[str, Any]) -> None:
    from certnas.checker import Rejected
    from certnas.errors import UserError
    from certnas.proofs import check_file
    from certnas.verify import read_vnnlib

    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no certificate; give a folder that --certificates wrote")
    prop = None if options["prop"] is None else read_vnnlib(options["prop"])
    module, exact = _module(source, options, files), ARITHMETIC[options["arithmetic"]]
    rejected = 0
    for file in files:
        try:
            proved = check_file(file, module, exact=exact, prop=prop)
        except Rejected as error:
            rejected += 1
            click.echo(f"rejected  {file.name}: {error}")
            continue
        parts = f" in each of {proved.leaves} parts" if proved.leaves > 1 else ""
        how = "exactly" if proved.exact else "in float64 with rounding bounded"
        click.echo(f"proved    {file.name}: {proved.claim}, by {proved.least:.3g} at least{parts}; {how}")
    if rejected:
        raise Ended(f"error: {rejected} of {len(files)} certificates were rejected", UNSOUND)
    click.echo(f"all {len(files)} certificates are proved")


def _module(source: str, options: dict[str, Any], files: Sequence[Path]) -> nn.Module:
    """The network: an ONNX file that `verify` took as it is stored is taken so again."""
    from certnas.proofs import image_shape, of_property
    from certnas.verify.subject import is_onnx, open_onnx

    if is_onnx(source) and of_property(files):
        shape = image_shape(files)
        inputs = None if shape is None else prod(shape)
        return open_onnx(Path(source), output=options["output"], inputs=inputs).module
    return opened(source, options, image_shape(files)).module
