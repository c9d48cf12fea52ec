"""Small ONNX models, node by node, for the tests of the importer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    *,
    shape: Sequence[int | str] = ("n", 3, 6, 7),
    opset: int = 17,
    output: str = "y",
    inputs: Sequence[str] = ("x",),
) -> onnx.ModelProto:
    """A model from `x` of this shape to `output`, its constants as initializers."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op: str, *inputs: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node with one output, `y` unless `to` says otherwise."""
    return helper.make_node(op, list(inputs), [to], name=f"{op.lower()}_{to}", **attributes)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def saved(content: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(content.SerializeToString())
    return path


def properties(sides: Sequence[tuple[float, float]], outputs: int, said: str) -> str:
    """VNN-LIB: inputs in these boxes, and an assertion of outputs."""
    names = [*(f"X_{i}" for i in range(len(sides))), *(f"Y_{j}" for j in range(outputs))]
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i, (low, high) in enumerate(sides)]
    return "\n".join([*lines, f"(assert {said})"])
