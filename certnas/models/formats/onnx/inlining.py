"""Inlining of ONNX local functions within limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from certnas.errors import UserError

Key = tuple[str, str]

DEEPEST = 32
PLACES = 200_000
BYTES = 2**30


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions, by onnx's inliner; a model without any is returned as it is.

    Raises UserError for functions that call each other in a cycle, nest deeper than DEEPEST, exceed PLACES
    nodes and attributes or BYTES after inlining, have subgraphs, or use another opset than the model.
    """
    if not len(model.functions):
        return model
    from onnx import inliner  # imported here because few files have functions

    _Sizes(model).check(node for part in (model.graph, *model.functions) for node in part.node)
    try:
        result = inliner.inline_local_functions(model)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the ONNX model's local functions are malformed: {reason}") from error
    if len(result.functions):
        named = _shown(_key(result.functions[0].domain, result.functions[0].name))
        raise UserError(
            f"ONNX local function {named} is of another opset than the model; export both with one"
        )
    return result


@dataclass(frozen=True)
class Size:
    """The size of a list of nodes after inlining."""

    depth: int = 0
    """Depth of nested calls."""
    places: int = 0
    """Number of nodes, calls and attributes."""
    size: int = 0
    """Size in bytes."""


class _Sizes:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.functions = {_key(item.domain, item.name): item for item in model.functions}
        if len(self.functions) < len(model.functions):
            raise UserError("the ONNX model has several local functions of one name; accepted: one of each")
        self.known: dict[Key, Size] = {}

    def check(self, nodes: Iterable[onnx.NodeProto]) -> None:
        total = self._total(nodes, ())
        if total.places > PLACES or total.size > BYTES:
            raise UserError(
                f"the ONNX model's local functions exceed {PLACES} nodes and attributes, or {BYTES} bytes, "
                "when inlined"
            )

    def _total(self, nodes: Iterable[onnx.NodeProto], calls: tuple[Key, ...]) -> Size:
        depth = places = size = 0
        for node in nodes:
            if any(item.HasField("g") or len(item.graphs) for item in node.attribute):
                raise UserError(
                    "the ONNX model has local functions and nodes with graphs; accepted: one of the two"
                )
            key = _key(node.domain, node.op_type)
            if key not in self.functions:
                places += 1 + len(node.attribute)
                size += node.ByteSize()
                continue
            called = self._of(key, calls)
            depth = max(depth, 1 + called.depth)
            places += 1 + called.places
            # every node of the function may read the arguments of a call
            size += called.size + called.places * node.ByteSize()
        return Size(depth, places, size)

    def _of(self, key: Key, calls: tuple[Key, ...]) -> Size:
        if key in calls:
            raise UserError(f"ONNX local function {_shown(key)} calls itself")
        if key not in self.known and len(calls) < DEEPEST:
            self.known[key] = self._total(self.functions[key].node, (*calls, key))
        if key not in self.known or len(calls) + self.known[key].depth >= DEEPEST:
            raise UserError(f"ONNX local functions call each other more than {DEEPEST} deep at {_shown(key)}")
        return self.known[key]


def _key(domain: str, name: str) -> Key:
    return "" if domain == "ai.onnx" else domain, name


def _shown(key: Key) -> str:
    return repr(".".join(key).removeprefix(".")[:80])
