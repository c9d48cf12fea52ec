"""Shows a run from search to certificates in a terminal, by the display of each stage in turn."""

from contextlib import ExitStack

from rich.console import Console

from certnas.certifier.certification import CertificationProgress
from certnas.pipeline import Watch

from . import show, show_search, show_train


def watching(console: Console, stack: ExitStack) -> Watch:
    """The callbacks by which a run shows its progress on the console; closing `stack` ends the displays."""
    stages = stack.enter_context(ExitStack())
    search, train = show_search.SearchDisplay(console), show_train.TrainDisplay(console)
    images = show.images_bar(console)
    task = images.add_task("certifying", total=None, stage="tracing")
    displays = {"search": search, "train": train, "certify": images}

    def begin(name: str) -> None:
        stages.close()
        console.print(f"[bold]{name}")
        stages.enter_context(displays[name])  # type: ignore[arg-type]

    def certified(progress: CertificationProgress) -> None:
        images.update(task, total=progress.total, completed=progress.done, stage=show.stage(progress))

    return Watch(begin, search.update, train.update, certified)
