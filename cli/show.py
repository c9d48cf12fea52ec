"""Shows certificates in a terminal: a table of images and a panel of figures over all of them."""

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from certnas.certifier import Certificates, CertificationProgress

from .bars import bar

COLOURS = {"certified": "green", "misclassified": "red", "zero": "yellow"}
ROWS = 50


def images_bar(console: Console) -> Bar:
    """A progress bar over images; it shows the stage of the running batch and the time left."""
    return bar(console, "[bold]certifying", "images", "[dim]{task.fields[stage]}")


def stage(progress: CertificationProgress) -> str:
    """The stage of the running batch, in words."""
    if progress.stage == "attack":
        return f"attacking {progress.batch}"
    if progress.stage == "prove":
        return f"proving {progress.batch} in float64"
    return f"{progress.open} open, radii in {progress.lower:.3g} … {progress.upper:.3g}"


def table(certificates: Certificates) -> Table:
    """A table with a row for each image: its classes, and its certified and attacked radius."""
    shown = Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True, title_justify="left"
    )
    from certnas import bounds

    shown.title = f"{bounds.NORMS[certificates.norm].symbol} radii, in [0, 1] pixels"
    for header in ("image", "label", "predicted"):
        shown.add_column(header, justify="right")
    shown.add_column("certified", justify="right", style="bold")
    shown.add_column("attacked", justify="right")
    shown.add_column("ratio", justify="right")
    shown.add_column("status", no_wrap=True)
    shown.add_column("time", justify="right", style="dim")
    for at in range(min(len(certificates), ROWS)):
        lower, upper = float(certificates.radius_lower[at]), float(certificates.radius_upper[at])
        status = certificates.status[at]
        shown.add_row(
            str(certificates.index[at]),
            str(certificates.label[at]),
            str(certificates.prediction[at]),
            f"{lower:.5f}" if lower > 0 else "0",
            number(upper) if upper > 0 else "0",
            f"{lower / upper:.1%}" if 0 < upper < math.inf else "",
            Text(status, style=COLOURS.get(status, "red")),
            f"{certificates.seconds[at]:.2f} s",
        )
    if len(certificates) > ROWS:
        shown.caption = f"and {len(certificates) - ROWS} more images"
    return shown


def summary(certificates: Certificates, at: Sequence[float], title: str) -> Panel:
    """A panel with the figures over all images, and with the accuracies at the radii `at`."""
    figures = certificates.summary(at)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(justify="right", style="bold")
    facts.add_column(style="dim")
    facts.add_row("clean accuracy", f"{figures.clean_accuracy:.1%}", f"{figures.correct} of {figures.images}")
    for name, over_correct, over_all in (
        ("mean", figures.mean_radius_correct, figures.mean_radius_all),
        ("median", figures.median_radius_correct, figures.median_radius_all),
    ):
        facts.add_row(
            f"certified radius, {name}", number(over_correct), f"over correct images{steps(over_correct)}"
        )
        facts.add_row("", number(over_all), f"over all images{steps(over_all)}")
    if not math.isnan(figures.sandwich_mean):
        facts.add_row("certified / attacked, mean", f"{figures.sandwich_mean:.1%}", "100% would be exact")
        facts.add_row("certified / attacked, median", f"{figures.sandwich_median:.1%}", "")
    facts.add_row("time per image", f"{figures.seconds_per_image:.2f} s", "")
    parts: list[Table | Text] = [facts]
    if at:
        curve = Table("accuracy at ε =", box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
        for eps in at:
            curve.add_column(radius(eps), justify="right")
        curve.add_row("certified", *(f"{figures.certified_accuracy[eps]:.1%}" for eps in at), style="green")
        if not math.isnan(figures.sandwich_mean):
            curve.add_row("attacked", *(f"{figures.attacked_accuracy[eps]:.1%}" for eps in at), style="red")
        parts.append(curve)
    parts += [Text(note, style="yellow") for note in certificates.notes]
    return Panel(Group(*parts), title=title, title_align="left", border_style="blue", expand=False)


def number(value: float) -> str:
    """A radius with five decimals, or a word where it is infinite or missing."""
    if math.isnan(value):
        return "none"
    return f"{value:.5f}" if math.isfinite(value) else "not found"


def steps(value: float) -> str:
    """A radius in steps of 8-bit pixels; an empty text where it is infinite or missing."""
    return f" = {value * 255:.2f}/255" if math.isfinite(value) else ""


def radius(eps: float) -> str:
    """A radius in [0, 1] pixels, and below it in steps of 8-bit pixels."""
    count = eps * 255
    exact = abs(count - round(count)) < 1e-9 and count < 100
    return f"{eps:.4g}\n{round(count) if exact else f'{count:.4g}'}/255"
