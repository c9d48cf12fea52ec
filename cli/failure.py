"""How a command ends early: one line on standard error and an exit code; how it warns: one line as well."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

REFUSED, UNSOUND, INTERRUPTED = 2, 1, 130


class Ended(Exception):
    """A command that stopped early; `line` is for the user, `code` for the shell."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.line, self.code = line, code


@contextmanager
def refusals() -> Iterator[None]:
    """Turns what a user can put right, and what click refuses, into `Ended`."""
    from bounds import BoundsError
    from certnas.errors import UserError

    try:
        yield
    except (UserError, BoundsError) as error:
        raise Ended(f"error: {' '.join(str(error).split())}", REFUSED) from error


@contextmanager
def told_once() -> Iterator[None]:
    """What the project's own code warns of is one line on standard error, however often it is said."""
    others, told = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category.__module__.partition(".")[0] not in ("bounds", "certnas"):
            others(message, category, *where, **more)
        elif str(message) not in told:
            told.add(str(message))
            click.echo(f"certnas: {message}", err=True)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = others


def one_line(error: click.ClickException) -> str:
    """A click error as certnas words its own: where, what, on one line."""
    return f"error: {' '.join(error.format_message().split())}"
