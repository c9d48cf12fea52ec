"""Traces an `nn.Module` into a `Graph` by torch.export, without decomposition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BoundsError, InvalidInput
from . import Graph
from .canonical import compose
from .functionalise import functional, without_modes
from .reader import ProgramReader


def trace(model: nn.Module, example: Tensor) -> Graph:
    """Trace a model into a graph whose batch dimension stays free.

    model: a module, whose parameters and modes are not changed.  If it returns a tuple, such as (logits, auxiliary),
    the first is traced.  It should be in evaluation mode; in training mode batch normalisation keeps its batch
    statistics (see `Graph.bind`).  In-place writes are seen by every later read, and casts between floating-point types
    are the identity. example [n, *input_shape]: an input whose first dimension is the batch; its values do not matter.
    Returns the graph, for `Graph.bind`.
    Raises InvalidInput if the model cannot be exported or is no function of its input, ConstantOutput if its output
    does not depend on the input, and UnsupportedOp if it draws numbers, mixes images, or computes with the size of the
    batch.

    >>> import torch
    >>> import bounds
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 4))
    >>> graph = bounds.trace(model, torch.zeros(1, 2))
    >>> graph.input_shape, graph.output_shape, [node.op for node in graph.nodes.values()]
    ((2,), (4,), ['aten.linear.default', 'aten.relu.default', 'aten.linear.default'])
    """
    program = program_of(model, example)
    tensors: dict[str, Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    graph = ProgramReader(program, tensors, tuple(example.shape[1:])).graph()
    return replace(graph, owner=model, owned=frozenset(tensors) & frozenset(graph.defaults))


def program_of(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Return the exported program that `trace` reads, in which no operator changes the value that another one reads.

    model, example: as in `trace`.
    Raises InvalidInput if the model cannot be exported with a free batch.
    """
    example = example.detach()
    if len(example) < 2:
        example = torch.cat([example, example])
    dynamic: Any = ({0: torch.export.Dim.DYNAMIC},)
    if next(iter(signature(model.forward).parameters.values())).kind is Parameter.VAR_POSITIONAL:
        dynamic = (dynamic,)  # the forward(*inputs) of a wrapper, such as a compiled or parallel module
    with _export_mode(model):
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            raise InvalidInput(
                f"trace: torch.export cannot read the model with input {list(example.shape)} and a free batch: "
                f"{_first_line(error)}"
            ) from error
        try:
            without_modes(program)
            without_modes(program)
            compose(program)
            program = functional(program)
        except BoundsError:
            raise
        except Exception as error:
            raise InvalidInput(
                "trace: torch cannot say what the model's in-place operators do, use the out-of-place forms: "
                f"{_first_line(error)}"
            ) from error
    return program


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _export_mode(model: nn.Module) -> Iterator[None]:
    """Disable gradients, which forbid some writes to views, and fused attention; then restore the modes."""
    training = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in training.items():
            module.training = mode
