"""How a command fails and warns: by one line on standard error, and by its exit code."""

import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

REFUSED, UNSOUND, INTERRUPTED = 2, 1, 130
CODES = """
Exit codes: 0, done; 1, done, and the result is wrong: a radius beyond an attack, a rejected certificate, a verdict
other than the expected one, bounds that differ; 2, not done, and one line on standard error says why; 130, interrupted.
"""
TRACEBACK = "CERTNAS_TRACEBACK"
"""An environment variable; where it is set, an unforeseen error shows its traceback too."""
LONGEST = 400


class Ended(Exception):
    """Ends a command early; `line` is for the user, `code` for the shell."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.line, self.code = line, code


@contextmanager
def refusals() -> Iterator[None]:
    """Turns errors that the user can put right into `Ended`."""
    from certnas.bounds import BoundsError
    from certnas.errors import UserError

    try:
        yield
    except (UserError, BoundsError) as error:
        raise Ended(f"error: {' '.join(str(error).split())}", REFUSED) from error


def unforeseen(error: Exception) -> Ended:
    """The end of a command by an exception that it did not foresee, as one line."""
    from certnas.bounds import BoundsError
    from certnas.errors import UserError

    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    text = shown(str(error))[:LONGEST]
    if isinstance(error, UserError | BoundsError):
        line = text
    elif isinstance(error, BrokenPipeError):
        line = "the reader of the output has closed it"
    elif isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        line = "memory ran out; give less to do at once, as by --images, --batch-size or --memory, or a smaller file"
    elif isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"'{shown(str(error.filename))[:LONGEST]}': "
        line = f"{where}{error.strerror}"
    else:
        line = (
            f"{type(error).__name__}: {text or 'it says nothing more'}; this is a mistake in certnas: please report "
            f"it with what {TRACEBACK}=1 certnas ... prints"
        )
    return Ended(f"error: {line}", REFUSED)


def shown(text: str) -> str:
    """The text on one line, in characters that every terminal shows."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return "".join(c if c.isprintable() else " " for c in line)


@contextmanager
def warnings_once() -> Iterator[None]:
    """Shows each warning of certnas's own code once, as one line on standard error."""
    others, seen = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.partition(".")[0] not in ("bounds", "certnas"):
            others(message, category, *where, **more)
        elif str(message) not in seen:
            seen.add(str(message))
            click.echo(f"certnas: {message}", err=True)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = others


def one_line(error: click.ClickException) -> str:
    """A click error on one line, worded as certnas words its own."""
    return f"error: {' '.join(error.format_message().split())}"
