"""Shows a search in a terminal: its progress, its figures and its cells."""

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from certnas.nas.search import SearchProgress
from certnas.nas.space import Genotype

WORDS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "held_out_loss": "held-out loss",
    "held_out_accuracy": "held-out accuracy",
    "metric": "metric R",
    "gamma": "weight of R",
    "gradient_loss": "‖∇ loss‖",
    "gradient_metric": "‖∇ R‖",
    "radius": "supernet radius",
    "eps": "ε",
}
"""Figure -> the words that the display shows for it."""


class SearchDisplay:
    """Shows a live panel on a terminal, and a line for each epoch elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.bar = Bar(
            TextColumn("[bold]epoch {task.fields[epoch]}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("steps  [dim]{task.fields[left]} left"),
            console=console,
        )
        self.task = self.bar.add_task("search", total=None, epoch="", left="")
        self.epoch = 0

    def __enter__(self) -> "SearchDisplay":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, progress: SearchProgress) -> None:
        """Shows the progress of the search."""
        if self.live is None:
            if progress.step == progress.epoch * (progress.steps // progress.epochs):
                self.console.print(line(progress), soft_wrap=True, highlight=False)
            return
        self.bar.update(
            self.task,
            total=progress.steps,
            completed=progress.step,
            epoch=f"{progress.epoch}/{progress.epochs}",
            left=duration(progress.left),
        )
        self.live.update(Group(self.bar, figures(progress), cells(progress.genotype)), refresh=True)


def line(progress: SearchProgress) -> str:
    """One line about the last step of an epoch."""
    shown = [f"{WORDS.get(name, name)} {value:.4g}" for name, value in progress.figures.items()]
    return f"epoch {progress.epoch}/{progress.epochs}  {'  '.join(shown)}  {duration(progress.left)} left"


def figures(progress: SearchProgress) -> Table:
    """A table of the figures of a step."""
    table = Table.grid(padding=(0, 2))
    for name, value in progress.figures.items():
        table.add_row(f"[dim]{WORDS.get(name, name)}", f"{value:.4g}")
    return table


def cells(genotype: Genotype) -> Table:
    """A table of both cells; the row of a node lists its operators and the states that they read."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for header in ("node", "normal cell", "reduction cell"):
        table.add_column(header)
    rows = [[f"{op} ({state})" for op, state in edges] for edges in (genotype.normal, genotype.reduce)]
    for at in range(0, len(rows[0]), 2):
        table.add_row(str(2 + at // 2), *(" + ".join(row[at : at + 2]) for row in rows))
    return table


def duration(seconds: float) -> str:
    """A time as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
