"""One operation of a program from a file, and the names among its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Name:
    """A value that the network computes or holds, in an operation's arguments."""

    name: str


@dataclass(frozen=True)
class Operation:
    """outputs = target(**arguments); `outputs` has one name, or one for each of several results."""

    target: str
    arguments: Mapping[str, Any]
    outputs: tuple[str, ...]

    def names(self) -> Iterator[str]:
        """Every name among the arguments."""
        stack: list[Any] = list(self.arguments.values())
        while stack:
            value = stack.pop()
            if isinstance(value, Name):
                yield value.name
            elif isinstance(value, list):
                stack += value


def resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """An argument with the values in the place of their names."""
    if isinstance(value, Name):
        return values[value.name]
    if isinstance(value, list):
        return [resolved(item, values) for item in value]
    return value
