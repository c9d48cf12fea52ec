"""Reading of an ONNX file as a model with all tensors inside. It reads data only, and only from the file's folder."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto

from certnas.errors import UserError

TRAINING_IS_AN_ATTRIBUTE = 14
"""The first opset in which batch normalisation has an attribute for training mode."""
OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional
LARGEST_FILE = 2**31 - 1
"""Largest size of a file in bytes, the limit of a protobuf message."""


def read_model(path: Path) -> onnx.ModelProto:
    """The model in an .onnx or .onnx.gz file, with its external data read in.

    Raises UserError for a file that is not an ONNX model, is too large, or has data outside its own folder.
    """
    data = _bytes(path)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, and other errors of its parsers
        raise UserError(f"cannot read '{path}' as ONNX: it is truncated or in another format") from error
    if not len(model.graph.node):
        raise UserError(f"cannot read '{path}' as ONNX: it has no graph")
    total = 0
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            total += _bring_in(tensor, path, LARGEST_FILE - total)
    return model


def outputs_of(model: onnx.ModelProto) -> list[str]:
    """The names of the model's outputs, shortened for a message."""
    return [_shown(item.name) for item in model.graph.output]


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name[:80])


def with_output(model: onnx.ModelProto, name: str | None, what: str) -> None:
    """Remove all outputs except one: the output with this name, or the first one.

    Raises UserError if no output has this name.
    """
    graph = model.graph
    chosen = [item for item in graph.output if name in (None, item.name)][:1]
    if name is not None and not chosen:
        raise UserError(f"{what} has no output {name!r}; it has {', '.join(outputs_of(model)) or 'none'}")
    kept = [onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in chosen]
    del graph.output[:]
    graph.output.extend(kept)


def without_unread(model: onnx.ModelProto) -> list[str]:
    """Remove unused optional outputs of nodes: masks, indices, statistics.

    Without them, a node computes only what the remaining outputs need. Returns a line for each batch
    normalisation that these outputs would put into training mode, by the rules of opsets before 14.
    """
    graph, notes = model.graph, []
    read = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    for position, node in enumerate(graph.node):
        unread = []
        while len(node.output) > 1 and node.output[-1] not in read and _optional(node, opset):
            unread.append(_shown(node.output.pop()))
        if any(unread) and node.op_type == "BatchNormalization" and opset < TRAINING_IS_AN_ATTRIBUTE:
            notes.append(
                f"BatchNormalization at node {position} also names {', '.join(reversed(unread))}, which nothing reads: "
                "it is imported in evaluation mode with its stored statistics, while onnxruntime uses the batch's"
            )
    return notes


def _optional(node: onnx.NodeProto, opset: int) -> bool:
    """True if the node's last output is optional."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return False
    place = len(node.output) - 1
    return place < len(schema.outputs) and schema.outputs[place].option == OPTIONAL


def without_softmax(model: onnx.ModelProto) -> bool:
    """Remove a softmax at the end of the graph, which does not change the order of the classes.

    Returns True if there was one.
    """
    graph, found = model.graph, False
    while len(graph.output):
        last = next((node for node in graph.node if graph.output[0].name in node.output), None)
        if last is None or last.op_type not in ("Softmax", "LogSoftmax", "Identity") or not len(last.input):
            return found
        if last.op_type == "Identity" and not _ends_in_softmax(graph, last.input[0]):
            return found
        found = True
        graph.output[0].name = last.input[0]
        graph.output[0].type.tensor_type.ClearField("shape")
        graph.node.remove(last)
    return found


def _ends_in_softmax(graph: onnx.GraphProto, name: str) -> bool:
    return any(name in node.output and node.op_type in ("Softmax", "LogSoftmax") for node in graph.node)


def _bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(
                f"'{path}' is larger than {LARGEST_FILE} bytes; keep its weights as external data"
            )
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            data = file.read(LARGEST_FILE // 4 + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"cannot read '{path}' as gzip: it is truncated or in another format") from error
    if len(data) > LARGEST_FILE // 4:
        raise UserError(f"'{path}' unpacks to more than {LARGEST_FILE // 4} bytes; unpack it first")
    return data


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for part in (model.graph, *model.functions):
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t


def _bring_in(tensor: TensorProto, path: Path, room: int) -> int:
    """Move a tensor's bytes from its file into the model, and return their number."""
    entries = {item.key: item.value for item in tensor.external_data}
    what = f"'{path}': external data of tensor {tensor.name!r}"
    folder = path.parent.resolve()
    file = (folder / entries.get("location", "")).resolve()
    if not entries.get("location") or file.parent != folder or not file.is_file():
        raise UserError(f"{what} is in {entries.get('location')!r}; accepted: a file in the same folder")
    try:
        offset = int(entries.get("offset", 0))
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        expected = prod(tensor.dims) * kind.itemsize
        length = int(entries.get("length", expected))
    except (KeyError, ValueError) as error:
        raise UserError(f"{what} has no readable offset, length or type") from error
    if offset < 0 or length != expected or offset + length > file.stat().st_size or length > room:
        raise UserError(f"{what} takes {length} bytes at {offset}, which do not fit its shape or file")
    with file.open("rb") as data:
        data.seek(offset)
        tensor.raw_data = data.read(length)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT
    return length
