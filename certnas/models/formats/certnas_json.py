"""certnas's own format: tensors in a .safetensors file, operators in a .json file with the same name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certnas.bounds import Graph
from certnas.bounds.extend import Ref
from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.models.formats.limits import LARGEST, check_limits
from certnas.models.formats.operation import Name, Operation
from certnas.models.formats.program import TARGETS, ProgramNetwork

FORMAT, VERSION = "certnas-network", 1
_KINDS = {
    str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float64, torch.int64, torch.bool)
}


def structure_of(graph: Graph) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of the .json and the .safetensors file for a traced network.

    Raises UserError for an operator that a file may not call.
    """
    operations = [
        {
            "target": "aten.sym_size.int",
            "arguments": {"self": {"name": graph.input}, "dim": 0},
            "outputs": [name],
        }
        for name in graph.batch_sizes
    ]
    for node in (*graph.constants, *graph.nodes.values()):
        target = node.op if node.op in TARGETS else f"operator.{getattr(node.target, '__name__', '')}"
        if target not in TARGETS:
            raise UserError(f"{node.where()} cannot be written; accepted: {', '.join(sorted(TARGETS))}")
        arguments = {key: _encoded(value) for key, value in node.arguments.items() if not _placing(value)}
        operations.append({"target": target, "arguments": arguments, "outputs": [node.name]})
    structure = {
        "format": FORMAT,
        "version": VERSION,
        "input": graph.input,
        "output": graph.output,
        "input_shape": list(graph.input_shape),
        "tensors": dict(graph.parameters),
        "operations": operations,
    }
    tensors = {name: value.detach().clone().contiguous() for name, value in graph.defaults.items()}
    return structure, tensors


def read_structure(path: Path, tensors: dict[str, Tensor]) -> ProgramNetwork:
    """The network with the operators in a .json file and these tensors.

    Only operators in `program.TARGETS` are called. Raises UserError for any other operator, and for a
    damaged file.
    """
    try:
        content = parse_json(path.read_text("utf-8"))
        if content["version"] != VERSION:
            raise UserError(f"'{path}' has version {content['version']}; accepted: {VERSION}")
        shape = tuple(content["input_shape"])
        if not all(isinstance(size, int) and size > 0 for size in shape) or math.prod(shape) > LARGEST:
            raise UserError(f"'{path}' has input shape {list(shape)}; accepted: whole numbers of at least 1")
        network = ProgramNetwork(
            [
                Operation(
                    item["target"],
                    {k: _decoded(v) for k, v in item["arguments"].items()},
                    tuple(item["outputs"]),
                )
                for item in content["operations"]
            ],
            {name: tensors[source] for name, source in content["tensors"].items()},
            parameters=content["tensors"],
            input=content["input"],
            output=content["output"],
            input_shape=shape,
            batch=None,
        )
    except UserError as error:
        raise UserError(error if str(error).startswith("'") else f"'{path}': {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"'{path}' describes no network ({type(error).__name__}: {reason})") from error
    check_limits(network, shape, f"'{path}'")
    return network


def _operation(item: dict[str, Any]) -> Operation:
    arguments = {key: _decoded(value) for key, value in item["arguments"].items()}
    return Operation(item["target"], arguments, tuple(item["outputs"]))


def is_structure(path: Path) -> bool:
    """True if a file declares itself to be such a .json file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"format": "{FORMAT}"'.encode() in file.read(200)


def _placing(value: Any) -> bool:
    """True for arguments that determine where and how a tensor is stored, not its values."""
    return isinstance(value, torch.device | torch.memory_format | torch.layout)


def _encoded(value: Any) -> Any:
    match value:
        case Ref():
            return {"name": value.name}
        case list() | tuple():
            return [_encoded(item) for item in value]
        case torch.dtype():
            return {"dtype": str(value).removeprefix("torch.")}
        case float() if not math.isfinite(value):
            return {"float": str(value)}
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise UserError(f"an argument of type {type(value).__name__} cannot be written")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    match kind:
        case "name":
            return Name(held)
        case "dtype":
            return _KINDS[held]
        case "float":
            return float(held)
        case _:
            raise UserError(f"an argument of kind {kind[:40]!r}")
