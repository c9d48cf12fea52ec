"""`certnas inspect` describes a network: its operators, whether they have bounds, and the cost of each method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .failure import refusals
from .names import MODEL
from .opening import OPENING, SHAPE, as_arguments, opened
from .options import with_options

if TYPE_CHECKING:
    from rich.table import Table

    from certnas.models import OpenedModel
    from certnas.models.inspection import Inspection

DATA: dict[tuple[int, ...], str] = {(1, 8, 8): "digits", (1, 28, 28): "mnist", (3, 32, 32): "cifar10"}
"""Shape of images -> a data set of such images; the suggested command names it."""


@click.command()
@click.argument("source", metavar="MODEL", type=MODEL)
@with_options(*OPENING, SHAPE)
def inspect(source: str, **options: Any) -> None:
    """Describe MODEL, say which of its operators have bounds, and estimate the cost of each bound method.

    `certnas certify` accepts the same MODEL.  No bound is computed; costs are upper limits, from sizes alone.
    """
    with refusals():
        from rich.console import Console

        from certnas.models.inspection import inspect as look

        model = opened(source, options)
        found = look(model)
        console = Console()
        for line in _facts(model, found):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if found.operators:
            console.print(_operators(found))
        if found.costs:
            console.print(_costs(found, model.classes))
        for line in found.unsupported:
            console.print(f"cannot be bounded: {line}", highlight=False, markup=False, soft_wrap=True)
        if not found.unsupported:
            console.print(f"certify it with:  {_command(source, options, model)}", highlight=False, markup=False,
                          soft_wrap=True)  # fmt: skip


def _facts(model: OpenedModel, found: Inspection) -> list[str]:
    shape = " × ".join(map(str, model.input_shape))
    return [
        f"{model.name}: {model.origin}",
        f"reads {shape}, {model.classes} classes; {found.parameters:,} parameters",
        f"{found.neurons:,} neurons, {found.relus:,} of them ReLU",
        f"normalisation: {found.normalisation}",
        f"sha256 {model.sha256}",
    ]


def _operators(found: Inspection) -> Table:
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    shown.add_column("operator")
    for header in ("count", "units"):
        shown.add_column(header, justify="right")
    shown.add_column("bounds")
    for operator in found.operators:
        kind = "relaxed" if operator.nonlinear else "exact"
        rule = kind if operator.supported else "[red]no rule[/red]"
        shown.add_row(operator.name, str(operator.count), f"{operator.units:,}", rule)
    return shown


def _costs(found: Inspection, classes: int) -> Table:
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    shown.title = f"one bound of the {classes - 1} margins of an image, at most"
    shown.title_justify = "left"
    shown.add_column("method")
    shown.add_column("10⁹ multiplications", justify="right")
    shown.add_column("memory", justify="right")
    for method, cost in found.costs.items():
        shown.add_row(method, f"{cost.multiplications / 1e9:.3g}", _size(cost.memory))
    return shown


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _command(source: str, options: dict[str, Any], model: OpenedModel) -> str:
    data = DATA.get(model.input_shape, "FILE.npz")
    return f"certnas certify {as_arguments(source, options)} --data {data}"
