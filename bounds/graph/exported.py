"""One operator call of an exported program, and the queries on its nodes and arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx

from .node import Ref


class ExportedCall(NamedTuple):
    """One operator call of an exported program."""

    name: str
    """The node's name."""
    target: Any
    """The operator."""
    arguments: dict[str, Any]
    """The arguments by their schema names; other nodes are `Ref`s."""
    value: Any
    """A tensor with the shape and dtype of the output, without numbers."""
    module: str
    """The path of the user's module that makes the call."""

    def where(self) -> str:
        """Return a description of the call for messages."""
        return f"{self.target} at '{self.name}'{f', in {self.module}' if self.module else ''}"


def ancestors(last: fx.Node) -> set[fx.Node]:
    """Return a node and all of its ancestors."""
    found, stack = {last}, [last]
    while stack:
        above = [node for node in stack.pop().all_input_nodes if node not in found]
        found.update(above)
        stack += above
    return found


def has_free_size(value: Any) -> bool:
    """Return whether any size of a tensor, or of several, depends on the size of the batch."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(size, torch.SymInt) for v in values for size in getattr(v, "shape", ()))


def names_of(call: ExportedCall) -> list[str]:
    """Return the names of the nodes in a call's arguments."""
    return [ref.name for ref in refs_of(call.arguments)]


def refs_of(value: Any) -> list[Ref]:
    """Return every `Ref` in an argument structure, in order, each once."""
    found: dict[str, Ref] = {}
    stack = [value]
    while stack:
        item = stack.pop(0)
        if isinstance(item, Ref):
            found.setdefault(item.name, item)
        elif isinstance(item, dict):
            stack[:0] = list(item.values())
        elif isinstance(item, (list, tuple)):
            stack[:0] = list(item)
    return list(found.values())


def module_of(node: fx.Node) -> str:
    """Return the path of the user's module that made the call, such as 'cells.2.ops.1'."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_")]
    return paths[-1] if paths else ""
