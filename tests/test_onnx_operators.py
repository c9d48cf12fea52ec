"""Each imported operator against onnxruntime, on batches that the file was not written for."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_models import model, node, saved, weights, whole

import bounds
from certnas.models.formats.onnx import import_onnx

CONV = {"w": weights(4, 3, 3, 2), "b": weights(4, seed=1)}
NORM = {"s": weights(3), "b": weights(3, seed=1), "m": weights(3, seed=2), "v": weights(3, seed=3) ** 2}
FIXED = (1, 3, 6, 7)


def f(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


MODELS: dict[str, onnx.ModelProto] = {
    "conv": model([node("Conv", "x", "w", "b")], CONV),
    "conv, asymmetric pads": model([node("Conv", "x", "w", pads=[0, 1, 2, 0], strides=[2, 1])], CONV),
    "conv, same upper": model([node("Conv", "x", "w", "b", auto_pad="SAME_UPPER", strides=[2, 2])], CONV),
    "conv, same lower": model([node("Conv", "x", "w", auto_pad="SAME_LOWER")], CONV),
    "conv, valid": model([node("Conv", "x", "w", auto_pad="VALID")], CONV),
    "conv, dilated": model([node("Conv", "x", "w", dilations=[2, 3], pads=[1, 1, 1, 1])], CONV),
    "conv, grouped": model([node("Conv", "x", "w", group=3)], {"w": weights(6, 1, 2, 2)}),
    "conv, one dimension": model([node("Conv", "x", "w", pads=[1, 0])], {"w": weights(4, 3, 3)}, shape=("n", 3, 9)),
    "transposed conv": model(
        [node("ConvTranspose", "x", "w", "b", strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0])],
        {"w": weights(3, 4, 3, 3), "b": weights(4)},
    ),
    "batch norm": model([node("BatchNormalization", "x", "s", "b", "m", "v", epsilon=1e-3)], NORM),
    "batch norm, opset 7": model([node("BatchNormalization", "x", "s", "b", "m", "v")], NORM, opset=7),
    "split batch norm": model(
        [node("Mul", "x", "s", to="a"), node("Add", "a", "b")],
        {"s": weights(3, 1, 1), "b": weights(3, 1, 1, seed=1)},
    ),
    "gemm": model(
        [node("Gemm", "x", "w", "b", transB=1, alpha=0.5, beta=2.0)],
        {"w": weights(5, 9), "b": weights(5, seed=1)}, shape=("n", 9),
    ),
    "gemm without a bias": model([node("Gemm", "x", "w")], {"w": weights(9, 5)}, shape=("n", 9)),
    "gemm, opset 7": model([node("Gemm", "x", "w", "b")], {"w": weights(9, 5), "b": weights(1, 5)},
                           shape=(1, 9), opset=7),
    "matmul and add": model([node("MatMul", "x", "w", to="a"), node("Add", "a", "b")],
                            {"w": weights(9, 5), "b": weights(5)}, shape=("n", 9)),
    "matmul with the weight first": model([node("MatMul", "w", "x")], {"w": weights(4, 6)}, shape=("n", 6, 7)),
    "max pool": model([node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1])]),
    "max pool, same upper": model([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")]),
    "max pool, same lower": model([node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER")]),
    "max pool, far pad": model([node("MaxPool", "x", kernel_shape=[3, 3], strides=[1, 1], pads=[0, 0, 1, 1])]),
    "max pool, near pad": model([node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 3], pads=[1, 1, 0, 0])]),
    "max pool, ceil": model([node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)]),
    "max pool, dilated": model([node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1])]),
    "average pool": model([node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])]),
    "average pool, pads counted": model(
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)]
    ),
    "average pool, asymmetric": model([node("AveragePool", "x", kernel_shape=[3, 2], pads=[0, 1, 2, 0])]),
    "average pool, asymmetric, counted": model(
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[0, 1, 2, 0], count_include_pad=1)]
    ),
    "average pool, same": model([node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")]),
    "average pool, ceil": model([node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], opset=19),
    "global average pool": model([node("GlobalAveragePool", "x")]),
    "global max pool": model([node("GlobalMaxPool", "x")]),
    "reduce mean, attribute": model([node("ReduceMean", "x", axes=[2, 3], keepdims=0)], opset=13),
    "reduce mean, input": model([node("ReduceMean", "x", "a")], {"a": whole(-1, 1)}, opset=18),
    "reduce sum": model([node("ReduceSum", "x", "a", keepdims=0)], {"a": whole(1)}),
    "flatten": model([node("Flatten", "x")]),
    "flatten, negative axis": model([node("Flatten", "x", axis=-3)]),
    "reshape": model([node("Reshape", "x", "s")], {"s": whole(0, -1)}),
    "reshape of a fixed batch": model([node("Reshape", "x", "s")], {"s": whole(1, 126)}, shape=FIXED),
    "reshape to minus one first": model([node("Reshape", "x", "s")], {"s": whole(-1, 7, 18)}),
    "reshape, allowzero": model([node("Reshape", "x", "s", allowzero=1)], {"s": whole(-1, 126)}, opset=19),
    "reshape by the computed batch": model(
        [node("Shape", "x", to="shape"), node("Gather", "shape", "zero", to="n"),
         node("Unsqueeze", "n", "zeros", to="n1"), node("Concat", "n1", "rest", to="s", axis=0),
         node("Reshape", "x", "s")],
        {"zero": np.array(0), "zeros": whole(0), "rest": whole(-1)},
    ),
    "transposes to channels last and back": model(
        [node("Transpose", "x", to="a", perm=[0, 3, 1, 2]), node("Conv", "a", "w", to="b"),
         node("Transpose", "b", perm=[0, 2, 3, 1])],
        {"w": weights(4, 7, 2, 2)}, shape=("n", 3, 6, 7),
    ),
    "squeeze, attribute": model([node("ReduceMean", "x", to="a", axes=[2]), node("Squeeze", "a", axes=[2])], opset=11),
    "squeeze, input": model([node("GlobalAveragePool", "x", to="a"), node("Squeeze", "a", "i")], {"i": whole(2, 3)}),
    "unsqueeze": model([node("Unsqueeze", "x", "i")], {"i": whole(1, -1)}),
    "unsqueeze, attribute": model([node("Unsqueeze", "x", axes=[2])], opset=9),
    "concat with a constant": model([node("Concat", "x", "c", axis=1)], {"c": weights(1, 2, 6, 7)}, shape=FIXED),
    "concat of a value twice": model([node("Relu", "x", to="r"), node("Concat", "x", "r", "r", axis=-1)]),
    "split": model(
        [helper.make_node("Split", ["x", "s"], ["a", "b"], axis=1), node("Mul", "a", "b")], {"s": whole(1, 2)}
    ),
    "split, number of outputs": model(
        [helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2), node("Sub", "a", "b")], opset=18
    ),
    "slice": model([node("Slice", "x", "s", "e", "a", "t")],
                   {"s": whole(1, -5), "e": whole(2**62, -1), "a": whole(2, 3), "t": whole(2, 1)}),
    "slice backwards": model([node("Slice", "x", "s", "e", "a", "t")],
                             {"s": whole(-1, 6), "e": whole(-(2**62), 1), "a": whole(1, 3), "t": whole(-1, -2)}),
    "slice, attributes": model([node("Slice", "x", starts=[0, 1], ends=[2, 5], axes=[1, 2])], opset=9),
    "gather": model([node("Gather", "x", "i", axis=1)], {"i": whole(2, 0, -1)}),
    "gather of one": model([node("Gather", "x", "i", axis=2)], {"i": np.array(-2)}),
    "gather of a table": model([node("Gather", "x", "i", axis=3)], {"i": np.array([[0, 1], [5, 2]])}),
    "pad": model([node("Pad", "x", "p", "v")], {"p": whole(0, 0, 1, 0, 0, 0, 2, 3), "v": np.array(0.5, np.float32)}),
    "pad, attributes": model([node("Pad", "x", pads=[0, 1, 0, 0, 0, 2, 0, 1])], opset=9),
    "pad, reflected": model([node("Pad", "x", "p", mode="reflect")], {"p": whole(0, 0, 1, 2, 0, 0, 2, 1)}),
    "pad, edge": model([node("Pad", "x", "p", mode="edge")], {"p": whole(0, 0, 1, 2, 0, 0, 0, 1)}),
    "expand": model([node("GlobalAveragePool", "x", to="a"), node("Expand", "a", "s")], {"s": whole(1, 1, 2, 3)}),
    "tile": model([node("Tile", "x", "r")], {"r": whole(1, 2, 1, 3)}),
    "resize, nearest": model([node("Resize", "x", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric",
                                   nearest_mode="floor")], {"s": f(1, 1, 2, 3)}),
    "resize, linear": model([node("Resize", "x", "", "", "s", mode="linear")], {"s": whole(1, 3, 9, 14)}, shape=FIXED),
    "resize, corners": model([node("Resize", "x", "", "s", mode="linear",
                                   coordinate_transformation_mode="align_corners")], {"s": f(1, 1, 2, 2)}),
    "upsample": model([node("Upsample", "x", "s", mode="nearest")], {"s": f(1, 1, 2, 2)}, opset=9),
    "depth to space": model([node("DepthToSpace", "x", blocksize=2)], shape=("n", 8, 3, 2)),
    "depth to space, CRD": model([node("DepthToSpace", "x", blocksize=2, mode="CRD")], shape=("n", 8, 3, 2)),
    "leaky relu": model([node("LeakyRelu", "x", alpha=0.2)]),
    "prelu": model([node("PRelu", "x", "s")], {"s": weights(3, 1, 1)}),
    "elu": model([node("Elu", "x", alpha=0.7)]),
    "selu": model([node("Selu", "x")]),
    "sigmoid": model([node("Sigmoid", "x")]),
    "tanh": model([node("Tanh", "x")]),
    "softplus": model([node("Softplus", "x")]),
    "hard sigmoid": model([node("HardSigmoid", "x", alpha=0.3)]),
    "hard swish": model([node("HardSwish", "x")]),
    "gelu": model([node("Gelu", "x")], opset=20),
    "exp": model([node("Exp", "x")]),
    "square": model([node("Pow", "x", "p")], {"p": np.array(2.0, np.float32)}),
    "abs": model([node("Abs", "x")]),
    "neg": model([node("Neg", "x")]),
    "clip": model([node("Clip", "x", "l", "h")], {"l": np.array(-0.5, np.float32), "h": np.array(0.4, np.float32)}),
    "clip, attributes": model([node("Clip", "x", min=0.0, max=6.0)], opset=7),
    "max with a number": model([node("Max", "x", "c")], {"c": np.array(0.1, np.float32)}),
    "min with a number": model([node("Min", "c", "x")], {"c": f(0.1)}),
    "sum": model([node("Relu", "x", to="r"), node("Sum", "x", "r", "r")]),
    "mean": model([node("Relu", "x", to="r"), node("Mean", "x", "r")]),
    "division": model([node("Div", "x", "c")], {"c": weights(3, 1, 1)}),
    "one minus": model([node("Sub", "c", "x")], {"c": f(1)}),
    "dropout": model([node("Dropout", "x", ratio=0.5)], opset=10),
    "cast": model([node("Cast", "x", to="c"), node("Relu", "c")]),
    "constant": model(
        [node("Constant", to="c", value=numpy_helper.from_array(weights(3, 1, 1))), node("Mul", "x", "c")]
    ),
    "constant floats": model([node("Constant", to="c", value_floats=[1.0, 2.0, 3.0]), node("Gemm", "x", "w", "c")],
                             {"w": weights(9, 3)}, shape=("n", 9)),
    "constant of shape": model(
        [node("ConstantOfShape", "s", to="c", value=numpy_helper.from_array(f(2.5))), node("Add", "x", "c")],
        {"s": whole(3, 1, 1)},
    ),
    "range and where": model(
        [node("Range", "zero", "three", "one", to="r"), node("Equal", "r", "one", to="e"),
         node("Where", "e", "a", "b", to="c"), node("Mul", "x", "c")],
        {"zero": np.array(0), "three": np.array(3), "one": np.array(1), "a": weights(3, 1, 3), "b": f(1.0)},
        shape=("n", 3, 6, 3),
    ),
    "softmax": model([node("Softmax", "x", axis=-1)]),
    "softmax of channels": model([node("Softmax", "x", axis=1)]),
    "log softmax": model([node("LogSoftmax", "x", axis=-1)]),
    "matmul of two": model(
        [node("Transpose", "x", to="t", perm=[0, 1, 3, 2]), node("Relu", "t", to="r"), node("MatMul", "x", "r")]
    ),
    "einsum": model([node("Einsum", "x", "w", equation="nchw,wk->nkhc")], {"w": weights(7, 2)}),
    "einsum of two": model([node("Relu", "x", to="r"), node("Einsum", "x", "r", equation="nchw,nkhw->nhck")]),
    "layer norm": model([node("LayerNormalization", "x", "s", "b")], {"s": weights(7), "b": weights(7, seed=1)}),
    "layer norm of two axes": model(
        [node("LayerNormalization", "x", "s", axis=-2, epsilon=1e-2)], {"s": weights(6, 7)}
    ),
    "mish": model([node("Mish", "x")], opset=18),
    "softsign": model([node("Softsign", "x")]),
    "sign": model([node("Sign", "x", to="s"), node("Mul", "s", "x")]),
    "max of two": model([node("Neg", "x", to="r"), node("Max", "x", "r", "c")], {"c": weights(7)}),
    "min of two": model([node("Relu", "x", to="r"), node("Min", "r", "x")]),
    "reduce max": model([node("ReduceMax", "x", axes=[1, -1], keepdims=0)], opset=13),
    "reduce min, input": model([node("ReduceMin", "x", "a")], {"a": whole(2)}, opset=18),
    **{
        f"resize, nearest, {where}, {rounding}": model(
            [node("Resize", "x", "", "s", mode="nearest", coordinate_transformation_mode=where,
                  nearest_mode=rounding)],
            {"s": f(1, 1, *scales)}, opset=19,
        )
        for where in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for scales in ((1.5, 2.0),)
    },
    "resize, nearest, smaller": model([node("Resize", "x", "", "s", mode="nearest")], {"s": f(1, 1, 0.5, 0.4)}),
    "resize, nearest, sizes": model([node("Resize", "x", "", "", "s", mode="nearest")], {"s": whole(1, 3, 9, 4)},
                                    shape=FIXED),
    "average pool, dilated": model([node("AveragePool", "x", kernel_shape=[2, 3], dilations=[2, 2])], opset=19),
    "average pool, dilated, padded": model(
        [node("AveragePool", "x", kernel_shape=[2, 2], dilations=[3, 2], pads=[1, 0, 1, 1], strides=[1, 2])], opset=19
    ),
    "average pool, dilated, pads counted": model(
        [node("AveragePool", "x", kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        opset=19,
    ),
    **{
        f"transposed conv, {said}": model([node("ConvTranspose", "x", "w", strides=[2, 3], **more)],
                                          {"w": weights(3, 4, 3, 4)})
        for said, more in {
            "same upper": {"auto_pad": "SAME_UPPER"},
            "same lower": {"auto_pad": "SAME_LOWER"},
            "valid": {"auto_pad": "VALID"},
            "output shape": {"output_shape": [11, 20]},
            "output shape, upper": {"output_shape": [12, 19], "auto_pad": "SAME_UPPER"},
        }.items()
    },
    "channel shuffle": model(
        [node("Reshape", "x", "a", to="r"), node("Transpose", "r", to="t", perm=[0, 2, 1, 3, 4]),
         node("Reshape", "t", "b")],
        {"a": whole(1, 2, 2, 6, 7), "b": whole(1, 4, 6, 7)}, shape=(1, 4, 6, 7),
    ),
    "residual": model(
        [node("Conv", "x", "w", to="a", pads=[1, 1, 1, 1]), node("Relu", "a", to="r"), node("Add", "x", "r")],
        {"w": weights(3, 3, 3, 3)},
    ),
}  # fmt: skip
MODELS["cast"].graph.node[0].attribute.append(helper.make_attribute("to", 1))


@pytest.mark.parametrize("name", MODELS)
def test_an_operator_gives_what_onnxruntime_gives(name: str, tmp_path: Path) -> None:
    """import_onnx compares by itself; here the images differ, and are read one by one by onnxruntime."""
    path = saved(MODELS[name], tmp_path)
    network = import_onnx(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = torch.randn(3, *network.input_shape)
    reference = np.concatenate([session.run(None, {"x": image[None].numpy()})[0] for image in x])
    got = network(x)
    assert got.shape == reference.shape
    assert torch.allclose(got, torch.from_numpy(reference), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_an_operator_can_be_bounded(name: str, tmp_path: Path) -> None:
    network = import_onnx(saved(MODELS[name], tmp_path))
    graph = bounds.trace(network, torch.zeros(2, *network.input_shape))
    bounds.check(graph)
    x = torch.randn(2, *network.input_shape)
    bound = graph.bind(dtype=torch.float64)
    assert torch.allclose(bound(x).float(), network(x), rtol=1e-5, atol=1e-5)
    box = bounds.output_bounds(bound, bounds.Linf(x.double(), 0.1), bounds.IBP())
    y = network(x + 0.1 * torch.randn_like(x).clamp(-1, 1))
    assert (box.lower <= y + 1e-5).all() and (y - 1e-5 <= box.upper).all()


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_is_read(opset: int, tmp_path: Path) -> None:
    """Those that onnxruntime does not know yet are compared with onnx's own reference."""
    layers = [node("Conv", "x", "w", "b", to="c"), node("Relu", "c", to="r"), node("Flatten", "r", to="f")]
    content = model(
        [*layers, node("Gemm", "f", "v", "b5")],
        {**CONV, "v": weights(96, 5), "b5": weights(5)},
        shape=FIXED,
        opset=opset,
    )
    content.ir_version = 8 if opset < 21 else 10
    assert import_onnx(saved(content, tmp_path))(torch.rand(2, 3, 6, 7)).shape == (2, 5)
