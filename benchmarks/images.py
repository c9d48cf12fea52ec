"""Figures as the bytes of a picture."""

from io import BytesIO

from matplotlib.figure import Figure


def png(figure: Figure, *, dpi: int = 120) -> bytes:
    """The figure as a PNG file's content."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
