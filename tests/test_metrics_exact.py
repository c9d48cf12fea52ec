"""Metrics on networks whose answers are known in closed form, and their settings."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from metric_networks import batch, supernet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certnas.errors import UserError
from certnas.nas.metrics import METRICS, build_metric
from certnas.nas.metrics.certified import Margins, RootSearch
from certnas.nas.metrics.evaluation import classifier
from certnas.nas.metrics.linear import LinearLayers

CB = [("cb", {"reading": reading}) for reading in ("radius", "margin", "lower", "gain")]
MEASURED: list[tuple[str, dict[str, Any]]] = [
    *CB,
    *((name, {}) for name in METRICS if name not in ("cb", "none")),
]
IDS = ["-".join((name, *settings.values())) for name, settings in MEASURED]


def plane() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear network of 4 pixels and two classes, m(x) = 2 (x₀ − x₁) + 0.5, and two images: m = 0.9 and 0.7."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, -1.0, 0, 0], [-1.0, 1.0, 0, 0]]))
        network[1].bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.tensor([[0.6, 0.4, 0.5, 0.5], [0.5, 0.4, 0.5, 0.5]], dtype=torch.float64).reshape(2, 1, 2, 2)
    return network, x, torch.zeros(2, dtype=torch.long)


# Settings


@pytest.mark.parametrize(("name", "settings"), MEASURED, ids=IDS)
def test_settings_out_of_range_are_refused_by_every_metric(name: str, settings: dict[str, Any]) -> None:
    metric = build_metric(name, settings)
    there = {field.name for field in fields(metric)}
    wrong: dict[str, tuple[Any, ...]] = {
        "warmup": (-1,), "images": (-1,), "errors": (-1,), "generators": (0,), "projections": (-1,),
        "evaluations": (-1,), "steps": (0,), "floor": (-0.5, math.inf, math.nan), "bn": ("layer",),
        "dtype": ("float16",), "tol": (0.0, math.inf), "first": (0.0, math.inf, -1.0),
    }  # fmt: skip
    for setting in sorted(there & set(wrong)):
        for value in wrong[setting]:
            with pytest.raises(UserError, match=f"{setting} is"):
                build_metric(name, {**settings, setting: value})
    for setting in sorted(there & {"warmup", "images", "evaluations", "projections", "floor"}):
        build_metric(name, {**settings, setting: type(getattr(metric, setting))(0)})  # 0 is accepted


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_numbers_above_0_are_finite(value: float) -> None:
    for name, setting in (("fgsm", "eps"), ("pgd", "step_size"), ("curvature", "h")):
        with pytest.raises(UserError, match=f"{setting} is {value}; give a finite number above 0"):
            build_metric(name, {setting: value})


def test_a_radius_is_searched_from_a_number_above_0() -> None:
    with pytest.raises(UserError, match=r"eps is 0\.0; give a finite number above 0"):
        build_metric("cb", {"reading": "margin", "schedule": "radius", "eps": 0.0})
    assert build_metric("cb", {"reading": "margin", "eps": 0.0}).eps == 0
    with pytest.raises(UserError, match="eps_min is a setting of the adaptive schedule"):
        build_metric("cb", {"reading": "margin", "schedule": "radius", "eps_min": 0.5})


def test_the_adaptive_radius_may_become_as_small_as_bounds_of_deep_networks_ask_for() -> None:
    metric = build_metric("cb", {"reading": "margin", "schedule": "adaptive", "eps": 1e-11})
    assert metric.eps_min == 1e-12
    with pytest.raises(UserError, match="eps_max is"):
        build_metric("cb", {"reading": "margin", "schedule": "adaptive", "eps_max": 1e-13})


@pytest.mark.parametrize(("name", "settings"), CB, ids=[settings["reading"] for _, settings in CB])
@pytest.mark.parametrize("bn", ["batch", "running"])
@pytest.mark.parametrize("keep_none", [False, True])
def test_sessions_bound_the_network_that_the_metric_asks_for(
    name: str, settings: dict[str, Any], bn: str, keep_none: bool
) -> None:
    traced = build_metric(name, {**settings, "bn": bn, "keep_none": keep_none}).session().traced
    assert (traced.bn, traced.keep_none) == (bn, keep_none)


def test_no_metric_lets_mass_on_none_count_unless_it_is_asked_to() -> None:
    for name, settings in MEASURED:
        assert not getattr(build_metric(name, settings), "keep_none", False), name
    network, (x, y) = supernet(layers=1), batch(2)
    values = [
        build_metric("curvature", s)(network, x, y).item()
        for s in ({}, {"keep_none": False}, {"keep_none": True})
    ]
    assert values[0] == values[1] != values[2]


def test_attacks_and_their_losses_are_of_the_supernet_with_none() -> None:
    """The loss of AdvRush replaces L, in which `none` keeps its weight."""
    network, (x, y) = supernet(layers=1), batch(2)
    metric = build_metric("fgsm", {"bn": "running"})
    moved = metric.perturbed(network, x, y, 0)
    found = {}
    for keep_none in (True, False):
        with classifier(network, "running", keep_none=keep_none) as f:
            found[keep_none] = -cross_entropy(f(moved), y).item()
    assert metric(network, x, y).item() == pytest.approx(found[True], rel=1e-12)
    assert abs(found[True] - found[False]) > 1e-6
    with classifier(network, "running", keep_none=True) as f:
        given = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(f(given), y, reduction="sum"), given)
    assert torch.equal(moved, (x + metric.eps * slope.sign()).clamp(0, 1))


# Roots


class Curve:
    """Margins that fall as (ε / root)^slope: h = slope · log(ε / root)."""

    def __init__(self, root: Tensor, slope: float) -> None:
        self.root, self.slope = root, slope
        self.clean, self.asked = torch.ones_like(root), 0
        self.metric, self.x = build_metric("cb", {"dtype": "float64"}), torch.zeros(len(root), 1, 2, 2)

    def probe(self, eps: Tensor, image: Tensor) -> Tensor:
        self.asked += 1
        return 1 - (eps / self.root[image]) ** self.slope


@pytest.mark.parametrize(("slope", "most"), [(1.0, 2), (2.0, 3), (0.5, 3), (4.0, 3), (0.25, 3)])
def test_the_search_takes_the_slope_from_two_points(slope: float, most: int) -> None:
    """A line of slope 1 is met at once, one of another slope as soon as two points show it; then the search ends."""
    curve = Curve(torch.tensor([1e-3, 2e-3], dtype=torch.float64), slope)
    search = RootSearch(1.5e-3)
    found = search(curve, torch.arange(2), tol=1e-9)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx(curve.root.tolist(), rel=1e-8)
    assert search.evaluations == curve.asked and search.evaluations <= most


def test_a_search_with_a_tolerance_ends_when_every_image_is_near_or_at_a_limit() -> None:
    curve = Curve(
        torch.tensor([1e-3, 50.0, 1e-300], dtype=torch.float64), 1.0
    )  # the second beyond the box, the third too small
    search = RootSearch(0.1)
    search.learn(torch.zeros(1))
    found = search(curve, torch.arange(3), tol=1e-9)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([1e-3, 1.0, curve.metric.resolution], rel=1e-8)
    assert search.evaluations < 15


def test_a_search_of_so_many_steps_takes_them_all() -> None:
    curve = Curve(torch.tensor([1e-3], dtype=torch.float64), 1.0)
    search = RootSearch(1e-3)
    search.learn(torch.full((1,), math.log(1e3)))
    assert float(search(curve, torch.arange(1), steps=4)) == pytest.approx(1e-3)  # type: ignore[arg-type]
    assert curve.asked == 4


@pytest.mark.parametrize("evaluations", [0, 1, 3])
def test_a_session_keeps_the_mean_gain_for_the_next_batch(evaluations: int) -> None:
    """ε* = m / ‖w‖₁ with m = 0.9, 0.7 and ‖w‖₁ = 4, so that log(m/ε*) = log 4."""
    network, x, y = plane()
    session = build_metric("cb", {"evaluations": evaluations, "dtype": "float64", "tol": 1e-9}).session()
    value = session(network, x, y)
    assert value.item() == pytest.approx((math.log(0.225) + math.log(0.175)) / 2, abs=1e-9)
    assert session.state_dict()["log_gain"] == pytest.approx(math.log(4), abs=1e-9)
    first = session.figures["evaluations"]
    assert session(network, x, y).item() == pytest.approx(value.item(), abs=1e-9)
    assert session.figures["evaluations"] <= min(first, 2 if evaluations == 0 else first)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_the_margin_at_the_radius_is_0(method: str) -> None:
    network, x, y = plane()
    session = build_metric("cb", {"reading": "margin", "schedule": "radius", "method": method}).session()
    for _ in range(2):
        assert session(network, x, y).item() == pytest.approx(0, abs=1e-9)
        assert session.figures["eps"] == pytest.approx(0.2, abs=1e-9)
    assert session.state_dict()["log_gain"] == pytest.approx(math.log(4), abs=1e-9)
    wrong = session(network, x, 1 - y)
    assert wrong.item() == pytest.approx(-0.8) and session.figures["eps"] == 0


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_margins_and_lower_logits_of_a_linear_network(eps: float) -> None:
    network, x, y = plane()
    margin = build_metric("cb", {"reading": "margin", "eps": eps})(network, x, y)
    assert margin.item() == pytest.approx((0.9 + 0.7) / 2 - 4 * eps)
    lower = build_metric("cb", {"reading": "lower", "eps": eps})(network, x, y)
    assert lower.item() == pytest.approx((0.7 + 0.6) / 2 - 2 * eps)


@pytest.mark.parametrize(("rows", "asked"), [("hardest", 1), ("all", 0)])
def test_the_hardest_rows_are_looked_for_where_they_are_asked_for(
    rows: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, x, y = plane()
    calls, hardest = [], Margins.hardest
    monkeypatch.setattr(Margins, "hardest", lambda *given: calls.append(1) or hardest(*given))
    settings = {"reading": "margin", "eps": 0.05, "method": "crown-ibp", "rows": rows}
    assert build_metric("cb", settings)(network, x, y).item() == pytest.approx(0.6)
    assert len(calls) == asked


# Convolutions


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 0, 1), (1, 2, 2), (2, 1, 1)])
def test_convolutions_made_linear_have_the_derivatives_of_torch(
    groups: int, stride: int, padding: int, dilation: int
) -> None:
    """Derivatives have first and second order: xᵀ Wᵀ W x has second degree in x, and its kernel is constant."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3 // groups, 3, 3, generator=random).double()
    x = torch.randn(2, 3, 7, 8, generator=random).double().requires_grad_()

    def derivatives() -> list[Tensor]:
        out = torch.conv2d(x, weight, None, stride, padding, dilation, groups)
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return [out.detach(), first.detach(), *torch.autograd.grad((first * x.detach().cos()).sum(), x)]

    expected = derivatives()
    with LinearLayers():
        found = derivatives()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
