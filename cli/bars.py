"""The progress bar of long commands."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


def bar(console: Console, title: str, *after: str) -> Bar:
    """`title`, a bar, how many of how many, the texts `after`, the time taken and left; nothing off a terminal."""
    return Bar(
        TextColumn(title),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        *(TextColumn(text) for text in after),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
