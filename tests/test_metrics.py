"""Robustness metrics: derivatives, what they leave alone, what they carry on, what they refuse."""

import random

import numpy as np
import pytest
import torch
from metric_networks import CLASSES, alpha_slopes, batch, measure, predicted, session, supernet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certnas.errors import UserError
from certnas.nas.metrics import METRICS, PGD, Curvature, GammaScale, JacobianNorm, build_metric, gradient_norm
from certnas.nas.metrics.certified import RESOLUTION
from certnas.nas.metrics.evaluation import classifier, without_none
from certnas.nas.metrics.linear import LinearLayers

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


def jacobian_rows(network: nn.Module, x: Tensor) -> Tensor:
    """∂f_k/∂x_i one image at a time, [N,K,D], of the network without `none`."""
    with classifier(network, "running") as f:
        rows = [torch.autograd.functional.jacobian(f, image.unsqueeze(0)) for image in x]
    return torch.stack([row.reshape(CLASSES, -1) for row in rows])


@pytest.mark.parametrize(("norm", "q"), [("linf", 1.0), ("l2", 2.0)])
@pytest.mark.parametrize("squared", [False, True])
def test_exact_jacobian(norm: str, q: float, squared: bool) -> None:
    """Equation (15) of DSRNA from rows computed one image at a time."""
    network = supernet()
    x, y = batch()
    lengths = torch.linalg.vector_norm(jacobian_rows(network, x), ord=q, dim=2) ** (2 if squared else 1)
    value = JacobianNorm(norm=norm, squared=squared, delta=0.5, projections=0)(network, x, y)
    assert float(value.detach()) == pytest.approx(-0.5 * float(lengths.mean(1).mean()), rel=1e-9)


@pytest.mark.parametrize(("norm", "q"), [("linf", 1.0), ("l2", 2.0)])
@pytest.mark.parametrize("squared", [False, True])
def test_projections_are_unbiased(norm: str, q: float, squared: bool) -> None:
    """Of a linear network, whose Jacobian is its matrix: the mean over many steps within 5 standard errors."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, CLASSES)).double()
    x, y = batch(images=200, size=3)
    session = JacobianNorm(norm=norm, squared=squared, projections=2).session()
    draws = torch.stack([session(network, x, y).detach() for _ in range(100)])
    exact = JacobianNorm(norm=norm, squared=squared, projections=0)(network, x, y).detach()
    error = float(draws.std() / len(draws) ** 0.5)
    assert error > 0
    assert abs(float(draws.mean() - exact)) < 5 * error
    assert error < 0.01 * abs(float(exact))


# Curvature


def test_curvature_of_a_quadratic_loss_by_hand() -> None:
    """Per-image norms from derivatives taken one image at a time."""
    network = supernet()
    x, y = batch()

    def slope(image: Tensor, label: Tensor) -> Tensor:
        with classifier(network, "running") as f:
            image = image.clone().requires_grad_()
            (found,) = torch.autograd.grad(cross_entropy(f(image), label), image)
        return found

    lengths = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        here = slope(image, label)
        there = slope(image + 0.2 * here.sign() / here.sign().norm(), label)
        lengths.append((there - here).norm())
    value = Curvature(h=0.2)(network, x, y)
    assert float(value.detach()) == pytest.approx(-float(torch.stack(lengths).mean()), rel=1e-9)


def test_curvature_of_a_flat_loss_is_zero_with_a_finite_derivative() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).double()
    nn.init.zeros_(network[1].weight)
    x, y = batch()
    value = Curvature()(network, x, y)
    (gradient,) = torch.autograd.grad(value, network[1].weight)
    assert float(value.detach()) == 0
    assert bool(torch.isfinite(gradient).all())


# Adversarial losses


def test_attacks_stay_in_the_ball_and_raise_the_loss() -> None:
    network = supernet()
    x, _ = batch(16)
    y = predicted(network, x, training=False)
    losses = {}
    for name in ("fgsm", "pgd"):
        metric = build_metric(name, {"eps": 0.05, "bn": "running"})
        moved = metric.perturbed(network, x, y, step=0)
        assert float((moved - x).abs().max()) <= 0.05 + 1e-12
        assert float(moved.min()) >= 0 and float(moved.max()) <= 1
        losses[name] = float(cross_entropy(network(moved), y).detach())
        assert -float(metric(network, x, y).detach()) == pytest.approx(losses[name], rel=1e-12)
    assert float(cross_entropy(network(x), y).detach()) < losses["fgsm"]
    assert losses["fgsm"] < losses["pgd"] * 1.05
    assert PGD.replaces_loss and not JacobianNorm.replaces_loss


# γ


def test_gamma_scale_balances_gradients() -> None:
    scale = GammaScale(0.5, batches=2)
    assert scale.observe(1.0, 0.0) == 0  # nothing measured yet
    assert scale.observe(8.0, 2.0) == pytest.approx(0.5 * 4)
    assert scale.observe(1.0, 1.0) == pytest.approx(0.5 * 2)
    assert scale.observe(1000.0, 1.0) == pytest.approx(0.5 * 2)  # the first two batches set it
    other = GammaScale(0.5, batches=2)
    other.load_state_dict(scale.state_dict())
    assert other.weight == scale.weight
    assert gradient_norm([torch.tensor([3.0]), None, torch.tensor([4.0])]) == 5


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


def test_layers_made_linear_have_the_same_derivatives() -> None:
    """Of first and second order, whether the weights are differentiated too or not."""
    network = supernet()
    x, _ = batch(2)
    alpha = network.architecture_parameters()

    def derivatives() -> list[Tensor]:
        given = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(network(given).square().sum(), given, create_graph=True)
        return [first, *torch.autograd.grad(first.abs().sum(), alpha)]

    expected = derivatives()
    for weights in (True, False):
        for parameter in network.weight_parameters():
            parameter.requires_grad_(weights)
        with LinearLayers():
            found = derivatives()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["jacobian", "curvature"])
def test_some_of_the_images(name: str) -> None:
    network = supernet()
    x, y = batch()
    some = measure(name, {"images": 2}, network, x, y).detach()
    alone = measure(name, {}, network, x[:2], y[:2]).detach()
    assert float(some) == pytest.approx(float(alone), rel=1e-9)
