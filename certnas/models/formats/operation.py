"""One operation of a program from a file, and the names among its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Name:
    """The name of a value or tensor of the network, as an argument of an operation."""

    name: str
    """The name."""


@dataclass(frozen=True)
class Operation:
    """The assignment outputs = target(**arguments)."""

    target: str
    """Name of the operator."""
    arguments: Mapping[str, Any]
    """Argument name -> constant, Name, or list of these."""
    outputs: tuple[str, ...]
    """Names of the results, usually one."""

    def names(self) -> Iterator[str]:
        """All names among the arguments."""
        stack: list[Any] = list(self.arguments.values())
        while stack:
            value = stack.pop()
            if isinstance(value, Name):
                yield value.name
            elif isinstance(value, list):
                stack += value


def resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """An argument with its names replaced by their values."""
    if isinstance(value, Name):
        return values[value.name]
    if isinstance(value, list):
        return [resolved(item, values) for item in value]
    return value
