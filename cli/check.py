"""`certnas check`: certificates proved again, by a checker that shares nothing with the bound engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.failure import UNSOUND, Ended, refusals
from cli.opening import opened, with_opening

ARITHMETIC = {"auto": None, "exact": True, "float": False}


@click.command()
@click.argument("certificate", type=click.Path(path_type=Path))
@click.argument("model")
@with_opening
@click.option(
    "--arithmetic",
    type=click.Choice(list(ARITHMETIC)),
    default="auto",
    show_default=True,
    help="exact: integers; float: float64 with its rounding bounded; auto: exact where that is quick.",
)
def check(certificate: Path, model: str, **options: Any) -> None:
    """Prove certificates of MODEL again, from the numbers that they hold.

    CERTIFICATE is a file that `certnas certify --certificates DIR` wrote, or the folder.  The check uses numpy and
    integers, and nothing of the bound engine but its reading of the network's structure.  Exit code 1: one proves
    nothing about this model.
    """
    with refusals():
        _check(certificate, model, options)


def _check(path: Path, source: str, options: dict[str, Any]) -> None:
    from certnas.checker import Rejected
    from certnas.errors import UserError
    from certnas.proofs import check_file, image_shape
    from cli.show import SYMBOLS

    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no certificate; give a folder that certify --certificates wrote")
    network = opened(source, options, image_shape(files))
    rejected = 0
    for file in files:
        try:
            verdict = check_file(file, network.module, exact=ARITHMETIC[options["arithmetic"]])
        except Rejected as error:
            rejected += 1
            click.echo(f"rejected  {file.name}: {error}")
            continue
        kept = verdict.certificate
        claim = f"{len(kept.rows)} rows are positive"
        if verdict.label is not None:
            claim = f"class {verdict.label} beats {len(verdict.beaten)} others"
        where = f"within {SYMBOLS[kept.norm]} distance {kept.eps:.6g}"
        how = "exactly" if verdict.checked.exact else "in float64 with rounding bounded"
        click.echo(f"proved    {file.name}: {claim} {where}, by {kept.bounds.min():.3g} at least; {how}")
    if rejected:
        raise Ended(f"error: {rejected} of {len(files)} certificates were rejected", UNSOUND)
    click.echo(f"all {len(files)} certificates are proved")
