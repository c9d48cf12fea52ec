"""`certnas inspect`: what it says of a network, and that what it suggests works."""

import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from onnx_models import model, node, saved, weights
from torch import nn

import bounds
from certnas.models import open_model
from certnas.models.inspection import inspect
from cli.main import main


def said(*words: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(main, ["inspect", *words], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.output


def test_an_embedded_network_is_counted() -> None:
    opened = open_model("digits-cnn")
    found = inspect(opened)
    counts = {operator.name: (operator.count, operator.units) for operator in found.operators}
    convolutions = [m for m in opened.module.modules() if isinstance(m, nn.Conv2d)]
    assert counts["conv2d"][0] == len(convolutions)
    assert found.parameters == sum(p.numel() for p in opened.module.parameters())
    assert found.relus == counts["relu"][1] <= found.neurons
    assert found.unsupported == ()
    assert list(found.costs) == list(bounds.METHODS)
    work = [found.costs[name].multiplications for name in ("ibp", "crown-ibp", "crown", "alpha-crown")]
    assert work == sorted(work)


def test_the_cost_of_intervals_is_that_of_two_evaluations(tmp_path: Path) -> None:
    path = saved(model([node("Conv", "x", "w", to="c"), node("Relu", "c", to="r"), node("Flatten", "r", to="f"),
                        node("Gemm", "f", "v")], {"w": weights(4, 3, 3, 2), "v": weights(96, 5)}),
                 tmp_path)  # fmt: skip
    found = inspect(open_model(str(path)))
    per_image = 96 * 18 + 96 + 96 + 96 * 5  # convolution, ReLU, flatten, dense
    assert found.costs["ibp"].multiplications == 2 * per_image
    assert found.neurons == found.relus == 96


def test_the_report_names_what_a_user_needs(tmp_path: Path) -> None:
    path = saved(model([node("Conv", "x", "w", to="c"), node("Sigmoid", "c", to="r"), node("Flatten", "r", to="f"),
                        node("Gemm", "f", "v")], {"w": weights(4, 3, 3, 2), "v": weights(96, 5)}),
                 tmp_path)  # fmt: skip
    text = said(str(path), "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--channels", "bgr")
    assert "reads 3 × 6 × 7, 5 classes; 552 parameters" in text
    assert "96 neurons, 0 of them ReLU" in text
    assert "normalisation: (x − mean) / std with mean 0.5, 0.5, 0.5 and std 0.25, 0.25, 0.25" in text
    assert (
        f"certify it with:  certnas certify {path} --channels bgr --mean=0.5,0.5,0.5 --std=0.25,0.25,0.25"
        in text
    )


@pytest.mark.parametrize(
    ("first", "line"),
    [
        ("Sub", "in the graph: sub"),
        ("Relu", "none found: the network reads [0, 1] pixels as they are"),
    ],
)
def test_normalisation_inside_the_graph_is_found(first: str, line: str, tmp_path: Path) -> None:
    inputs = ("x", "m") if first == "Sub" else ("x",)
    path = saved(
        model([node(first, *inputs, to="a"), node("Flatten", "a")], {"m": weights(3, 1, 1)}), tmp_path
    )
    assert inspect(open_model(str(path))).normalisation == line


def test_an_operator_without_a_rule_is_named_with_its_position(tmp_path: Path) -> None:
    path = saved(model([node("Flatten", "x", to="a"), node("Gemm", "a", "w", to="b"), node("Erf", "b", to="c"),
                        node("Relu", "c")], {"w": weights(126, 5)}), tmp_path)  # fmt: skip
    text = said(str(path))
    assert (
        "cannot be bounded: no rule for aten.erf.default at node 'erf' (output ['N', 5], in nodes.2_Erf)"
        in text
    )
    assert "no rule" in text.split("erf", 1)[1].splitlines()[0]
    assert "certify it with" not in text
    assert inspect(open_model(str(path))).costs == {}


def test_the_suggested_command_certifies(tmp_path: Path) -> None:
    text = said("digits-cell")
    words = shlex.split(text.split("certify it with:  certnas ")[1])
    result = CliRunner().invoke(main, [*words, "--images", "2", "--method", "ibp", "--no-attack"])
    assert result.exit_code == 0, result.output


def test_a_refusal_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for words, line in (
        (["nothing.onnx"], "certnas: error: cannot read 'nothing.onnx': No such file or directory\n"),
        (
            ["digits-cnn", "--input-shape", "3,0"],
            "certnas: error: --input-shape takes channels, height and width: 3,32,32, or the length of a row: 30\n",
        ),
    ):
        result = CliRunner().invoke(main, ["inspect", *words])
        assert (result.exit_code, result.stderr) == (2, line)


def test_a_factory_is_asked_for_its_images() -> None:
    text = said("torchvision.models:resnet18", "--arch-option", "num_classes=5", "--input-shape", "3,32,32")
    assert "reads 3 × 32 × 32, 5 classes" in text
    assert "certnas certify torchvision.models:resnet18 --arch-option num_classes=5 --data cifar10" in text
    assert torch.is_grad_enabled()
