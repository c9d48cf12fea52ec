"""ONNX local functions: inlined to what onnxruntime computes, or refused before anything grows."""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx_models import model, node, saved, weights

from certnas.errors import UserError
from certnas.models import open_model
from certnas.models.formats.onnx import import_onnx

LINE = {"shape": ("n", 9)}


def call(name: str, *inputs: str, to: str = "y", **attributes: object) -> NodeProto:
    return helper.make_node(name, list(inputs or "x"), [to], domain="local", **attributes)


def function(
    name: str, nodes: Sequence[NodeProto], *inputs: str, opset: int = 17, attributes: Sequence[str] = ()
) -> onnx.FunctionProto:
    """inputs (one, `x`, unless given) -> y."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    given = list(inputs or "x")
    return helper.make_function("local", name, given, ["y"], nodes, imports, attributes=list(attributes))


def holding(
    content: onnx.ModelProto, *functions: onnx.FunctionProto, domain: str = "local"
) -> onnx.ModelProto:
    content.functions.extend(functions)
    content.opset_import.append(helper.make_opsetid(domain, 1))
    return content


def leaky(default: float) -> onnx.FunctionProto:
    """LeakyRelu whose slope is an attribute of the function."""
    inner = node("LeakyRelu", "x")
    inner.attribute.append(helper.make_attribute_ref("alpha", onnx.AttributeProto.FLOAT))
    made = function("Leaky", [inner])
    made.attribute_proto.append(helper.make_attribute("alpha", default))
    return made


def layered() -> onnx.ModelProto:
    """x [n, 9] -> two dense layers, each a function of functions, names used again inside and outside; softmax."""
    constant = node("Constant", to="w2", value=numpy_helper.from_array(weights(5, 4, seed=2)))
    dense = function("Dense", [node("MatMul", "x", "w", to="h"), node("Add", "h", "b")], "x", "w", "b")
    block = function(
        "Block",
        [call("Dense", "x", "w", "b", to="t"), call("Leaky", "t", to="h", alpha=0.5), call("Leaky", "h")],
        "x", "w", "b",
    )  # fmt: skip
    head = function("Head", [constant, node("MatMul", "x", "w2", to="h"), node("Softmax", "h")])
    constants = {"w": weights(9, 5), "b": weights(5, seed=1)}
    nodes = [call("Block", "x", "w", "b", to="h"), node("Relu", "h", to="t"), call("Head", "t")]
    return holding(model(nodes, constants, **LINE), dense, leaky(0.1), block, head)


def test_functions_are_what_onnxruntime_makes_of_them(tmp_path: Path) -> None:
    path = saved(layered(), tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    assert np.allclose(import_onnx(path)(torch.from_numpy(x)), expected, atol=1e-6)
    logits = open_model(str(path)).module(torch.from_numpy(x))  # the softmax inside the function is left out
    assert np.allclose(logits.softmax(1), expected, atol=1e-6) and not np.allclose(logits, expected, atol=0.1)


def test_external_data_inside_a_function_is_read(tmp_path: Path) -> None:
    content = layered()
    tensor = content.functions[-1].node[0].attribute[0].t
    (tmp_path / "net.bin").write_bytes(tensor.raw_data)
    inside = import_onnx(saved(layered(), tmp_path))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "net.bin"
    x = torch.rand(2, 9)
    assert torch.equal(import_onnx(saved(content, tmp_path, "outside.onnx"))(x), inside(x))
    entry.value = "../net.bin"
    with pytest.raises(UserError, match="accepted: a file in the same folder"):
        import_onnx(saved(content, tmp_path))


def tower(width: int, height: int, body: Sequence[NodeProto]) -> list[onnx.FunctionProto]:
    """f0 is `body`; each of the others calls the one before it `width` times in a row."""
    made = [function("f0", body)]
    for k in range(1, height):
        names = ["x", *(f"t{j}" for j in range(1, width)), "y"]
        calls = [call(f"f{k - 1}", a, to=b) for a, b in pairwise(names)]
        made.append(function(f"f{k}", calls))
    return made


RELU = [node("Relu", "x")]
BIG = [node("Constant", to="c", value=numpy_helper.from_array(np.zeros(2**16, np.float32)))]
BRANCH = helper.make_graph([node("Relu", "x", to="q")], "g", [], [])
REFUSALS = {
    "itself": ([call("f")], [function("f", [call("f")])], "ONNX local function 'local.f' calls itself"),
    "a circle": (
        [call("f")],
        [function("f", [call("g")]), function("g", [call("f")])],
        "ONNX local function 'local.f' calls itself",
    ),
    "a circle nothing calls": (
        RELU,
        [function("f", [call("g")]), function("g", [call("f")])],
        "ONNX local function 'local.g' calls itself",
    ),
    "a bomb": ([call("f9")], tower(10, 10, RELU), "the ONNX model's local functions exceed 200000"),
    "a bomb of nothing": ([call("f9")], tower(10, 10, []), "the ONNX model's local functions exceed"),
    "a bomb of bytes": ([call("f4")], tower(10, 5, BIG + RELU), "the ONNX model's local functions exceed"),
    "a bomb of an attribute": (
        [call("f4", alpha=[0.5] * 2**16)],
        tower(10, 5, RELU),
        "the ONNX model's local functions exceed",
    ),
    "a chain": ([call("f2000")], tower(1, 2001, RELU), "ONNX local functions call each other more than 32 deep at"),
    "a chain, its end first": (
        [call("f20", to="a"), call("f40", "a")],
        tower(1, 41, RELU),
        "ONNX local functions call each other more than 32 deep at 'local.f",
    ),
    "a graph": (
        [call("f")],
        [function("f", [node("If", "x", then_branch=BRANCH, else_branch=BRANCH)])],
        "the ONNX model has local functions and nodes with graphs",
    ),
    "one name twice": (
        [call("f")],
        [function("f", RELU), function("f", RELU)],
        "the ONNX model has several local functions of one name",
    ),
    "another opset": (
        [call("f")],
        [function("f", RELU, opset=13)],
        "ONNX local function 'local.f' is of another opset than the model",
    ),
    "too many inputs": ([call("f", "x", "x")], [function("f", RELU)], "the ONNX model's local functions are malformed"),
    "no such function": ([call("g")], [function("f", RELU)], "no importer for ONNX operator local.g at node 0"),
    "an operator without importer": (
        [call("f")],
        [function("f", [node("Det", "x")])],
        "no importer for ONNX operator Det at node 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_inlined_is_refused_on_one_line_and_at_once(case: str, tmp_path: Path) -> None:
    nodes, functions, line = REFUSALS[case]
    path = saved(holding(model(nodes, **LINE), *functions), tmp_path)
    began = time.monotonic()
    with pytest.raises(UserError) as refusal:
        import_onnx(path)
    assert str(refusal.value).startswith(line), refusal.value
    assert "\n" not in str(refusal.value)
    assert time.monotonic() - began < 5


def test_a_tower_within_the_limits_is_inlined(tmp_path: Path) -> None:
    path = saved(holding(model([call("f30")], **LINE), *tower(1, 31, RELU)), tmp_path)
    x = torch.randn(2, 9)
    assert torch.equal(import_onnx(path)(x), x.relu())


def test_the_functions_as_onnxruntime_runs_them_are_what_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(holding(model([call("f")], **LINE), function("f", RELU)), tmp_path)
    monkeypatch.setattr("onnx.inliner.inline_local_functions", lambda _: model([node("Tanh", "x")], **LINE))
    with pytest.raises(UserError, match=r"its import and onnxruntime differ by .*so it is not certified"):
        import_onnx(path)
