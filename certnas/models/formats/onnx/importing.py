"""Import of an ONNX graph as a torch module. Constants are evaluated once, and shapes become integers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from certnas.errors import UserError
from certnas.models.formats.limits import LARGEST, Limits
from certnas.models.formats.onnx.linear import LINEAR
from certnas.models.formats.onnx.network import OnnxNetwork, Wiring
from certnas.models.formats.onnx.pointwise import POINTWISE
from certnas.models.formats.onnx.pooling import POOLING
from certnas.models.formats.onnx.recurrent import with_batch_inside
from certnas.models.formats.onnx.shaping import SHAPING
from certnas.models.formats.onnx.site import Site, Step
from certnas.models.formats.onnx.whole import with_batch

OPERATORS: dict[str, Callable[[Site], Step]] = {
    **LINEAR, **POINTWISE, **POOLING, **SHAPING, "LSTM": with_batch_inside,
}  # fmt: skip
"""ONNX operator -> its importer. The semantics are those of opset 7 and later."""

OLDEST = 7  # the first opset with numpy's broadcasting
NODES = 20_000

_NUMBERS: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float32, onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32, onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT8: torch.int8, onnx.TensorProto.UINT8: torch.uint8, onnx.TensorProto.BOOL: torch.bool,
}  # fmt: skip


def import_graph(model: onnx.ModelProto, *, whole: bool = False) -> OnnxNetwork:
    """The network of a model without local functions or external tensors. x [N, *input] -> [N, *output], float32.

    A fixed batch size in the file becomes free: every tensor that depends on the input must keep the batch
    as dimension 0. With `whole`, the input has no batch dimension and is one image. The first of several
    outputs is used. Raises UserError, which names the node, for an operator or shape that cannot be
    imported.
    """
    try:
        return _Importer(model, whole=whole).network()
    except UserError:
        raise
    except Exception as error:  # names that are not text, sizes that are not numbers
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the ONNX graph is malformed: {reason}") from error


class _Importer:
    """Visits the nodes in order. Computed tensors are on the meta device, so nothing is evaluated or allocated."""

    def __init__(self, model: onnx.ModelProto, *, whole: bool) -> None:
        graph = model.graph
        self.whole = whole
        self.graph = graph
        self.opset = _opset(model)
        if len(graph.node) > NODES:
            raise UserError(f"the ONNX graph has {len(graph.node)} nodes; accepted: at most {NODES}")
        self.values: dict[str, Tensor] = {
            item.name: _tensor(item, "initializer") for item in graph.initializer
        }
        if len(graph.sparse_initializer):
            raise UserError("the ONNX graph has sparse initializers; export dense ones")
        self.input, shape = _input(graph, set(self.values), whole=whole)
        self.batch, self.input_shape = (1, tuple(shape)) if whole else (shape[0], tuple(shape[1:]))
        self.values[self.input] = torch.empty(shape, device="meta")

    def network(self) -> OnnxNetwork:
        if not len(self.graph.output):
            raise UserError("the ONNX graph has no output")
        output = self.graph.output[0].name
        wirings: list[Wiring] = []
        wanted = self._wanted(output)
        with torch.no_grad(), Limits(self.batch):
            for position, node in enumerate(self.graph.node):
                if not wanted.isdisjoint(node.output):
                    wiring = self._node(position, node)
                    wirings += [wiring] if wiring else []
        found = self.values.get(output)
        if found is None or not found.is_meta:
            raise UserError(f"the ONNX network's output {output!r} does not depend on its input")
        constants = {name: value for name, value in self.values.items() if not value.is_meta}
        return OnnxNetwork(
            wirings,
            constants,
            input=self.input,
            output=output,
            input_shape=self.input_shape,
            whole=self.whole,
        )

    def _wanted(self, output: str) -> set[str]:
        """The tensors that the output depends on."""
        wanted = {output}
        for node in reversed(self.graph.node):
            if not wanted.isdisjoint(node.output):
                wanted.update(node.input)
        return wanted - {""}

    def _node(self, position: int, node: onnx.NodeProto) -> Wiring | None:
        """Evaluate a node whose inputs are constants; return the wiring of any other node."""
        name, operator = _line(node.name), _line(f"{node.domain}.{node.op_type}".removeprefix("."))
        where = f"node {position}" + (f" '{name}'" if name else "")
        if node.domain not in ("", "ai.onnx") or (
            node.op_type not in OPERATORS and node.op_type != "Constant"
        ):
            raise UserError(
                f"no importer for ONNX operator {operator} at {where}; "
                f"supported: {', '.join(sorted(OPERATORS))}"
            )
        unknown = [name for name in node.input if name and name not in self.values]
        if unknown:
            raise UserError(
                f"ONNX {node.op_type} at {where} reads {unknown[0]!r}, which nothing before it writes"
            )
        try:
            return self._imported(position, node, where)
        except UserError as error:
            named = str(error).startswith("ONNX")
            raise error if named else UserError(f"ONNX {node.op_type} at {where}: {error}") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"ONNX {node.op_type} at {where} is malformed: {reason}") from error

    def _imported(self, position: int, node: onnx.NodeProto, where: str) -> Wiring | None:
        attributes = {item.name: _attribute(item, where) for item in node.attribute}
        if node.op_type == "Constant":
            self.values[node.output[0]] = _literal(attributes, where)
            return None
        attributes["outputs"] = len(node.output)
        inputs = tuple(self.values[name] if name else None for name in node.input)
        site = Site(node.op_type, where, self.opset, self.batch, attributes, inputs)
        importer, lifted = (
            OPERATORS[node.op_type],
            self.whole and any(x is not None and x.is_meta for x in inputs),
        )
        step = with_batch(site, importer) if lifted else importer(site)
        arguments = [site.tensor(i) for i in step.inputs]
        if lifted:
            arguments = [x.unsqueeze(0) if x.is_meta else x for x in arguments]
        with torch.device("meta"):
            shapes = step.function(*(value.to("meta") for value in arguments))
        pieces = (shapes,) if isinstance(shapes, Tensor) else tuple(shapes)
        outputs = list(node.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        if len(outputs) != len(pieces) or not all(outputs):
            raise site.refuse(f"{len(outputs)} outputs are named where it gives {len(pieces)}")
        if any(value.is_meta for value in arguments):
            kept = [piece[0] for piece in pieces] if lifted else pieces
            self.values |= zip(outputs, kept, strict=True)
            names = tuple(node.input[i] for i in step.inputs)
            label = f"{position}_{re.sub(r'[^A-Za-z0-9]', '', node.op_type)}"
            return Wiring(label, step.function, names, tuple(outputs), f"{node.op_type} at {where}")
        result = step.function(*arguments)
        self.values |= zip(outputs, (result,) if isinstance(result, Tensor) else result, strict=True)
        return None


def fixed_input(model: onnx.ModelProto) -> list[int] | None:
    """The shape of the single input if all dimensions are fixed, the first one too; None otherwise."""
    known = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in known]
    if len(inputs) != 1:
        return None
    shape = [
        dim.dim_value if dim.HasField("dim_value") else 0 for dim in inputs[0].type.tensor_type.shape.dim
    ]
    return shape if min(shape, default=0) > 0 else None


def _line(text: str) -> str:
    """A name from a file, shortened to one line for a message."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:80])


def _opset(model: onnx.ModelProto) -> int:
    versions = {item.domain: item.version for item in model.opset_import}
    found = versions.get("", versions.get("ai.onnx", 0))
    if found < OLDEST:
        raise UserError(f"ONNX opset {found} is not supported; export with opset {OLDEST} or newer")
    return found


def _input(graph: onnx.GraphProto, known: set[str], *, whole: bool) -> tuple[str, list[int]]:
    """The name and shape of the single input. A free batch size counts as 1."""
    inputs = [item for item in graph.input if item.name not in known]
    if len(inputs) != 1:
        names = ", ".join(_line(item.name) for item in inputs[:5]) or "none"
        raise UserError(f"the ONNX graph has {len(inputs)} inputs ({names}); accepted: one, the images")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
        raise UserError(f"the ONNX input {inputs[0].name!r} is of type {tensor.elem_type}; accepted: floats")
    sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    shape = [max(1, size) if i == 0 and not whole else size for i, size in enumerate(sizes)]
    elements = 1
    for size in shape:
        elements *= size
    if len(shape) < 2 - whole or min(shape) < 1 or elements > LARGEST:
        raise UserError(
            f"the ONNX input {inputs[0].name!r} has shape {sizes} (0 stands for a free size); accepted: fixed sizes, "
            f"behind a batch where there is one, at most {LARGEST} elements"
        )
    return inputs[0].name, shape


def _tensor(proto: onnx.TensorProto, where: str) -> Tensor:
    """The values of a constant; floats of any width become float32."""
    kind = _NUMBERS.get(proto.data_type)
    if kind is None or proto.data_location == onnx.TensorProto.EXTERNAL:
        raise UserError(
            f"ONNX {where}: tensor {proto.name!r} is of type {proto.data_type} or outside the file"
        )
    elements = 1
    for size in proto.dims:
        elements *= size
    if min(proto.dims, default=1) < 0 or elements > LARGEST:
        raise UserError(f"ONNX {where}: tensor {proto.name!r} has shape {list(proto.dims)}")
    try:
        return torch.from_numpy(numpy_helper.to_array(proto).copy()).to(kind)
    except Exception as error:
        raise UserError(f"ONNX {where}: tensor {proto.name!r} does not match its shape") from error


def _attribute(item: onnx.AttributeProto, where: str) -> Any:
    if item.type == onnx.AttributeProto.TENSOR:
        return _tensor(item.t, where)
    if item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) or item.ref_attr_name:
        raise UserError(f"ONNX {where}: attribute {item.name!r} is a graph; accepted: numbers and tensors")
    value = onnx.helper.get_attribute_value(item)
    return list(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else value


def _literal(attributes: dict[str, Any], where: str) -> Tensor:
    """The value of a Constant node."""
    for name, kind in (("value", None), ("value_float", torch.float32), ("value_floats", torch.float32),
                       ("value_int", torch.int64), ("value_ints", torch.int64)):  # fmt: skip
        if name in attributes:
            value = attributes[name]
            return value if isinstance(value, Tensor) else torch.tensor(value, dtype=kind)
    raise UserError(f"ONNX Constant at {where} has no tensor, floats or integers")
