"""Shows a training in a terminal: its progress and the networks that it kept."""

from types import TracebackType

from rich import box
from rich.console import Console
from rich.table import Table

from certnas.training import Recipe, Trained, TrainingProgress

from .bars import bar

HIDDEN = ("lr", "kappa", "beta")


class TrainDisplay:
    """Shows a bar of steps on a terminal, and a line for each epoch elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = bar(console, "[bold]epoch {task.fields[epoch]}", "steps  [dim]{task.fields[figures]}")
        self.task = self.bar.add_task("training", total=None, epoch="", figures="")

    def __enter__(self) -> "TrainDisplay":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, progress: TrainingProgress) -> None:
        """Shows the progress of the training."""
        epoch, figures = f"{progress.epoch}/{progress.epochs}", words(progress)
        self.bar.update(
            self.task, total=progress.steps, completed=progress.step, epoch=epoch, figures=figures
        )
        if (
            not self.console.is_terminal
            and progress.step * progress.epochs == progress.epoch * progress.steps
        ):
            self.console.print(f"epoch {epoch}  {figures}", soft_wrap=True, highlight=False)


def words(progress: TrainingProgress) -> str:
    """One line of the figures."""
    shown = {name: value for name, value in progress.figures.items() if name not in HIDDEN}
    return "  ".join(f"{word(name)} {value:.4g}" for name, value in shown.items())


def word(name: str) -> str:
    """The words that the display shows for a figure."""
    return "ε" if name == "eps" else name.replace("validation_", "held-out ").replace("_", " ")


def summary(trained: Trained, recipe: Recipe) -> Table:
    """A table of the best and the last network, with their figures on held-out training images."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.title = "on held-out training images"
    measure = recipe.objective.measure
    more = [] if measure == "accuracy" else [f"{word(measure)} at ε"]
    for header in ("network", "epoch", "accuracy", *more):
        table.add_column(header, justify="left" if header == "network" else "right")
    for path, figures in ((trained.best, trained.best_figures), (trained.last, trained.last_figures)):
        cells = [str(path), f"{figures['epoch']:.0f}", f"{figures['validation_accuracy']:.1%}"]
        cells += [f"{figures[f'validation_{measure}']:.1%}" for _ in more]
        table.add_row(*cells)
    return table
