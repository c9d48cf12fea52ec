"""Draws the pictures of the README from a real run; start it by `python docs/pictures.py`."""

import io
import re
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from click.testing import CliRunner
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from cli.main import main

DOCS = Path(__file__).parent
FORMAT = re.sub(
    r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL
)  # a browser fetches no font
COMMAND = ("certify", "--images", "20", "--out")


def draw() -> None:
    """Runs the command, and keeps its terminal output as an SVG, and its two plots."""
    screen = Console(record=True, width=84, force_terminal=True, file=io.StringIO())
    aside = Console(file=io.StringIO())
    consoles = mock.patch("rich.console.Console", lambda stderr=False: aside if stderr else screen)
    with tempfile.TemporaryDirectory() as folder, consoles:
        result = CliRunner().invoke(main, [*COMMAND, folder])
        if result.exit_code:
            raise SystemExit(result.stderr)
        for name in ("accuracy.png", "radii.png"):
            shutil.copyfile(Path(folder) / name, DOCS / name)
    screen.save_svg(str(DOCS / "certify.svg"), title="certnas certify", code_format=FORMAT)


if __name__ == "__main__":
    draw()
