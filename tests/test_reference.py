"""Bounds of third-party networks against those of auto_LiRPA 0.7.1, computed elsewhere and stored.

By day they are compared on three of the ten images, in turn, and on all of them at night.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_dir
from effort import in_turn
from shared_data import CHECKPOINTS, checkpoint, cifar10_test, mnist_test
from torch import Tensor, nn

import bounds
from certnas.models import open_model

NETWORKS = (
    "mnist_fc_3layer", "mnist_cnn_small", "mnist_a_adv", "kw_mnist",
    "cifar_2c2f", "cifar_conv_small_sigmoid", "resnet2b", "kw_cifar_small_36px",
)  # fmt: skip
WITH_L2 = ("mnist_fc_3layer", "mnist_cnn_small", "mnist_a_adv", "kw_mnist")
METHODS = {"IBP": bounds.IBP(), "CROWN-IBP": bounds.CrownIBP(), "CROWN": bounds.Crown(intersect=False)}
REGIONS = {"linf": bounds.Linf, "l2": bounds.L2}
CASES = [(name, norm) for name in NETWORKS for norm in ("linf", "l2") if norm == "linf" or name in WITH_L2]


FLIPPED = {
    ("mnist_cnn_small", "l2", "CROWN"): 30,
    ("mnist_a_adv", "l2", "CROWN-IBP"): 3,
    ("mnist_a_adv", "l2", "CROWN"): 3,
    ("cifar_conv_small_sigmoid", "linf", "CROWN"): 2,
}
"""Where single entries may be looser: compared are the mean, and every entry after so many steps of alpha-CROWN.

l2: auto_LiRPA takes the norm of the whole kernel at a zero-padded border, ours is exact; a tighter interval of a ReLU
can flip its adaptive slope.  Sigmoid: tangents of least area are not the tightest for every row.
"""


def folder() -> Path:
    return shared_dir() / "data" / "reference"


@cache
def reference() -> dict[str, np.ndarray]:
    with np.load(folder() / "auto_lirpa_0.7.1.npz") as stored:
        return dict(stored)


def entries() -> list[dict[str, Any]]:
    return json.loads((folder() / "auto_lirpa_0.7.1.json").read_text())["entries"]


def opened(name: str) -> tuple[nn.Module, Tensor]:
    """The network in float64 and the first ten test images; float32 pixels, as in the reference."""
    file, arch = CHECKPOINTS[name]
    x, _ = (mnist_test if "mnist" in name else cifar10_test)(10)
    return open_model(str(checkpoint(file)), arch=arch).module.double(), x.double()


def test_every_stored_entry_is_compared() -> None:
    stored = {(entry["network"], entry["norm"], entry["method"]) for entry in entries()}
    assert stored == {(name, norm, method) for name, norm in CASES for method in METHODS}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_are_the_stored_ones(name: str) -> None:
    model, x = opened(name)
    with torch.no_grad():
        torch.testing.assert_close(
            model(x), torch.from_numpy(reference()[f"{name}/logits"]), rtol=0, atol=1e-12
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_bounds_of_all_logits_reproduce_auto_lirpa_or_are_tighter(name: str, norm: str, method: str) -> None:
    (eps,) = (e["eps"] for e in entries() if (e["network"], e["norm"], e["method"]) == (name, norm, method))
    chosen = in_turn(range(10), f"{name} {norm} {method}", count=3)
    theirs_lower, theirs_upper = (
        torch.from_numpy(reference()[f"{name}/{norm}/{method}/{side}"])[chosen] for side in ("lower", "upper")
    )
    model, x = opened(name)
    x = x[chosen]
    network = bounds.trace(model, x).bind().to(torch.float64)
    region = REGIONS[norm](x, eps)
    with torch.no_grad():
        lower, upper = bounds.output_bounds(network, region, METHODS[method])
        clean = model(x)
    if (name, norm, method) in FLIPPED:
        assert (upper - lower).mean() <= (theirs_upper - theirs_lower).mean() * (1 + 1e-5)
        lower, upper = bounds.output_bounds(
            network, region, bounds.AlphaCrown(FLIPPED[name, norm, method])
        ).detach()
    slack = 1e-6 * (theirs_upper - theirs_lower)
    assert (lower <= clean).all() and (clean <= upper).all()
    assert (lower >= theirs_lower - slack).all(), ((theirs_lower - lower) / slack).max() * 1e-6
    assert (upper <= theirs_upper + slack).all(), ((upper - theirs_upper) / slack).max() * 1e-6
