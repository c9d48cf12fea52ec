"""What an option's text may say: radii, lists of numbers, bytes."""

from typing import Any

import click

SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30}


class Number(click.ParamType):
    """A decimal or a fraction: 0.03 or 8/255."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        above, slash, below = str(value).partition("/")
        try:
            return float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r} is no number; accepted: a decimal such as 0.03 or a fraction such as 8/255")


class Numbers(click.ParamType):
    """Numbers between commas: 1/255,2/255,0.1."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(Number().convert(part.strip(), param, ctx) for part in str(value).split(","))


class Bytes(click.ParamType):
    """A size in bytes, with K, M or G for powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().upper().removesuffix("B")
        unit = SUFFIXES.get(text[-1:], 1)
        try:
            return int(float(text.rstrip("KMG")) * unit)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no size; accepted: bytes, or a number with K, M or G such as 2G")


class NormName(click.ParamType):
    """A norm that is registered; the names come from `bounds.NORMS`, which needs torch, and so when they are needed."""

    name = "norm"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NORM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from certnas.bounds import NORMS

        if value not in NORMS:
            self.fail(f"{value!r} is not one of {', '.join(map(repr, NORMS))}.", param, ctx)
        return str(value)


class Setting(click.ParamType):
    """KEY=VALUE; a value that reads as a whole number is one."""

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
