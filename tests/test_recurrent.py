"""ONNX's LSTM, unrolled, against onnxruntime; its bounds hold what onnxruntime gives."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx_models import model, weights
from operators import Function
from soundness import METHODS, Ball, output_bounds

import bounds
from certnas.models.formats.onnx.recurrent import lstm
from certnas.models.formats.onnx.site import Site

SETTINGS = {
    "forward": ("forward", ("w", "r")),
    "bias": ("forward", ("w", "r", "b")),
    "reverse, states": ("reverse", ("w", "r", "b", "", "h", "c")),
    "bidirectional": ("bidirectional", ("w", "r", "b")),
}
TIME, INPUTS, HIDDEN = 3, 2, 2


@pytest.mark.parametrize("name", SETTINGS)
def test_an_unrolled_lstm(name: str) -> None:
    """All three outputs, side by side."""
    direction, given = SETTINGS[name]
    d = 2 if direction == "bidirectional" else 1
    constants = {
        "w": weights(d, 4 * HIDDEN, INPUTS), "r": weights(d, 4 * HIDDEN, HIDDEN, seed=1),
        "b": weights(d, 8 * HIDDEN, seed=2), "h": weights(d, 1, HIDDEN, seed=3), "c": weights(d, 1, HIDDEN, seed=4),
    }  # fmt: skip
    used = {key: constants[key] for key in given if key}
    node = helper.make_node(
        "LSTM", ["x", *given], ["y0", "y1", "y2"], hidden_size=HIDDEN, direction=direction
    )
    content = model([node], used, shape=(TIME, 1, INPUTS), opset=14, output="y0")
    content.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("y1", "y2")
    )
    session = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [torch.empty(1, TIME, 1, INPUTS, device="meta")]
    inputs += [torch.from_numpy(constants[key]) if key else None for key in given]
    attributes = {"direction": direction.encode(), "hidden_size": HIDDEN, "outputs": 3}
    step = lstm(Site("LSTM", "node 0", 14, 1, attributes, tuple(inputs)))
    fixed = [inputs[i].double() for i in step.inputs[1:]]
    network = Function(lambda x: torch.cat([y.flatten(1) for y in step.function(x, *fixed)], 1))

    def run(images: torch.Tensor) -> np.ndarray:
        given = (session.run(None, {"x": image.numpy()}) for image in images)
        return np.stack([np.concatenate([y.flatten() for y in outputs]) for outputs in given])

    x = torch.randn(40, TIME, 1, INPUTS, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(network(x.double()).numpy(), run(x), rtol=1e-5, atol=1e-5)
    center = torch.zeros(1, TIME, 1, INPUTS).double()
    bound = bounds.trace(network, center).bind(dtype=torch.float64)
    outputs = run(torch.cat([x.clamp(-0.5, 0.5), x.sign() * 0.5]))
    for key in ("ibp", "crown-ibp", "zonotope", "crown"):
        found = output_bounds(bound, Ball("linf", center, 0.5).region(), METHODS[key])
        assert (found.lower.numpy() <= outputs + 1e-6).all(), key
        assert (found.upper.numpy() >= outputs - 1e-6).all(), key
