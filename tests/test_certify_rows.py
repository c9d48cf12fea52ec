"""Rows and images of two channels through `certnas certify`, and what a file of settings may hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from onnx_models import model, node, saved, weights

from certnas.errors import UserError
from certnas.models import open_model
from certnas.runs import read_toml, setting
from cli.main import main


def certified(net: Path, x: np.ndarray, folder: Path, *options: str) -> Result:
    """`certnas certify` of images labelled as the network labels them."""
    shape = tuple(x.shape[1:])
    network = open_model(str(net), input_shape=shape if "nhwc" not in options else (2, 4, 4)).module
    held = torch.from_numpy(x if "nhwc" not in options else x.transpose(0, 3, 1, 2).copy())
    np.savez(folder / "data.npz", x=x, y=network(held).argmax(1).numpy())
    arguments = ["certify", str(net), "--data", str(folder / "data.npz"), "--images", "2", "--threads", "1"]
    return CliRunner().invoke(main, [*arguments, "--out", str(folder / "out"), *options])


def test_rows_have_radii(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x", "a", to="h"), node("Relu", "h", to="r"), node("Gemm", "r", "b")]
    net = saved(model(nodes, {"a": weights(30, 5), "b": weights(5, 3, seed=1)}, shape=("n", 30)), tmp_path)
    result = certified(net, np.random.default_rng(0).random((6, 30)).astype(np.float32), tmp_path)
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(rows) == 3 and all(",certified," in row for row in rows[1:])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_images_of_two_channels_have_radii(layout: str, tmp_path: Path) -> None:
    nodes = [node("Conv", "x", "w", to="h"), node("Relu", "h", to="r"), node("Flatten", "r", to="f"),
             node("Gemm", "f", "b")]  # fmt: skip
    constants = {"w": weights(3, 2, 3, 3), "b": weights(12, 3, seed=1)}
    net = saved(model(nodes, constants, shape=("n", 2, 4, 4)), tmp_path)
    x = np.random.default_rng(0).random((4, 2, 4, 4)).astype(np.float32)
    if layout == "nchw":
        result = certified(net, x, tmp_path)
    else:
        result = certified(net, x.transpose(0, 2, 3, 1).copy(), tmp_path, "--data-layout", "nhwc")
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(rows) == 3 and all(",certified," in row for row in rows[1:])


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "a = " + "9" * 10_000, "a = " + "{a=" * 50_000, "\udcff"]
)
def test_a_file_of_settings_that_no_parser_takes_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="cannot be read") as refused:
        read_toml(path)
    assert "\n" not in str(refused.value)
    if "\udcff" not in text:
        assert setting(f"x.{text}"), "what is no TOML value is a text"
