"""All robustness metrics: derivatives, side effects, resumed sessions, refused settings."""

import random

import numpy as np
import pytest
import torch
from metric_networks import CLASSES, alpha_slopes, batch, measure, predicted, session, supernet
from torch import nn

from certnas.errors import UserError
from certnas.nas.metrics import METRICS, GammaScale, build_metric
from certnas.nas.metrics.certified import RESOLUTION
from certnas.nas.metrics.evaluation import without_none

SETTINGS = [
    ("cb", {"evaluations": 0, "tol": 1e-5, "floor": 0.0, "dtype": "float64"}),
    ("cb", {"evaluations": 0, "tol": 1e-5, "floor": 0.0, "method": "crown-ibp", "images": 2}),
    ("cb", {"reading": "margin", "eps": 1e-4, "bn": "running"}),
    ("cb", {"reading": "margin", "eps": 1e-4, "norm": "l2", "images": 2}),
    ("cb", {"reading": "lower", "eps": 1e-4}),
    ("cb", {"reading": "gain", "generators": 3, "dtype": "float64"}),
    ("jacobian", {"projections": 0}),
    ("jacobian", {"projections": 2, "norm": "l2"}),
    ("curvature", {"h": 0.1}),
    ("fgsm", {}),
    ("pgd", {"steps": 2}),
]
NAMES = [f"{name}-{'-'.join(map(str, s.values()))}" for name, s in SETTINGS]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=NAMES)
def test_derivative_in_alpha(name: str, settings: dict[str, object]) -> None:
    """Against central differences of R itself: of the root for the radius, whatever R is differentiated through."""
    network = supernet()
    x, _ = batch()
    y = predicted(network, x, training=name == "cb" and settings.get("bn") != "running")
    slopes = alpha_slopes(
        network, lambda: measure(name, settings, network, x, y), 1e-6, directions=1 if name == "cb" else 3
    )
    for slope, difference in slopes:
        assert slope == pytest.approx(difference, rel=2e-4, abs=1e-7 + 1e-4 * abs(difference))
        assert difference != 0


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=NAMES)
def test_nothing_of_the_caller_is_touched(name: str, settings: dict[str, object]) -> None:
    network = supernet().train()
    network.cells[0].eval()  # a mixture of modes comes back as it was
    x, y = batch()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    given = x.clone()
    torch_state, python_state, numpy_state = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1],
    )

    value = measure(name, settings, network, x, y)

    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(bool((p.grad == 7.0).all()) for p in network.parameters() if p.grad is not None)
    assert torch.equal(x, given)
    assert not x.requires_grad
    assert value.dim() == 0 and value.dtype == x.dtype


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=NAMES)
def test_a_resumed_session_goes_on_alike(name: str, settings: dict[str, object]) -> None:
    network = supernet()
    x, y = batch()
    whole, first = session(name, settings), session(name, settings)
    expected = [float(whole(network, x, y).detach()) for _ in range(2)]
    first(network, x, y)
    resumed = session(name, settings)
    resumed.load_state_dict(first.state_dict())
    assert float(resumed(network, x, y).detach()) == expected[1]
    with pytest.raises(UserError, match="metric state"):
        resumed.load_state_dict({"other": 1})


def test_metrics_take_any_classifier() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, CLASSES)).double()
    x, y = batch()
    for name in METRICS:
        assert torch.isfinite(build_metric(name, {})(network, x, y))


def test_no_mass_on_none() -> None:
    """α_none neither changes R nor has a derivative, and the other operators' weights are as if it were absent."""
    network = supernet()
    x, _ = batch()
    y = predicted(network, x, training=True)
    column = list(network.candidates["normal"][0]).index("none")
    measured = {"cb": {"images": 2}, "jacobian": {}, "curvature": {}}
    values = {name: measure(name, s, network, x, y) for name, s in measured.items()}
    kept = build_metric("jacobian", {"keep_none": True})(network, x, y)
    for value in values.values():
        gradients = torch.autograd.grad(value, network.architecture_parameters())
        assert all(bool((g[:, column] == 0).all()) and g.norm() > 0 for g in gradients)
    others = [o for o in range(len(network.candidates["normal"][0])) if o != column]
    weights = without_none(network)["alpha_normal"].softmax(1)
    expected = network.alpha_normal[:, others].softmax(1)
    assert torch.allclose(weights[:, others], expected, rtol=1e-12, atol=0)
    assert bool((weights[:, column] == 0).all())
    with torch.no_grad():
        network.alpha_normal[:, column] += 2
        network.alpha_reduce[:, column] += 2
    for name, value in values.items():
        again = measure(name, measured[name], network, x, y)
        assert float(again.detach()) == pytest.approx(float(value.detach()), rel=1e-9)
    loophole = build_metric("jacobian", {"keep_none": True})(network, x, y)
    assert float(loophole.detach()) > 0.9 * float(kept.detach())
    assert float(loophole.detach()) != float(kept.detach())


def test_derivative_of_the_radius_below_the_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bounds prove nothing at the least radius, R goes on along the line of an affine network."""
    network = supernet()
    x, _ = batch()
    y = predicted(network, x, training=True)
    monkeypatch.setitem(RESOLUTION, "float64", (1e-3, 1e-3))
    running = session("cb", {"floor": 0.0, "dtype": "float64", "bn": "batch"})
    slopes = alpha_slopes(network, lambda: running(network, x, y), 1e-6, directions=1)
    assert running.figures["images"] > 0
    assert running.figures["radius"] < 1e-3
    for slope, difference in slopes:
        assert slope == pytest.approx(difference, rel=2e-4)


def test_the_radius_is_continuous_at_the_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    network = supernet()
    x, _ = batch(1)
    y = predicted(network, x, training=True)
    settings = {"evaluations": 0, "tol": 1e-6, "dtype": "float64"}
    root = float(measure("cb", settings, network, x, y).detach().exp())
    for scale in (0.999, 1.001):
        monkeypatch.setitem(RESOLUTION, "float64", (scale * root, 1e-9))
        value = measure("cb", settings, network, x, y).detach()
        assert float(value.exp()) == pytest.approx(root, rel=3e-3)


# Jacobian


# Curvature


# Adversarial losses


# γ


# Refusals


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("certified", {}, "unknown name 'certified'; accepted: none, cb"),
        ("cb", {"reading": "ball"}, "unknown reading 'ball'; accepted: radius, margin, lower, gain"),
        ("cb", {"eps": 0.1}, "reading radius: unknown setting 'eps'"),
        ("cb", {"reading": "margin", "eps": "big"}, "eps is 'big'; give a value like float"),
        ("cb", {"method": "alpha-crown"}, "method is 'alpha-crown'; accepted: ibp, crown-ibp, zonotope"),
        ("cb", {"errors": 3}, "errors are a zonotope's"),
        ("cb", {"reading": "margin", "step": 0.1}, "step is a setting of the adaptive schedule"),
        ("jacobian", {"norm": "l1"}, "norm is 'l1'; accepted: linf, l2"),
        ("curvature", {"h": 0.0}, "h is 0.0; give a finite number above 0"),
        ("curvature", {"h": float("inf")}, "h is inf; give a finite number above 0"),
        ("curvature", {"warmup": -1}, "warmup is -1"),
        ("cb", {"floor": -0.1}, "floor is -0.1; give a finite number from 0 on"),
        ("cb", {"reading": "gain", "images": -1}, "images is -1"),
        ("cb", {"reading": "margin", "norm": "l3"}, "norm"),
        ("pgd", {"steps": 0}, "steps is 0"),
        ("none", {"h": 1.0}, "unknown setting 'h'; accepted: none"),
    ],
)
def test_refusals(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refused:
        build_metric(name, settings)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_adaptive_schedule_needs_no_other_setting() -> None:
    metric = build_metric("cb", {"reading": "margin", "schedule": "adaptive"})
    assert metric.eps_min < metric.eps < metric.eps_max


@pytest.mark.parametrize(("gamma", "batches"), [(-1.0, 1), (float("nan"), 1), (1.0, 0)])
def test_gamma_refusals(gamma: float, batches: int) -> None:
    with pytest.raises(UserError, match="gamma"):
        GammaScale(gamma, batches)


def test_warmup() -> None:
    metric = build_metric("curvature", {"warmup": 2})
    assert [metric.active(epoch) for epoch in range(4)] == [False, False, True, True]
    assert not build_metric("none", {}).active(5)


# What the metrics evaluate networks by


@pytest.mark.parametrize("name", ["jacobian", "curvature"])
def test_some_of_the_images(name: str) -> None:
    network = supernet()
    x, y = batch()
    some = measure(name, {"images": 2}, network, x, y).detach()
    alone = measure(name, {}, network, x[:2], y[:2]).detach()
    assert float(some) == pytest.approx(float(alone), rel=1e-9)
