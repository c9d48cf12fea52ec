"""`certnas check` proves certificates again, by a checker that shares nothing with the bound engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .failure import UNSOUND, Ended, refusals, shown
from .names import DATASET, MODEL
from .opening import OPENING, SHAPE, opened
from .options import DATA_ROOT, with_options

if TYPE_CHECKING:
    from torch import nn

    from certnas.data import Dataset
    from certnas.proofs import Claim

RESULTS = "results.csv"
ARITHMETIC = {"auto": None, "exact": True, "float": False}


@click.command()
@click.argument("certificate", type=click.Path(path_type=Path))
@click.argument("model", type=MODEL)
@with_options(*OPENING, SHAPE)
@click.option(
    "--property",
    "prop",
    type=click.Path(path_type=Path),
    help="Property that the certificate has to prove: a .vnnlib file.",
)
@click.option(
    "--arithmetic",
    type=click.Choice(list(ARITHMETIC)),
    default="auto",
    show_default=True,
    help="Arithmetic: exact, in integers; float, in float64 with rounding bounded; auto, exact where that is quick.",
)
@click.option(
    "--data",
    type=DATASET,
    help="Data set, image folder or .npz file that the images of the certificates have to be from.",
)
@with_options(DATA_ROOT)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="The results.csv to compare with certificates and images; by default the one in their folder, or above it.",
)
def check(certificate: Path, model: str, **options: Any) -> None:
    """Prove certificates of MODEL again, from the numbers that they hold.

    CERTIFICATE is a file that `certnas certify` or `certnas verify` wrote with --certificates DIR, or that folder.  The
    check uses numpy and integers.  It shares only the reading of the network's structure with the bound engine.  With
    --data, each certificate has to be about the image that it names, and has to prove its line of results.csv.  The
    exit code is 1 where a certificate proves nothing about this model, or does not prove the property, or a line of
    results.csv is not proved.
    """
    with refusals():
        _check(certificate, model, options)


def _check(path: Path, source: str, options: dict[str, Any]) -> None:
    from certnas.checker import Rejected
    from certnas.errors import UserError
    from certnas.models.preprocessing import described
    from certnas.proofs import check_file, held_image
    from certnas.verifier import read_vnnlib

    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no certificate; give a folder that --certificates wrote")
    prop = None if options["prop"] is None else read_vnnlib(options["prop"])
    data = _data(options)
    module, exact = _module(source, options, files), ARITHMETIC[options["arithmetic"]]
    rejected, network = 0, ""
    claims: dict[str, Claim | None] = {}
    for file in files:
        name, claims[file.name] = shown(file.name), None
        try:
            proved = check_file(file, module, exact=exact, prop=prop)
            claims[file.name] = proved.of_image
            if data is not None and proved.of_image is not None:
                held_image(proved.certificates[0].about.get("index"), proved.of_image, data)
        except Rejected as error:
            rejected += 1
            click.echo(f"rejected  {name}: {shown(str(error))}")
            continue
        network = proved.certificates[0].network
        parts = f" in each of {proved.leaves} parts" if proved.leaves > 1 else ""
        how = "exactly" if proved.exact else "in float64 with rounding bounded"
        click.echo(f"proved    {name}: {proved.claim}, by {proved.least:.3g} at least{parts}; {how}")
    if network:
        click.echo(f"network   {network}; preprocessing: {described(module)}")
    if rejected:
        raise Ended(f"error: {rejected} of {len(files)} certificates were rejected", UNSOUND)
    click.echo(f"all {len(files)} certificates are proved")
    table = _table(path, options["results"])
    if data is not None and table is not None:
        _hold(table, claims, data)


def _data(options: dict[str, Any]) -> Dataset | None:
    """All images of the data set that --data names; None without it."""
    from certnas.data import load
    from certnas.errors import UserError

    if options["data"] is None:
        given = [name for name in ("data_root", "results") if options[name] is not None]
        if given:
            raise UserError(f"--{given[0].replace('_', '-')} needs the images: add --data")
        return None
    return load(options["data"], root=options["data_root"])


def _table(path: Path, given: Path | None) -> Path | None:
    """The results.csv that --results names, or that lies in the folder of certificates or in the one above it."""
    if given is not None:
        return given / RESULTS if given.is_dir() else given
    if not path.is_dir():
        return None
    return next((p for p in (path / RESULTS, path.absolute().parent / RESULTS) if p.is_file()), None)


def _hold(table: Path, claims: Mapping[str, Claim | None], data: Dataset) -> None:
    """Compares a results.csv with the claims that its certificates prove."""
    from certnas.checker import Rejected
    from certnas.proofs import held_rows, read_rows

    try:
        rows = read_rows(table)
    except Rejected as error:
        raise Ended(f"error: {table}: {error}", UNSOUND) from error
    wrong = list(held_rows(rows, claims, data))
    for line, why in wrong:
        click.echo(f"rejected  {table.name}{f' line {line}' if line else ''}: {shown(why)}")
    if wrong:
        raise Ended(f"error: {len(wrong)} lines of {table} are not what the certificates prove", UNSOUND)
    proved = sum(bool(row.certificate) for row in rows)
    none = len(rows) - proved
    left = f"; {none} claim no radius" if none else ""
    click.echo(f"{table}: {proved} of {len(rows)} lines are what a certificate proves of that image{left}")


def _module(source: str, options: dict[str, Any], files: Sequence[Path]) -> nn.Module:
    """The network.  An ONNX file is opened as it is stored where the certificates are those of `verify`."""
    from certnas.proofs import image_shape, of_property
    from certnas.verifier.subject import is_onnx, open_onnx

    if is_onnx(source) and of_property(files):
        shape = image_shape(files)
        inputs = None if shape is None else prod(shape)
        return open_onnx(Path(source), output=options["output"], inputs=inputs).module
    return opened(source, options, image_shape(files)).module
