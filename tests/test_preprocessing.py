"""Preprocessing inside the model: what a network reads is what one would have made by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_models import model, node, saved, weights
from torch import Tensor

from certnas.errors import UserError
from certnas.models import open_model

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.5]).view(3, 1, 1)
NUMBERS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.5)}


def echo(folder: Path, shape: tuple[int, ...]) -> str:
    """A network whose logits are its input, in order."""
    return str(saved(model([node("Flatten", "x")], shape=("n", *shape)), folder))


CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], Any]] = {
    "as it is": ((3, 2, 4), {}, lambda x: x),
    "NCHW": ((3, 2, 4), {"layout": "NCHW", "channels": "rgb"}, lambda x: x),
    "NHWC": ((2, 4, 3), {"layout": "NHWC"}, lambda x: x.permute(0, 2, 3, 1)),
    "flat": ((24,), {"layout": "flat", "input_shape": (3, 2, 4)}, lambda x: x),
    "a column": ((24, 1), {"layout": "flat", "input_shape": (3, 2, 4)}, lambda x: x),
    "bgr": ((3, 2, 4), {"channels": "bgr"}, lambda x: x[:, [2, 1, 0]]),
    "0 to 255": ((3, 2, 4), {"input_range": (0, 255)}, lambda x: 255 * x),
    "-1 to 1": ((3, 2, 4), {"input_range": (-1, 1)}, lambda x: 2 * x - 1),
    "mean and std": ((3, 2, 4), NUMBERS, lambda x: (x - MEAN) / STD),
    "mean and std of 255": (
        (3, 2, 4),
        {"input_range": (0, 255), "mean": (10, 20, 30), "std": (2, 3, 4)},
        lambda x: (
            (255 * x - torch.tensor([10, 20, 30.0]).view(3, 1, 1)) / torch.tensor([2, 3, 4.0]).view(3, 1, 1)
        ),
    ),
    "mean in the network's order of colours": (
        (3, 2, 4),
        {"channels": "bgr", **NUMBERS},
        lambda x: (x.flip(1) - MEAN) / STD,
    ),
    "all of it": (
        (2, 4, 3),
        {"channels": "bgr", "layout": "NHWC", "input_range": (-1, 1), **NUMBERS},
        lambda x: ((2 * x.flip(1) - 1 - MEAN) / STD).permute(0, 2, 3, 1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_network_reads_what_was_asked_for(case: str, tmp_path: Path) -> None:
    shape, options, by_hand = CASES[case]
    opened = open_model(echo(tmp_path, shape), **options)
    x: Tensor = torch.rand(5, 3, 2, 4)
    assert opened.input_shape == (3, 2, 4)
    assert torch.allclose(opened.module(x), by_hand(x).flatten(1), atol=1e-4)


REFUSALS: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "a layout": ((3, 2, 4), {"layout": "CHWN"}, "net: layout is 'CHWN'; accepted: NCHW, NHWC, flat"),
    "channels": ((3, 2, 4), {"channels": "grb"}, "net: channels is 'grb'; accepted: rgb, bgr"),
    "a range": (
        (3, 2, 4),
        {"input_range": (1, 0)},
        "net: input_range is 1,0; accepted: two numbers, the lower first",
    ),
    "half a range": (
        (3, 2, 4),
        {"input_range": (1,)},
        "net: input_range is [1]; accepted: two numbers, such as 0,255",
    ),
    "no image": ((24,), {"layout": "NHWC"}, "net reads [24], which is not an image in layout NHWC"),
    "an unknown image": (
        (24,),
        {"layout": "flat"},
        "net reads [24]; with layout flat, give input_shape=(C, H, W)",
    ),
    "an image of another size": (
        (24,),
        {"layout": "flat", "input_shape": (1, 2, 4)},
        "'net' reads images of shape [24] (channels, height, width), the images have shape [1, 2, 4]",
    ),
    "channels last": (
        (2, 4, 3),
        {"input_shape": (3, 2, 4)},
        "'net' reads images of shape [2, 4, 3] (channels, height, width), the images have shape [3, 2, 4]; "
        "with layout NHWC it takes them",
    ),
    "a row": (
        (24,),
        {"input_shape": (3, 2, 4)},
        "'net' reads images of shape [24] (channels, height, width), the images have shape [3, 2, 4]; "
        "with layout flat it takes them",
    ),
    "an architecture": (
        (3, 2, 4),
        {"arch": "resnet20"},
        "has its own architecture: it takes no arch; leave it out",
    ),
    "unsafe": (
        (3, 2, 4),
        {"unsafe_load": True},
        "is read without running code: it takes no unsafe_load; leave it out",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_on_one_line(case: str, tmp_path: Path) -> None:
    shape, options, line = REFUSALS[case]
    with pytest.raises(UserError) as refusal:
        open_model(echo(tmp_path, shape), **options)
    assert str(refusal.value).endswith(line)
    assert "\n" not in str(refusal.value)


def test_a_range_needs_its_own_mean_where_the_architecture_has_one() -> None:
    with pytest.raises(
        UserError, match=r"has its own mean and std, of \[0, 1\] pixels: with input_range, give"
    ):
        open_model("certnas.models.architectures:resnet2b", input_range=(0, 255))


def test_one_class_is_refused(tmp_path: Path) -> None:
    path = saved(model([node("Gemm", "x", "w")], {"w": weights(9, 1)}, shape=("n", 9)), tmp_path)
    with pytest.raises(UserError, match=r"maps images \[2, 9\] to \[2, 1\]; accepted: logits"):
        open_model(str(path))
