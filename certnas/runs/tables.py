"""Configurations: frozen dataclasses in Python, TOML tables on disk, KEY=VALUE on a command line."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from certnas.errors import UserError

T = TypeVar("T")
Table = dict[str, Any]
DEEPEST = 64
"""The most dotted names in a key of TOML, and the most brackets in each other.

The reader takes quadratic time in the number of names, and one call for each bracket.
"""
_NAME = r"""(?>[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*+"""
_DEEP_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+(?:{_NAME}\.[ \t]*+){{{DEEPEST}}}", re.MULTILINE)
_QUOTED = re.compile(
    r'"""(?:\\.|[^\\])*?"""|' + r"'''.*?'''" + r'|"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'|#[^\n]*", re.DOTALL
)
_BRACKET = re.compile(r"[][{}]")


def from_table(kind: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """Builds the dataclass `kind` from a table; a nested dataclass is a nested table.

    kind: the dataclass. table: its values. where: a prefix for keys in messages.
    An integer is accepted for a float, and a list for a tuple. Raises UserError, which names the key, for an unknown
    key, a missing key, or a value of another type.
    """
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise UserError(f"{where}{key}: no such setting; accepted: {', '.join(fields) or 'none'}")
    for key, field in fields.items():
        bare = field.default is field.default_factory is dataclasses.MISSING
        if key not in table and bare and not dataclasses.is_dataclass(hints[key]):
            raise UserError(f"{where}{key}: is missing; give it")
    values = {key: _value(hints[key], value, f"{where}{key}") for key, value in table.items()}
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: got {value!r}; it is a table of settings")
        return from_table(hint, value, f"{where}.")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        same = arguments[1:] == (Ellipsis,)
        if not same and len(value) != len(arguments):
            raise UserError(f"{where}: got {list(value)}; give {len(arguments)} values")
        hints = [arguments[0]] * len(value) if same else list(arguments)
        return tuple(_value(h, item, where) for h, item in zip(hints, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"{where}: got {value!r}; give {_named(hint)}")


NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _named(hint: Any) -> str:
    return "a list" if get_origin(hint) is tuple else NAMES.get(hint, str(hint))


def to_table(value: Any) -> Any:
    """The table of a dataclass, the inverse of `from_table`: tuples become lists, and None values are omitted."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return to_table(fields)
    if isinstance(value, Mapping):
        return {key: to_table(item) for key, item in value.items() if item is not None}
    return [to_table(item) for item in value] if isinstance(value, list | tuple) else value


def to_toml(table: Mapping[str, Any]) -> str:
    """A table as TOML text; `tomllib` reads it back as an equal table."""
    return tomli_w.dumps(table)


def _bracket_depth(text: str) -> int:
    """Returns how deep brackets and braces are nested outside of strings and comments."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_QUOTED.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def read_toml(path: Path) -> Table:
    """Reads the table of a TOML file. Raises UserError if it cannot be read or nests deeper than DEEPEST."""
    try:
        text = path.read_text(encoding="utf-8")
        if _DEEP_KEY.search(text) or _bracket_depth(text) > DEEPEST:
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(
            f"configuration {path}: cannot be read: it is nested too deeply; give a TOML file"
        ) from None
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: invalid TOML, invalid text, or a number of too many digits
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"configuration {path}: cannot be read: {reason}; give a TOML file") from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """`below` updated by `above`, table by table; a table with another `name` replaces the whole table."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        if both and value.get("name", old.get("name")) == old.get("name"):  # type: ignore[union-attr]
            result[key] = merged(old, value)  # type: ignore[arg-type]
        else:
            result[key] = value
    return result


def setting(text: str) -> Table:
    """The table of "key=value" or "table.key=value"; the value is TOML, or text if it is not valid TOML.

    Raises UserError for anything else.
    """
    key, found, value = text.partition("=")
    path = key.strip().split(".")
    if not found or not all(part.isidentifier() for part in path):
        raise UserError(f"setting {text!r}: is not KEY=VALUE; give one such as weights.lr=0.1")
    try:
        result: Any = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):  # ValueError: invalid TOML, or a number of too many digits
        result = value.strip()
    for part in reversed(path):
        result = {part: result}
    return result
