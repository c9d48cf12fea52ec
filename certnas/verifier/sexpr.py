"""Reads S-expressions with line numbers, within limits on their size."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from certnas.errors import UserError

LARGEST_FILE = 64 * 2**20
DEEPEST = 64
LONGEST_TOKEN = 256
LONGEST_FORM = 2_000_000
TOKEN = re.compile(r"[()]|[^\s()]+")


@dataclass(frozen=True, slots=True)
class Atom:
    """A word."""

    text: str
    """The word itself."""
    line: int
    """The line of the word."""


@dataclass(frozen=True, slots=True)
class Form:
    """A parenthesised list."""

    items: tuple[Expression, ...]
    """The expressions of the list."""
    line: int
    """The line on which the list begins."""

    @property
    def head(self) -> str:
        """The first word; empty if there is none."""
        first = self.items[0] if self.items else None
        return first.text if isinstance(first, Atom) else ""


Expression = Atom | Form


def read_text(path: Path) -> str:
    """The text of a file; a file whose name ends in .gz is unpacked.

    Raises UserError for a file that cannot be read, is not UTF-8 text, or is larger than LARGEST_FILE unpacked.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read '{path}': {reason}") from error
    if len(data) > LARGEST_FILE:
        raise UserError(f"'{path}' is larger than {LARGEST_FILE >> 20} MiB unpacked; give a smaller property")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not text: byte {error.start} is not UTF-8") from error


def parse(text: str, where: str) -> Iterator[Form]:
    """Yields the top-level lists in order; `;` begins a comment.

    Raises UserError, which states `where` and the line, for anything but balanced lists.
    """
    stack: list[tuple[list[Expression], int]] = []
    tokens = 0
    for number, content in enumerate(text.split("\n"), 1):
        for found in TOKEN.finditer(content.split(";", 1)[0]):
            token = found[0]
            tokens = tokens + 1 if stack else 0
            if tokens > LONGEST_FORM:
                raise UserError(f"{where}, line {number}: a form of more than {LONGEST_FORM} words")
            if token == "(":
                if len(stack) == DEEPEST:
                    raise UserError(f"{where}, line {number}: more than {DEEPEST} parentheses deep")
                stack.append(([], number))
            elif token == ")":
                if not stack:
                    raise UserError(f"{where}, line {number}: a ')' without its '('")
                items, line = stack.pop()
                form = Form(tuple(items), line)
                if stack:
                    stack[-1][0].append(form)
                else:
                    yield form
            elif not stack:
                raise UserError(f"{where}, line {number}: {token[:40]!r} outside of parentheses")
            elif len(token) > LONGEST_TOKEN:
                raise UserError(f"{where}, line {number}: a word of more than {LONGEST_TOKEN} characters")
            else:
                stack[-1][0].append(Atom(token, number))
    if stack:
        raise UserError(f"{where}, line {stack[-1][1]}: a '(' that is never closed")
