"""Genotypes in the Python code of papers: `NAME = Genotype(normal=[...], ...)`, parsed and never executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from certnas.errors import UserError

LONGEST = 2**20
"""Largest number of characters of a text."""
MOST = 10_000
"""Largest number of integers in a `range`."""
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")


def records_of(text: str) -> dict[str, Any]:
    """Name -> record of each genotype in a Python text, in order; the name is empty if the text gives none.

    A genotype is a call `Genotype(...)`, or a list or dictionary with the same content; other statements
    are ignored. Raises UserError if there is no genotype, or if a genotype contains anything but lists,
    tuples, strings, numbers and ranges.
    """
    if len(text) > LONGEST:
        raise UserError(f"is longer than {LONGEST} characters; give the genotype alone")
    try:
        statements = ast.parse(text.strip()).body
        found = dict(_records(statements))
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"is neither JSON nor Python: {error.msg}, line {error.lineno}") from None
    except (ValueError, RecursionError, MemoryError):
        raise UserError("is neither JSON nor Python: it is nested too deeply, or has a zero byte") from None
    if not found:
        raise UserError("has no genotype; expected NAME = Genotype(normal=[...], normal_concat=..., ...)")
    return found


def _records(statements: list[ast.stmt]) -> Iterator[tuple[str, Any]]:
    for statement in statements:
        if isinstance(statement, ast.Expr):
            name, value = "", statement.value
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name, value = statement.targets[0].id, statement.value
        else:
            continue
        bare = len(statements) == 1 and isinstance(value, ast.Dict | ast.List | ast.Tuple)
        if bare or _is_call(value, "Genotype"):
            yield name, _value(value)


def _is_call(node: ast.expr, name: str) -> bool:
    """True if a node calls a function called `name`, from any module."""
    if not isinstance(node, ast.Call):
        return False
    return name == (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))


def _value(node: ast.expr) -> Any:
    """The value of an expression of literals, ranges and genotypes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | str):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            str(_value(key)): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key
        }
    if isinstance(node, ast.Call):
        given = [_value(item) for item in node.args]
        if _is_call(node, "Genotype") and len(given) <= len(FIELDS) and all(k.arg for k in node.keywords):
            named = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
            return dict(zip(FIELDS, given, strict=False)) | named
        if _is_call(node, "range") and 1 <= len(given) <= 3 and all(isinstance(v, int) for v in given):
            numbers = range(*given) if given[2:] != [0] else range(MOST + 1)
            if len(numbers) <= MOST:
                return list(numbers)
        if (
            len(given) == 1
            and isinstance(given[0], list)
            and (_is_call(node, "list") or _is_call(node, "tuple"))
        ):
            return given[0]
    raise UserError(
        f"line {node.lineno}: {ast.unparse(node)[:60]!r} cannot be part of a genotype; accepted: lists, tuples, "
        "strings, integers, range"
    )
