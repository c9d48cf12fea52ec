"""`certnas genotypes` lists the published architectures and their sizes."""

from __future__ import annotations

import click

from .failure import refusals


@click.command()
@click.option(
    "--channels", type=int, default=36, show_default=True, help="Number of channels of the first cell."
)
@click.option("--layers", type=int, default=20, show_default=True, help="Number of cells of the network.")
@click.option("--classes", type=int, default=10, show_default=True, help="Number of classes.")
def genotypes(channels: int, layers: int, classes: int) -> None:
    """List the published cells, the parameters of a network of them, and the repository they are from."""
    with refusals():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        from certnas.nas.space import PUBLISHED, SOURCES, parameter_count

        shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title_justify="left")
        shown.title = f"parameters of a network of {layers} cells, {channels} channels, {classes} classes"
        for header in ("genotype", "nodes", "parameters"):
            shown.add_column(header, justify="left" if header == "genotype" else "right", no_wrap=True)
        shown.add_column("repository", style="dim", overflow="fold")
        console = Console()
        with console.status("counting"):
            for name, genotype in PUBLISHED.items():
                cells = genotype.depth or layers
                count = parameter_count(genotype, channels, cells, classes)
                note = "" if cells == layers else f" ({cells} cells)"
                nodes = len(genotype.cell(0, reduction=False).nodes)
                shown.add_row(name, str(nodes), f"{count:,}{note}", SOURCES[name].split()[0])
        console.print(shown)
