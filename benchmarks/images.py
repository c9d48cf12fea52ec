"""Figures as image files."""

from io import BytesIO

from matplotlib.figure import Figure


def png(figure: Figure, *, dpi: int = 120) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
