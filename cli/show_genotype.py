"""`certnas show` shows the cells of one architecture, in words and as a picture."""

from __future__ import annotations

import re
from pathlib import Path

import click

from .failure import refusals
from .names import GENOTYPE


@click.command()
@click.argument("genotype", metavar="GENOTYPE", type=GENOTYPE)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    show_default=True,
    help="Folder of the files.",
)
@click.option(
    "--channels", type=int, default=36, show_default=True, help="Number of channels of the first cell."
)
@click.option(
    "--layers", type=int, help="Number of cells of the network.  [default: 20, or the genotype's own]"
)
@click.option("--classes", type=int, default=10, show_default=True, help="Number of classes.")
def show(genotype: str, out: Path, channels: int, layers: int | None, classes: int) -> None:
    """Print the cells of GENOTYPE, and write NAME.png and NAME.dot.

    GENOTYPE is a published name, a file of JSON, a file of Python that assigns Genotype(...), FILE:NAME where a file
    holds several, or the text Genotype(normal=[...], ...) itself.  Python is read and never run.

    The parameters are counted for a network of --layers cells with --channels channels and --classes classes.
    """
    with refusals():
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        from certnas.nas.space import PUBLISHED, SOURCES, genotype_name, open_genotype, parameter_count
        from certnas.nas.space.picture import OUTPUT, cell_picture, cells, dot_text, state_name
        from certnas.runs import open_folder, write_atomically

        architecture = open_genotype(genotype)
        name = genotype_name(genotype)
        depth = (architecture.depth or 20) if layers is None else layers
        count = parameter_count(architecture, channels, depth, classes)
        open_folder(out)
        stem = re.sub(r"[^\w.-]", "_", name)
        picture, dot = out / f"{stem}.png", out / f"{stem}.dot"
        write_atomically(picture, cell_picture(architecture, name))
        write_atomically(dot, dot_text(architecture, name))

        console = Console(highlight=False)
        console.print(
            f"[bold]{escape(name)}[/]  {count:,} parameters ({depth} cells, {channels} channels, {classes} classes)"
        )
        if genotype in PUBLISHED:
            console.print(f"[dim]from {SOURCES[genotype]}[/]")
        for title, plan in cells(architecture).items():
            shown = Table("state", "is", box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
            shown.title, shown.title_justify = title, "left"
            for position, edges in enumerate(plan.nodes):
                terms = [f"{op}({state_name(state)})" for op, state in edges]
                shown.add_row(state_name(position + 2), " + ".join(terms))
            shown.add_row(OUTPUT, f"concatenation of {', '.join(state_name(state) for state in plan.concat)}")
            console.print(shown)
        console.print(f"written: {picture}, {dot}", markup=False, soft_wrap=True)
