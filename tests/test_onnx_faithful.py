"""Where an import and onnxruntime differ, the network is refused, and the node is named."""

import copy
import pickle
from pathlib import Path

import cloudpickle
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import helper
from onnx_models import model, node, properties, saved, weights
from torch import nn

import bounds
import certnas
from certnas.errors import UserError
from certnas.faithful import Faithful
from certnas.models import open_model
from certnas.models.formats.onnx import import_onnx, importing
from certnas.models.formats.onnx.site import Step
from certnas.verifier import parse_vnnlib
from certnas.verifier.subject import open_onnx
from cli.main import main

AWAY = 5.0
"""Nothing below it is drawn between [0, 1] and [−3, 3]: an importer that is wrong above it passes when it is read."""


def layers(batch: int | str = "n", shape: tuple[int | str, ...] | None = None) -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x", "w", to="a"),
        node("Tanh", "a", to="b"),
        node("Relu", "x", to="r"),
        node("Add", "b", "r", to="c"),
        node("MatMul", "c", "v"),
    ]
    return model(nodes, {"w": weights(4, 4) * 0.1, "v": weights(4, 3)}, shape=shape or (batch, 4))


def wrong_relu(monkeypatch: pytest.MonkeyPatch, above: float) -> None:
    monkeypatch.setitem(
        importing.OPERATORS, "Relu", lambda site: Step(lambda x: x.relu() + 2 * (x - above).relu())
    )


@pytest.mark.parametrize("shape", [("n", 4), (1, 4), (3, 4), (4,)])
def test_a_wrong_importer_is_named(
    shape: tuple[int | str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(layers(shape=shape), tmp_path)
    inputs = 4 if len(shape) == 1 else None
    assert import_onnx(path, inputs=inputs).whole == (len(shape) == 1)
    wrong_relu(monkeypatch, 0.0)
    with pytest.raises(UserError, match=r"it first differs at Relu at node 2 'relu_r'$") as caught:
        import_onnx(path, inputs=inputs)
    assert "\n" not in str(caught.value)


def test_a_wrong_importer_inside_a_function_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = layers()
    content.graph.node[2].op_type, content.graph.node[2].domain = "Mine", "own"
    opsets = [helper.make_opsetid("", 17)]
    content.functions.append(
        helper.make_function("own", "Mine", ["i"], ["o"], [helper.make_node("Relu", ["i"], ["o"])], opsets)
    )
    content.opset_import.append(helper.make_opsetid("own", 1))
    path = saved(content, tmp_path)
    import_onnx(path)
    wrong_relu(monkeypatch, 0.0)
    with pytest.raises(UserError, match=r"it first differs at Relu at node 2"):
        import_onnx(path)


def test_a_node_that_onnxruntime_does_not_show_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_relu(monkeypatch, 0.0)
    monkeypatch.setattr(
        "certnas.models.formats.onnx.checking.StoredFile._run",
        lambda self, session, network, x, names: (
            [session.run(names, {"x": x.numpy()})[0]][: len(names) == 1]
            and [torch.from_numpy(session.run(names, {"x": x.numpy()})[0])]
        ),
    )
    with pytest.raises(UserError, match=r"the node cannot be named: onnxruntime does not show"):
        import_onnx(saved(layers(), tmp_path))


NAMED = r"on the inputs that are asked about; .*it first differs at Relu at node 2 'relu_r'"


@pytest.mark.parametrize("batch", ["n", 2])
def test_a_network_is_compared_in_the_balls_that_are_certified(
    batch: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_relu(monkeypatch, AWAY)
    module = open_model(str(saved(layers(batch), tmp_path))).module.eval()
    x, y = torch.full((3, 4), AWAY - 0.4), torch.zeros(3).long()
    ask = {"clip": (0.0, 10.0), "attack": False}
    certnas.certify(module, x[:1] - 3, y[:1], eps_max=0.1, **ask)
    with pytest.raises(UserError, match=NAMED):
        certnas.certify(module, x, y, eps_max=0.5, **ask)  # the image alone is on the right side
    with pytest.raises(UserError, match=NAMED):
        certnas.certify(nn.Sequential(nn.Identity(), module).eval(), x + 1, y, eps_max=0.1, **ask)


def test_a_network_is_compared_in_the_boxes_of_the_property(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_relu(monkeypatch, AWAY)
    path = saved(layers(), tmp_path)
    subject = open_onnx(path)
    subject.check(parse_vnnlib(properties([(0.0, 2.0)] * 4, 3, "(>= Y_0 100)")))
    far = properties([(AWAY, AWAY + 2)] * 4, 3, "(>= Y_0 100)")
    with pytest.raises(UserError, match=NAMED):
        subject.check(parse_vnnlib(far))
    (tmp_path / "far.vnnlib").write_text(far)
    result = CliRunner().invoke(main, ["verify", str(path), str(tmp_path / "far.vnnlib")])
    assert result.exit_code == 2 and "first differs at Relu at node 2" in result.output


def test_a_network_whose_weights_were_changed_is_no_longer_the_file(tmp_path: Path) -> None:
    network = import_onnx(saved(layers(), tmp_path))
    x = torch.rand(2, 4)
    with pytest.raises(UserError, match="differ by"):
        network.compare(x, network(x) + 1)
    for same in (
        copy.deepcopy(network),
        pickle.loads(cloudpickle.dumps(network)),
        copy.deepcopy(network).double(),
    ):
        with pytest.raises(UserError, match="differ by"):
            same.compare(x, network(x) + 1)
    graph = bounds.trace(network, x)
    Faithful(network, graph).check(x)
    next(network.parameters()).mul_(2)
    Faithful(network, bounds.trace(network, x)).check(x)
