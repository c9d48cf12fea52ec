"""ONNX files as exporters write them, and the whole line for each that is refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import model, node, saved, weights, whole
from torch import nn

from certnas.errors import UserError
from certnas.models import ARCHITECTURES, open_model
from certnas.models.formats.onnx import import_onnx
from certnas.models.formats.onnx.importing import OPERATORS
from certnas.models.formats.onnx.site import Step
from certnas.nas.space import DiscreteNetwork, published_genotype

LINE = {"shape": ("n", 9)}


def classifier(**options: object) -> onnx.ModelProto:
    """x [n, 9] -> [n, 5]."""
    return model([node("Gemm", "x", "w")], {"w": weights(9, 5)}, **(LINE | options))


@pytest.mark.parametrize(
    ("name", "exporter", "opset"),
    [
        ("cells", False, 13),
        ("resnet2b", False, 9),
        ("mnist-cnn-small", True, 18),
        pytest.param("cells", True, 20, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_is_what_it_was(name: str, exporter: bool, opset: int, tmp_path: Path) -> None:
    if name == "cells":
        network: nn.Module = DiscreteNetwork(published_genotype("DARTS_V2"), 2, 3, 10, in_channels=1)
        shape: tuple[int, ...] = (1, 8, 8)
    else:
        built = ARCHITECTURES[name]()
        network, shape = built.module, built.input_shape
    network.eval()
    path = tmp_path / "net.onnx"
    options = {"dynamo": True} if exporter else {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(
        network,
        (torch.rand(2, *shape),),
        path,
        opset_version=opset,
        input_names=["x"],
        verbose=False,
        **options,
    )
    opened = open_model(str(path))
    x = torch.rand(2, *shape)
    with torch.no_grad():
        assert torch.allclose(opened.module(x), network(x), rtol=1e-4, atol=1e-5)
    assert opened.input_shape == shape


def test_a_final_softmax_is_left_out_of_a_classifier_and_kept_in_an_import(tmp_path: Path) -> None:
    path = saved(model([node("Gemm", "x", "w", to="a"), node("Softmax", "a", to="b"), node("Identity", "b")],
                       {"w": weights(9, 5)}, **LINE), tmp_path)  # fmt: skip
    x = torch.rand(2, 9)
    logits = open_model(str(path)).module(x)
    assert torch.allclose(logits, x @ torch.from_numpy(weights(9, 5)))
    assert torch.allclose(import_onnx(path)(x), logits.softmax(1))


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    plain = saved(classifier(), tmp_path)
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(plain.read_bytes()))
    opened = open_model(str(tmp_path / "net.onnx.gz"))
    assert opened.name == "net"
    assert opened.sha256 == open_model(str(plain)).sha256


def external(folder: Path, **entries: object) -> Path:
    """The classifier with its weight in another file, entries of its place changed."""
    content = classifier()
    tensor = content.graph.initializer[0]
    (folder / "net.bin").write_bytes(b"head" + tensor.raw_data)
    place = {"location": "net.bin", "offset": 4, "length": len(tensor.raw_data)} | entries
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in place.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return saved(content, folder)


def test_external_data_beside_the_file_is_read(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    assert open_model(str(external(tmp_path))).sha256 == open_model(str(saved(classifier(), inside))).sha256


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../secret.bin"},
        {"location": "/etc/passwd"},
        {"location": ""},
        {"location": "missing.bin"},
        {"location": "link.bin"},
        {"offset": -4},
        {"offset": 2**40},
        {"length": 2**40},
        {"offset": "x"},
    ],
)
def test_external_data_elsewhere_is_refused(entries: dict[str, object], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(UserError, match=r"external data of tensor 'w'") as refusal:
        import_onnx(external(folder, **entries))
    assert "\n" not in str(refusal.value)


def renamed(content: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    change(content)
    return content


def with_tensor(shape: list[int]) -> onnx.ModelProto:
    content = classifier()
    del content.graph.initializer[0].dims[:]
    content.graph.initializer[0].dims.extend(shape)
    return content


QUANTISED = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8), "w": np.ones((2, 3, 3, 3), np.uint8)}
REFUSALS: dict[str, tuple[onnx.ModelProto, str]] = {
    "an unknown operator": (
        model([node("Relu", "x", to="a"), node("GRU", "a")]),
        "no importer for ONNX operator GRU at node 1 'gru_y'; supported: Abs, Add, And, ",
    ),
    "another domain": (
        model([helper.make_node("Relu", ["x"], ["y"], domain="com.evil")]),
        "no importer for ONNX operator com.evil.Relu at node 0; supported: ",
    ),
    "an old opset": (model([node("Relu", "x")], opset=6),
                     "ONNX opset 6 is not supported; export with opset 7 or newer"),
    "two inputs": (
        model([node("Add", "x", "z")], inputs=("x", "z")),
        "the ONNX graph has 2 inputs (x, z); accepted: one, the images",
    ),
    "a free height": (
        model([node("Relu", "x")], shape=("n", 3, "h", 7)),
        "the ONNX input 'x' has shape [0, 3, 0, 7] (0 stands for a free size); accepted: fixed sizes, "
        "behind a batch where there is one, at most 134217728 elements",
    ),
    "an absurd input": (model([node("Relu", "x")], shape=(1, 2**31, 2**31)), "the ONNX input 'x' has shape "),
    "an absurd constant": (
        model([node("ConstantOfShape", "s", to="c"), node("Add", "x", "c")], {"s": whole(2**40, 2**40)}),
        "ONNX ConstantOfShape at node 0 'constantofshape_c': shape [1099511627776, 1099511627776] has ",
    ),
    "an absurd expansion": (
        model([node("Expand", "x", "s")], {"s": whole(1, 3, 2**24, 7)}, shape=(1, 3, 1, 7)),
        "ONNX Expand at node 0 'expand_y': shape [1, 3, 16777216, 7] has 352321536 elements",
    ),
    "an absurd pad": (
        model([node("Pad", "x", "p")], {"p": whole(0, 0, 0, 2**40, 0, 0, 0, 2**40)}),
        "ONNX Pad at node 0 'pad_y': shape ",
    ),
    "an absurd tile": (model([node("Tile", "x", "r")], {"r": whole(1, 1, 1, 2**50)}), "ONNX Tile at node 0 'tile_y': "),
    "an absurd range": (
        model([node("Range", "a", "b", "c", to="r"), node("Add", "x", "r")],
              {"a": np.array(0), "b": np.array(2**60), "c": np.array(1)}),
        "ONNX Range at node 0 'range_r': from 0 to 1152921504606846976 by 1",
    ),
    "absurd work": (
        model(
            [node("ConstantOfShape", "s", to="w"), node("MatMul", "w", "w", to="v"), node("MatMul", "x", "v")],
            {"s": whole(3000, 3000)}, shape=("n", 3000),
        ),
        "ONNX MatMul at node 1 'matmul_v': more than 5e+10 floating-point operations an image",
    ),
    "a tensor of another shape": (with_tensor([9, 6]),
                                  "ONNX initializer: tensor 'w' does not match its shape"),
    "a negative shape": (with_tensor([-9, -5]), "ONNX initializer: tensor 'w' has shape [-9, -5]"),
    "an absurd shape": (with_tensor([2**40, 2**20]), "ONNX initializer: tensor 'w' has shape [1099511627776, 1048576]"),
    "a value from nowhere": (model([node("Relu", "z")]),
                             "ONNX Relu at node 0 'relu_y' reads 'z', which nothing before it writes"),
    "a mixed batch": (
        model([node("Transpose", "x", perm=[1, 0, 2, 3])]),
        "ONNX Transpose at node 0 'transpose_y': perm [1, 0, 2, 3] moves the batch dimension",
    ),
    "a sum over the batch": (model([node("ReduceSum", "x")]),
                             "ONNX ReduceSum at node 0 'reducesum_y': sums over the batch "),
    "a lost batch": (
        model([node("Reshape", "x", "s")], {"s": whole(-1)}, shape=("n", 3, 6, 7)),
        "ONNX Reshape at node 0 'reshape_y': shape [126] does not keep the batch of 1 as its first dimension",
    ),
    "no dependence": (
        model([node("Relu", "c")], {"c": weights(2, 3)}),
        "the ONNX network's output 'y' does not depend on its input",
    ),
    "quantised layers": (
        model([node("QuantizeLinear", "x", "s", "z", to="q"), node("QLinearConv", *"qszwszsz", to="r"),
               node("DequantizeLinear", "r", "s", "z")], QUANTISED),
        "no importer for ONNX operator QuantizeLinear at node 0 'quantizelinear_q'",
    ),
    "quantised weights": (
        model([node("DequantizeLinear", "w", "s", "z", to="v"), node("Conv", "x", "v")], QUANTISED),
        "no importer for ONNX operator DequantizeLinear at node 0 'dequantizelinear_v'",
    ),
    "a subgraph": (
        renamed(classifier(), lambda m: m.graph.node[0].attribute.append(
            helper.make_attribute("g", helper.make_graph([], "g", [], [])))),
        "ONNX node 0 'gemm_y': attribute 'g' is a graph; accepted: numbers and tensors",
    ),
    "training mode": (
        model([node("BatchNormalization", "x", "s", "b", "m", "v", training_mode=1)],
              {"s": weights(3), "b": weights(3), "m": weights(3), "v": weights(3) ** 2}),
        "ONNX BatchNormalization at node 0 'batchnormalization_y': is in training mode or per unit; export the network",
    ),
    "a malformed attribute": (
        model([node("Conv", "x", "w", strides=[1, 1, 1])], {"w": weights(3, 3, 2, 2)}),
        "ONNX Conv at node 0 'conv_y': strides, dilations and pads do not fit a kernel [2, 2] on [6, 7]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_imported_is_named_on_one_line(case: str, tmp_path: Path) -> None:
    content, line = REFUSALS[case]
    path = saved(content, tmp_path)
    with pytest.raises(UserError) as refusal:
        import_onnx(path)
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x07", bytes(range(256)) * 20])
def test_what_is_no_onnx_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is empty|cannot read .* as ONNX"):
        open_model(str(path))


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certnas.models.formats.onnx.reading.LARGEST_FILE", 2**20)
    path = tmp_path / "net.onnx.gz"
    path.write_bytes(gzip.compress(bytes(2**20)))
    with pytest.raises(UserError, match=r"unpacks to more than 262144 bytes"):
        open_model(str(path))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match=r"as gzip: it is truncated"):
        open_model(str(path))


def test_an_import_that_differs_from_onnxruntime_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(model([node("Relu", "x")]), tmp_path)
    monkeypatch.setitem(OPERATORS, "Relu", lambda site: Step(torch.tanh))
    with pytest.raises(UserError, match=r"its import and onnxruntime differ by .*so it is not certified"):
        import_onnx(path)


def test_names_that_become_the_same_stay_apart(tmp_path: Path) -> None:
    content = model(
        [node("Add", "x", "a.b", to="c"), node("Add", "c", "a_b")],
        {"a.b": weights(3, 1, 1), "a_b": weights(3, 1, 1, seed=1)},
    )
    network = import_onnx(saved(content, tmp_path))
    assert list(network.state_dict()) == ["weights.a_b", "weights.a_b_1"]


def test_numbers_of_any_width_are_read_as_float32(tmp_path: Path) -> None:
    content = classifier()
    content.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(9, 5).astype(np.float64), "w"))
    content.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    content.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    opened = open_model(str(saved(content, tmp_path)))
    assert {p.dtype for p in opened.module.parameters()} == {torch.float32}
