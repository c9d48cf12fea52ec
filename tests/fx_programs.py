"""Programs of operator calls without an export: what is rewritten, made by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx


class _Noting(fx.Interpreter):
    """Notes the value of every node, as `export` notes a tensor of its shape."""

    def run_node(self, n: fx.Node) -> Any:
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]


def program(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """The calls that a function makes, as `graph` and `graph_module`."""
    module = fx.symbolic_trace(function)
    _Noting(module).run(*inputs)
    return SimpleNamespace(graph=module.graph, graph_module=module)


def targets(made: Any) -> list[str]:
    """The operators in order, without namespace."""
    return [str(n.target).removeprefix("aten.") for n in made.graph.nodes if n.op == "call_function"]


def same(made: Any, function: Callable[..., Any], *inputs: Tensor) -> None:
    """Whether the program is the function."""
    made.graph.lint()
    made.graph_module.recompile()
    torch.testing.assert_close(made.graph_module(*inputs), function(*inputs), rtol=1e-12, atol=1e-12)
