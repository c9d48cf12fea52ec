"""The types of option values: numbers, sizes, settings, and names of a registry."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30}


class Number(click.ParamType):
    """A decimal or a fraction, such as 0.03 or 8/255."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        above, slash, below = str(value).partition("/")
        try:
            return float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r} is no number; accepted: a decimal such as 0.03 or a fraction such as 8/255")


class NumberList(click.ParamType):
    """Numbers between commas, such as 1/255,2/255,0.1."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(Number().convert(part.strip(), param, ctx) for part in str(value).split(","))


class Bytes(click.ParamType):
    """A size in bytes; K, M and G stand for powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().upper().removesuffix("B")
        unit = SUFFIXES.get(text[-1:], 1)
        try:
            return int(float(text.rstrip("KMG")) * unit)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no size; accepted: bytes, or a number with K, M or G such as 2G")


class Setting(click.ParamType):
    """KEY=VALUE; a value of digits alone becomes a whole number."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | str]:
        if isinstance(value, tuple):
            return value
        key, found, text = str(value).partition("=")
        if not found or not key.isidentifier():
            self.fail(f"{value!r} is not of the form KEY=VALUE", param, ctx)
        return key, int(text) if text.isdigit() else text


class Registered(click.ParamType):
    """A name of a registry of certnas.

    Registries need torch, and help and completion shall be quick.  The registry is therefore imported when a value is
    converted, and the help lists names that a test compares with it.

    module, attribute: where the registry is; it holds names, or is a function that returns them.
    what: what the names stand for; the help shows it as the option's value.
    listed: the names, for the help and for completion; without them completion imports the registry.
    """

    def __init__(self, module: str, attribute: str, what: str, listed: Sequence[str] = ()) -> None:
        self.module, self.attribute, self.name, self.listed = module, attribute, what, tuple(listed)

    @property
    def text(self) -> str:
        """The listed names as the help shows them: a, b or c."""
        *others, last = self.listed
        return f"{', '.join(others)} or {last}" if others else last

    def names(self) -> tuple[str, ...]:
        """The names that the registry holds now."""
        registry = getattr(import_module(self.module), self.attribute)
        return tuple(registry() if callable(registry) else registry)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if ctx is not None and ctx.resilient_parsing:
            return str(value)  # completion converts default values too, and uses none
        names = self.names()
        if value not in names:
            close = get_close_matches(str(value), names, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            self.fail(f"{value!r} is not one of {', '.join(map(repr, names))}.{hint}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.listed or self.names() if name.startswith(incomplete)]


class Several(click.ParamType):
    """Names of one registry between commas."""

    def __init__(self, one: Registered) -> None:
        self.one, self.name = one, f"{one.name}s"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self.one.convert(part.strip(), param, ctx) for part in str(value).split(","))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        found = self.one.shell_complete(ctx, param, last)
        return [CompletionItem(f"{before}{comma}{item.value}") for item in found]


class NameOrPath(Registered):
    """A name of a registry, or another text, such as a path, that the command itself reads."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        files = CompletionItem(incomplete, type="file")  # first: shells offer files where no name fits
        return [files, *super().shell_complete(ctx, param, incomplete)]
