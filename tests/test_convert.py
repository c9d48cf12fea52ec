"""`certnas convert`: what is written is the network, preprocessing inside, or nothing is written."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx_models import model, node, saved, weights
from safetensors.torch import load_file

from certnas.errors import UserError
from certnas.models import conversion, open_model
from certnas.models.conversion import convert
from cli.main import main

NUMBERS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.5)}


def network(folder: Path, **options: Any) -> Any:
    """Channels last, with a normalisation and a batch that is fixed in the file."""
    path = saved(model([node("Transpose", "x", to="t", perm=[0, 3, 1, 2]), node("Conv", "t", "w", to="c"),
                        node("Relu", "c", to="r"), node("Flatten", "r", to="f"), node("Gemm", "f", "v")],
                       {"w": weights(4, 3, 3, 2), "v": weights(96, 5)}, shape=(1, 6, 7, 3)), folder)  # fmt: skip
    return open_model(str(path), layout="NHWC", **NUMBERS, **options)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", pytest.param(".onnx", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_a_converted_network_is_the_same_function_of_pixels(suffix: str, tmp_path: Path) -> None:
    opened = network(tmp_path)
    out = tmp_path / f"out{suffix}"
    written, difference = convert(opened, out)
    again = open_model(str(out))
    x = torch.rand(7, 3, 6, 7)
    assert again.input_shape == (3, 6, 7)
    assert torch.allclose(again.module(x), opened.module(x), atol=1e-5)
    assert difference <= 1e-5
    assert sorted(path.name for path in written) == sorted(
        p.name for p in tmp_path.iterdir() if p.stem == "out"
    )
    if suffix == ".onnx":
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        own = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        assert torch.allclose(torch.from_numpy(own), opened.module(x), atol=1e-4)


def test_the_weights_are_plain_and_the_structure_is_readable(tmp_path: Path) -> None:
    convert(open_model("digits-cell"), tmp_path / "net.safetensors")
    structure = json.loads((tmp_path / "net.json").read_text())
    tensors = load_file(tmp_path / "net.safetensors")
    assert set(structure["tensors"].values()) == set(tensors)
    assert {item["target"] for item in structure["operations"]} >= {
        "aten.conv2d.default",
        "aten.max_pool2d.default",
    }
    weights = {n: v for n, v in open_model("digits-cell").module.state_dict().items() if n in tensors}
    assert all(torch.equal(value, tensors[name]) for name, value in weights.items())


def test_without_the_structure_the_weights_need_an_architecture(tmp_path: Path) -> None:
    convert(open_model("digits-cnn"), tmp_path / "net.safetensors")
    (tmp_path / "net.json").unlink()
    with pytest.raises(UserError, match=r"has weights only"):
        open_model(str(tmp_path / "net.safetensors"))
    (tmp_path / "net.json").write_text('{"something": "else"}')
    with pytest.raises(UserError, match=r"has weights only"):
        open_model(str(tmp_path / "net.safetensors"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: s.update(version=2), "has version 2; accepted: 1"),
        (lambda s: s["operations"][-1].update(target="os.system"), "operator 'os.system' at position"),
        (lambda s: s.update(input_shape=[1, 2**40]), "has input shape [1, 1099511627776]"),
        (lambda s: s.update(output="nothing"), "nothing makes the output 'nothing'"),
        (lambda s: s["tensors"].popitem(), "which nothing makes"),
        (lambda s: s["operations"].reverse(), "which nothing makes"),
        (lambda s: s.pop("operations"), "describes no network (KeyError"),
    ],
)
def test_a_changed_structure_is_refused(change: Any, line: str, tmp_path: Path) -> None:
    convert(open_model("digits-cnn"), tmp_path / "net.safetensors")
    structure = json.loads((tmp_path / "net.json").read_text())
    change(structure)
    (tmp_path / "net.json").write_text(json.dumps(structure))
    with pytest.raises(UserError) as refusal:
        open_model(str(tmp_path / "net.safetensors"))
    assert line in str(refusal.value)


def test_outputs_that_would_differ_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = network(tmp_path)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setitem(
        conversion.WRITERS,
        ".safetensors",
        lambda _, path: conversion._write_safetensors(open_model("digits-cnn"), path),
    )
    with pytest.raises(UserError, match=r"was not written: its outputs would differ by"):
        convert(open_model("digits-cell"), tmp_path / "out.safetensors")
    assert sorted(tmp_path.iterdir()) == before
    assert opened.classes == 5


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    result = CliRunner().invoke(main, ["convert", "digits-cnn", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        f"wrote {out} and {tmp_path / 'net.json'}; outputs differ by at most 0.0e+00 of the largest on random images\n"
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("net.txt", "has suffix '.txt'; accepted: .onnx, .pt2, .safetensors"),
        ("nowhere/net.pt2", "there is no folder"),
    ],
)
def test_where_it_cannot_write_it_says_so(name: str, line: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert", "digits-cnn", str(tmp_path / name)])
    assert result.exit_code == 2
    assert line in result.stderr
