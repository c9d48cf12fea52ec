"""The progress bar that long commands show."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


def bar(console: Console, title: str, *after: str) -> Bar:
    """A progress bar between `title` and the texts `after`, with counts, elapsed time and time left.

    It shows nothing where the console is no terminal.
    """
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
