"""Reads VNN-LIB 2.0, queries on one network with one input and one output, with the package `vnnlib`.

The parsed query is translated to version 1.0, with elements numbered in row-major order, so that limits, exact
decimals and refusals are the same. The package is native code without limits of its own, so it only receives text
that was tokenised before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.verifier.sexpr import Atom, Expression, Form, parse

LARGEST_TEXT = 2**24
LARGEST_TENSOR = 300_000
START = re.compile(r"(?:\s|;[^\n]*+(?:\n|\Z))*+\(\s*+(vnnlib-version|declare-network)\b")
COMMENT = re.compile(r";[^\n]*+")
VERSION = re.compile(r"\s*+\(vnnlib-version\s++<2\.0>\s*+\)")
UNEXPECTED = re.compile(r"[^\t\n\r !#-~]|\[(?!\s*+(?:\d++\s*+(?:,\s*+\d++\s*+)*+)?\])")
DECLARED = re.compile(r"(\(declare-(input|output)\s*+(\w++)\s++)(\w++)")
INTEGER = re.compile(r"\[[^\]]*+\]|(?<![^\s(])-?\d++(?![^\s)])")
SYNTAX = re.compile(r"Parse error: syntax error at line (\d+), column \d+: '(.*)'")
SAID = ("message", "offendingSymbol", "hint")
TYPES = ("Real", "float32")
HEADS = {
    "And": "and", "Or": "or", "LessThan": "<", "LessEqual": "<=", "GreaterThan": ">", "GreaterEqual": ">=",
    "Equal": "=", "Plus": "+", "Minus": "-", "Negate": "-", "Multiply": "*",
}  # fmt: skip
"""The version 1.0 name of each node class of the package."""


@dataclass(frozen=True)
class Tensor:
    """A declared input or output."""

    letter: str
    """X or Y, the name of its elements in version 1.0."""
    name: str
    """The declared name."""
    shape: tuple[int, ...]
    """The declared shape."""
    line: int
    """The line of the declaration."""

    def shown(self, index: int) -> str:
        """The name in version 2.0 of an element with a row-major index."""
        places = []
        for size in reversed(self.shape):
            index, place = divmod(index, size)
            places.append(str(place))
        return f"{self.name}[{','.join(reversed(places))}]" if places else self.name

    def forms(self) -> Iterator[Form]:
        """Yields the declarations of the elements in version 1.0."""
        for i in range(prod(self.shape)):
            words = ("declare-const", f"{self.letter}_{i}", "Real")
            yield Form(tuple(Atom(word, self.line) for word in words), self.line)


@dataclass(frozen=True)
class Query:
    """The declarations and assertions of a text in version 2.0."""

    input: Tensor
    """The declared input."""
    output: Tensor
    """The declared output."""
    assertions: tuple[Any, ...]
    """The assertions, as nodes of the package."""

    def forms(self) -> Iterator[Form]:
        """Yields the same query in version 1.0, list by list."""
        yield from self.input.forms()
        yield from self.output.forms()
        for assertion in self.assertions:
            formula = self._expression(assertion.expr)
            yield Form((Atom("assert", formula.line), formula), formula.line)

    def shown(self, letter: str, index: int) -> str:
        """The name in version 2.0 of element `index` of X or Y."""
        return (self.input if letter == "X" else self.output).shown(index)

    def _expression(self, node: Any) -> Expression:
        kind = type(node).__name__
        if kind == "Var":
            return self._element(node)
        if kind in ("Float", "Int"):
            return Atom(node.lexeme, node.line)
        operands = tuple(self._expression(child) for child in node.children())
        line = operands[0].line
        if kind == "NotEqual":
            sides = (Form((Atom(sign, line), *operands), line) for sign in "<>")
            return Form((Atom("or", line), *sides), line)
        return Form((Atom(HEADS[kind], line), *operands), line)

    def _element(self, node: Any) -> Atom:
        tensor = self.input if node.name == self.input.name else self.output
        index = 0
        for place, size in zip(node.indices, tensor.shape, strict=True):
            index = index * size + place
        return Atom(f"{tensor.letter}_{index}", node.line)


def is_version_2(text: str) -> bool:
    """Whether a text begins like a file of version 2.0."""
    return START.match(text) is not None


def read_query(text: str, where: str) -> Query:
    """Reads the query of a text in version 2.0; `where` is its name in messages.

    Raises UserError, one line, if the package is not installed, if the text is malformed or larger than LARGEST_TEXT,
    or if it declares anything but one network with one input and one output of TYPES.
    """
    plain = COMMENT.sub("", text)
    if not VERSION.match(plain):
        raise UserError(
            f"{where}: expected (vnnlib-version <2.0>) at its beginning, or a file of version 1.0"
        )
    if len(plain) > LARGEST_TEXT:
        raise UserError(
            f"{where}: more than {LARGEST_TEXT >> 20} MiB of VNN-LIB 2.0; give a smaller property"
        )
    found = UNEXPECTED.search(plain)
    if found is not None:
        line = plain.count("\n", 0, found.start()) + 1
        raise UserError(f"{where}, line {line}: {_complaint(found[0])}")
    for _ in parse(plain, where):
        pass
    lines = {}
    for declared in DECLARED.finditer(plain):
        line = lines[declared[3]] = plain.count("\n", 0, declared.start()) + 1
        if declared[4] not in TYPES:
            raise UserError(
                f"{where}, line {line}: {declared[3][:40]} is of {declared[4][:40]}; accepted: {', '.join(TYPES)}"
            )
    query = _parsed(_plainly_typed(plain), where)
    if len(query.networks) != 1:
        raise UserError(f"{where}: {len(query.networks)} networks are declared; accepted: one")
    network = query.networks[0]
    given = _tensor("X", "inputs", network.inputs, lines, where)
    return Query(given, _tensor("Y", "outputs", network.outputs, lines, where), query.assertions)


def _complaint(found: str) -> str:
    if found == "[":
        return "expected whole numbers in brackets, as in X[0,3]"
    if found == '"':
        return "the name of an ONNX node; accepted: one input and one output without names, no hidden nodes"
    return f"{found!r} outside of a comment"


def _plainly_typed(text: str) -> str:
    """The text with a single type: version 1.0.2 of the package refuses 2 for a float32, and (* 2.0 Y[0]) for a Real
    Y.
    """
    text = DECLARED.sub(lambda found: found[1] + "float32", text)
    return INTEGER.sub(lambda found: found[0] if found[0][0] == "[" else found[0] + ".0", text)


def _parsed(text: str, where: str) -> Any:
    try:
        from vnnlib import VNNLibException, parse_query_string
    except ImportError as error:
        raise UserError(
            f"{where} is VNN-LIB 2.0, which the package vnnlib reads: pip install 'certnas[vnnlib2]'"
        ) from error
    try:
        return parse_query_string(text)
    except VNNLibException as error:
        raise UserError(f"{where}{_reason(str(error))}") from error
    except (IndexError, ValueError) as error:
        raise UserError(f"{where}: a number that the package vnnlib cannot hold") from error


def _reason(message: str) -> str:
    """Where and why the package refuses a text: a syntax error, or the first of a list of errors in JSON."""
    syntax = SYNTAX.match(message)
    if syntax is not None:
        return f", line {syntax[1]}: syntax error at {syntax[2][:80]!r}"
    try:
        line, *said = (str(parse_json(message)["errors"][0][key]) for key in ("line", *SAID))
    except (KeyError, IndexError, TypeError, ValueError):
        return f": {' '.join(message.split())[:200]}"
    return f", line {line}: {': '.join(' '.join(part.split())[:160] for part in said)}"


def _tensor(letter: str, kind: str, declared: tuple[Any, ...], lines: dict[str, int], where: str) -> Tensor:
    if len(declared) != 1:
        raise UserError(f"{where}: the network has {len(declared)} {kind}; accepted: one")
    name, shape = declared[0].name, tuple(declared[0].shape)
    if prod(shape) > LARGEST_TENSOR:
        raise UserError(f"{where}, line {lines[name]}: {name} has more than {LARGEST_TENSOR} elements")
    return Tensor(letter, name, shape, lines[name])
