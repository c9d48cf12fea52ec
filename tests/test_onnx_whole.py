"""ONNX graphs without a batch dimension, with several outputs, and with outputs that nothing reads."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from onnx_models import model, node, saved, weights, whole

import bounds
from certnas.errors import UserError
from certnas.models import open_model
from certnas.models.formats.onnx import OutputChosen, import_onnx
from certnas.verifier.subject import open_onnx
from cli.main import main

A, B = weights(6, 5), weights(2, 6, seed=1)
GRAPHS: dict[str, tuple[Sequence[int], list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "row": ((5,), [node("MatMul", "x", "a", to="h"), node("Relu", "h", to="r"), node("MatMul", "r", "b")],
            {"a": A.T, "b": B.T}),
    "column": ((5, 1), [node("MatMul", "a", "x", to="h"), node("Relu", "h", to="r"), node("MatMul", "b", "r")],
               {"a": A, "b": B}),
    "vector": ((5,), [node("MatMul", "a", "x", to="h"), node("Relu", "h", to="r"), node("MatMul", "b", "r")],
               {"a": A, "b": B}),
    "one number": ((1,), [node("Mul", "x", "c", to="h"), node("Relu", "h", to="r"), node("Concat", "r", "x", axis=0)],
                   {"c": weights(1)}),
    "matrix": ((12, 8), [node("MatMul", "a", "x", to="h"), node("Relu", "h", to="r"), node("Add", "r", "c")],
               {"a": weights(3, 12), "c": weights(3, 1)}),
    "two matrices": ((4, 3), [node("Transpose", "x", to="t"), node("Gemm", "t", "a", "c", transB=1)],
                     {"a": weights(2, 4), "c": weights(2)}),
    "gemm on the right": ((4, 3), [node("Gemm", "a", "x", "c", transA=1, alpha=0.5, beta=2.0)],
                          {"a": weights(4, 2), "c": weights(2, 1)}),
    "wider constant": ((5,), [node("Add", "x", "c", to="h"), node("Relu", "h")], {"c": weights(3, 1, 5)}),
    "reshape": ((12, 8), [node("Reshape", "x", "s", to="h"), node("Relu", "h")], {"s": whole(-1)}),
    "flatten": ((4, 3, 2), [node("Flatten", "x", to="h", axis=2), node("Relu", "h")], {}),
    "squeeze": ((1, 4, 1), [node("Squeeze", "x", to="h"), node("Relu", "h", to="r"), node("Unsqueeze", "r", "s")],
                {"s": whole(0, 2)}),
    "transpose": ((4, 3), [node("Transpose", "x", to="h", perm=[1, 0]), node("Relu", "h")], {}),
    "gather": ((4, 3), [node("Gather", "x", "i", to="h"), node("Relu", "h")], {"i": whole(3, 0, 0)}),
    "gather one": ((4, 3), [node("Gather", "x", "i", to="h", axis=-1), node("Relu", "h")], {"i": np.array(2)}),
    "slice": ((6, 3), [node("Slice", "x", "s", "e", to="h"), node("Relu", "h")], {"s": whole(1), "e": whole(4)}),
    "split": ((6, 2), [helper.make_node("Split", ["x"], ["p", "q"], axis=0), node("Sub", "p", "q")], {}),
    "concat": ((2, 3), [node("Concat", "x", "c", to="h", axis=0), node("Relu", "h")], {"c": weights(1, 3)}),
    "sum of all": ((4, 3), [node("Relu", "x", to="h"), node("ReduceSum", "h")], {}),
    "greatest of all": ((4, 3), [node("Relu", "x", to="h"), node("ReduceMax", "h")], {}),
    "greatest": ((4, 3), [node("ReduceMax", "x", to="h", axes=[0], keepdims=0), node("Relu", "h")], {}),
    "least": ((4, 3), [node("ReduceMin", "x", to="h", axes=[-1]), node("Relu", "h")], {}),
    "einsum": ((4, 3), [node("Einsum", "x", "a", to="h", equation="ij,jk->ki"), node("Relu", "h")],
               {"a": weights(3, 2)}),
    "einsum of two": ((4, 3), [node("Einsum", "x", "x", to="h", equation="ij, kj"), node("Relu", "h")], {}),
    "einsum from the left": ((4, 3), [node("Einsum", "a", "x", to="h", equation="zi,ij->jz"), node("Relu", "h")],
                             {"a": weights(2, 4)}),
    "layer normalisation": ((4, 3), [node("LayerNormalization", "x", "g", "b", to="h", axis=0), node("Relu", "h")],
                            {"g": weights(4, 3), "b": weights(4, 3, seed=1)}),
    "layer normalisation of rows": ((4, 3), [node("LayerNormalization", "x", "g", to="h"), node("Relu", "h")],
                                    {"g": weights(3)}),
    "lstm": ((4, 1, 3), [node("LSTM", "x", "w", "r", to="h", hidden_size=2), node("Reshape", "h", "t")],
             {"w": weights(1, 8, 3), "r": weights(1, 8, 2, seed=1), "t": whole(-1)}),
    "lstm of two sequences": ((4, 2, 3), [node("LSTM", "x", "w", "r", to="h", hidden_size=2),
                                          node("Reshape", "h", "t")],
                              {"w": weights(1, 8, 3), "r": weights(1, 8, 2, seed=1), "t": whole(-1)}),
    "mean": ((4, 3), [node("ReduceMean", "x", to="h", axes=[0], keepdims=0), node("Relu", "h")], {}),
    "pad": ((2, 3), [node("Pad", "x", "p", to="h"), node("Relu", "h")], {"p": whole(1, 0, 0, 2)}),
    "expand": ((3,), [node("Expand", "x", "s", to="h"), node("Relu", "h")], {"s": whole(2, 2, 3)}),
    "tile": ((2, 3), [node("Tile", "x", "s", to="h"), node("Relu", "h")], {"s": whole(2, 1)}),
    "shape": ((4, 3), [node("Shape", "x", to="s"), node("Gather", "s", "i", to="j"), node("Reshape", "x", "j", to="h"),
                       node("Neg", "h")], {"i": whole(1, 0)}),
    "convolution": ((3, 6, 7), [node("Unsqueeze", "x", "s", to="h"), node("Conv", "h", "w", "b", to="c"),
                                node("Relu", "c", to="r"), node("MaxPool", "r", to="m", kernel_shape=[2, 2]),
                                node("Squeeze", "m", "s", to="z"), node("Reshape", "z", "t")],
                    {"s": whole(0), "w": weights(2, 3, 3, 3), "b": weights(2), "t": whole(-1)}),
}  # fmt: skip


def graph(name: str) -> onnx.ModelProto:
    shape, nodes, constants = GRAPHS[name]
    return model(nodes, constants, shape=shape)


@pytest.mark.parametrize("name", GRAPHS)
def test_all_of_the_input_is_one_image(name: str, tmp_path: Path) -> None:
    """Import and onnxruntime are compared when it is opened; here are the bounds, on points of a ball of each image."""
    path, shape = saved(graph(name), tmp_path), tuple(GRAPHS[name][0])
    network = import_onnx(path, inputs=int(np.prod(shape)))
    assert network.whole and network.input_shape == shape
    traced = bounds.trace(network, torch.zeros(2, *shape))
    bound = traced.bind(dtype=torch.float64)
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    region, count = bounds.Linf(x, 0.2), int(np.prod(traced.output_shape))
    rows = torch.eye(count, dtype=torch.float64).reshape(1, count, *traced.output_shape)
    lower = bounds.lower_bounds(bound, region, rows.expand(3, *rows.shape[1:]), bounds.Crown())
    way = torch.rand(200, 3, *shape, dtype=torch.float64) * 2 - 1
    values = torch.stack([bound(x + 0.2 * w).reshape(3, count) for w in [*way, *way.sign()]])
    assert (values.amin(0) >= lower - 1e-9).all()
    subject = open_onnx(path, inputs=int(np.prod(shape)))
    assert subject.replay is not None
    again = subject.replay(x[0].numpy().astype(np.float32).reshape(-1))
    assert np.allclose(again, bound(x[:1].float().double()).reshape(-1), atol=1e-5)


def test_the_number_of_inputs_says_whether_the_first_dimension_is_a_batch(tmp_path: Path) -> None:
    path = saved(model([node("MatMul", "x", "a")], {"a": weights(8, 3)}, shape=(12, 8)), tmp_path)
    for inputs, shape in ((None, (8,)), (8, (8,)), (96, (12, 8))):
        assert import_onnx(path, inputs=inputs).input_shape == shape


def test_a_free_batch_whose_images_mix_is_refused(tmp_path: Path) -> None:
    nodes = [node("MatMul", "a", "x", to="h"), node("Relu", "h")]
    with pytest.raises(UserError, match="mixes the images of a batch"):
        import_onnx(saved(model(nodes, {"a": A}, shape=("n", 5)), tmp_path))
    with pytest.raises(UserError, match="accepted: fixed sizes"):
        import_onnx(saved(model([node("Relu", "x")], shape=("n",)), tmp_path))


def test_an_operator_that_takes_the_first_dimension_for_a_batch_needs_one_of_one(tmp_path: Path) -> None:
    nodes = [node("Conv", "x", "w", to="h"), node("Reshape", "h", "t")]
    content = model(nodes, {"w": weights(2, 3, 3, 3), "t": whole(-1)}, shape=(2, 3, 6, 7))
    with pytest.raises(UserError, match=r"does not keep the batch of 2"):
        import_onnx(saved(content, tmp_path))


def test_logits_in_a_column_are_classes(tmp_path: Path) -> None:
    opened = open_model(str(saved(graph("column"), tmp_path)))
    assert (opened.input_shape, opened.classes) == ((5, 1), 2)


def two_headed() -> onnx.ModelProto:
    content = model(
        [node("Relu", "x", to="h"), node("MatMul", "h", "a", to="action"), node("MatMul", "h", "b", to="value")],
        {"a": weights(4, 3), "b": weights(4, 2)}, shape=("n", 4), output="action",
    )  # fmt: skip
    content.graph.output.append(helper.make_tensor_value_info("value", TensorProto.FLOAT, None))
    return content


def test_of_several_outputs_one_is_taken_and_said(tmp_path: Path) -> None:
    path = saved(two_headed(), tmp_path)
    with pytest.warns(
        OutputChosen, match=r"2 outputs: action, value; this uses 'action'; name one with --output"
    ):
        assert open_model(str(path)).classes == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = open_model(str(path), output="value")
    assert opened.classes == 2 and "output 'value' of action, value" in opened.origin
    with pytest.raises(UserError, match="no output 'q'; it has action, value"):
        open_model(str(path), output="q")
    with pytest.raises(UserError, match="it takes no output name"):
        open_model("digits-cnn", output="q")


@pytest.mark.filterwarnings("always::UserWarning")
def test_commands_say_and_take_the_output(tmp_path: Path) -> None:
    path, runner = saved(two_headed(), tmp_path), CliRunner()
    prop = tmp_path / "p.vnnlib"
    names = ["X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1"]
    text = "".join(f"(declare-const {name} Real)" for name in names)
    text += "".join(f"(assert (>= {name} 0))(assert (<= {name} 1))" for name in names[:4])
    prop.write_text(text + "(assert (>= Y_0 100))")
    assert runner.invoke(main, ["inspect", str(path)]).stderr.count("this uses 'action'") == 1
    chosen = runner.invoke(main, ["inspect", str(path), "--output", "value"])
    assert "output 'value' of action, value" in chosen.stdout and not chosen.stderr
    assert f"{path} --output value --data" in chosen.stdout
    first = runner.invoke(main, ["verify", str(path), str(prop)])
    assert first.exit_code == 2 and "2 outputs, the network 4 and 3" in first.stderr
    assert "unsat" in runner.invoke(main, ["verify", str(path), str(prop), "--output", "value"]).stdout
    out = str(tmp_path / "v.safetensors")
    assert runner.invoke(main, ["convert", str(path), out, "--output", "value"]).exit_code == 0
    assert open_model(out).classes == 2


def test_optional_outputs_that_nothing_reads_are_left_out(tmp_path: Path) -> None:
    dropout = helper.make_node("Dropout", ["x"], ["d", "mask"], ratio=0.5)
    path = saved(
        model([dropout, node("MatMul", "d", "a")], {"a": weights(3, 2)}, shape=("n", 3), opset=10), tmp_path
    )
    x = torch.rand(2, 3)
    assert torch.allclose(import_onnx(path)(x), x @ torch.from_numpy(weights(3, 2)))
    read = model(
        [dropout, node("Cast", "mask", to="m", to_=1), node("Add", "d", "m")], shape=("n", 3), opset=10
    )
    read.graph.node[1].attribute[0].name = "to"
    with pytest.raises(UserError, match="2 outputs are named where it gives 1"):
        import_onnx(saved(read, tmp_path))


def test_batch_normalisation_with_five_outputs_goes_by_its_stored_statistics(tmp_path: Path) -> None:
    names = dict(zip("gbmv", [*weights(3, 4), np.abs(weights(4, seed=1)) + 0.1], strict=True))
    five = helper.make_node("BatchNormalization", ["x", *names], ["y", "s", "t", "u", "v2"])
    path = saved(model([five], names, shape=("n", 4), opset=9), tmp_path)
    with pytest.warns(
        OutputChosen, match="names s, t, u, v2, which nothing reads: it is imported in evaluation mode"
    ):
        network = import_onnx(path)
    x = torch.randn(5, 4)
    g, b, m, v = (torch.from_numpy(value) for value in names.values())
    assert torch.allclose(network(x), (x - m) / (v + 1e-5).sqrt() * g + b, atol=1e-5)
