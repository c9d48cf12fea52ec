"""Bounds against the exact optimum of small networks, found by mixed-integer programming."""

from collections.abc import Callable

import pytest
import torch
from oracles import descend_region, exact_minimum, sample_region
from torch import nn

import bounds

SLACK = 2e-6  # HiGHS keeps constraints to 1e-6


def _dense() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def _convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2), nn.ReLU(),
        nn.Conv2d(2, 2, 3, padding=2, dilation=2, groups=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def _max_pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def _overlapping() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 1, 2), nn.ReLU(), nn.MaxPool2d(2, 1, 1), nn.Conv2d(1, 2, 2, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def _averaged() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "dense": _dense,
    "convolutional": _convolutional,
    "max pool": _max_pooled,
    "overlapping max pool": _overlapping,
    "average pool": _averaged,
}
METHODS: dict[str, bounds.Method] = {
    **bounds.METHODS,
    "crown parallel": bounds.Crown(bounds.Slope.PARALLEL),
    "crown zero": bounds.Crown(bounds.Slope.ZERO),
    "crown one": bounds.Crown(bounds.Slope.ONE),
    "zonotope of 2": bounds.Zonotope(2),
}


def network_of(make: Callable[[], nn.Sequential], seed: int) -> nn.Sequential:
    """Float64, evaluation mode, batch norms with statistics of their own and γ of both signs."""
    torch.manual_seed(seed)
    model = make().double().eval()
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.2, 1.0)
                part.weight.copy_(torch.tensor([0.8, -1.3]))
                part.bias.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_bounds_are_below_the_optimum_and_the_optimum_below_every_point(
    make: Callable[[], nn.Sequential], seed: int, norm: str
) -> None:
    model = network_of(make, seed)
    x = torch.rand(1, 1, 4, 4).double()
    eps = {"linf": 0.15, "l1": 0.8}[norm]
    region = bounds.NORMS[norm](x, eps, 0.0, 1.0)
    network = bounds.trace(model, x).bind()
    label = int(network(x).argmax())
    rows = bounds.margins(torch.tensor([label]), 3, dtype=torch.float64)
    with torch.no_grad():
        found = {name: bounds.lower_bounds(network, region, rows, m)[0] for name, m in METHODS.items()}
    generator = torch.Generator().manual_seed(seed)
    points = sample_region(x, eps, norm, 0.0, 1.0, count=500, generator=generator)
    for s, row in enumerate(rows[0]):
        exact = exact_minimum(model, row, x[0], eps, norm=norm, lower=0.0, upper=1.0)
        reached = descend_region(model, row, x, eps, norm, 0.0, 1.0)
        with torch.no_grad():
            lowest = (model(torch.cat([points, reached]).flatten(0, 1)) @ row).min().item()
        assert exact.proved - SLACK <= lowest
        for name, lower in found.items():
            assert lower[s].item() <= exact.value + SLACK, f"{name} is above the optimum"
            assert lower[s].item() <= lowest + 1e-9, f"{name} is above a point"


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize(
    "make", [_dense, _convolutional, _averaged], ids=["dense", "convolutional", "average"]
)
def test_every_linear_method_is_exact_where_no_unit_changes_sign(
    make: Callable[[], nn.Sequential], norm: str
) -> None:
    model = network_of(make, 0)
    with torch.no_grad():
        for part in model[:-1]:
            if isinstance(part, nn.Linear | nn.Conv2d) and part.bias is not None:
                part.bias.add_(torch.where(torch.arange(len(part.bias)) % 3 == 2, -30.0, 30.0))
    x = torch.rand(1, 1, 4, 4).double()
    eps = {"linf": 0.02, "l1": 0.2}[norm]
    region = bounds.NORMS[norm](x, eps, 0.0, 1.0)
    rows = bounds.logits(1, 3, dtype=torch.float64)
    network = bounds.trace(model, x).bind()
    for name in ("zonotope", "zonotope+crown", "crown", "crown-ibp", "alpha-crown", "crown parallel"):
        with torch.no_grad():
            lower = bounds.lower_bounds(network, region, rows, METHODS[name])[0]
        for s, row in enumerate(rows[0]):
            reached = descend_region(model, row, x, eps, norm, 0.0, 1.0, steps=1)
            attained = (model(reached[0]) @ row).item()
            assert lower[s].item() == pytest.approx(attained, rel=1e-10), name


def test_the_gaps_to_the_optimum_stay_small() -> None:
    """The sum over networks and rows of clean − bound, against clean − optimum: α-CROWN < CROWN < IBP."""
    total = dict.fromkeys(["ibp", "crown", "alpha-crown", "exact"], 0.0)
    for make in NETWORKS.values():
        model = network_of(make, 0)
        x = torch.rand(1, 1, 4, 4).double()
        region = bounds.Linf(x, 0.1, 0.0, 1.0)
        network = bounds.trace(model, x).bind()
        rows = bounds.logits(1, 3, dtype=torch.float64)
        clean = network(x)[0]
        for name in ("ibp", "crown", "alpha-crown"):
            with torch.no_grad():
                total[name] += (
                    (clean - bounds.lower_bounds(network, region, rows, METHODS[name])[0]).sum().item()
                )
        for s, row in enumerate(rows[0]):
            total["exact"] += (
                clean[s].item() - exact_minimum(model, row, x[0], 0.1, lower=0.0, upper=1.0).value
            )
    assert total["exact"] <= total["alpha-crown"] + SLACK < total["crown"] < 0.8 * total["ibp"]
    assert total["crown"] < 1.5 * total["exact"]
