"""Metrics without bounds against closed forms: Jacobian, curvature, attacks, scale-free γ."""

import pytest
import torch
from metric_networks import CLASSES, batch, predicted, supernet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from certnas.nas.metrics import PGD, Curvature, GammaScale, JacobianNorm, build_metric, gradient_norm
from certnas.nas.metrics.evaluation import classifier
from certnas.nas.metrics.linear import LinearLayers


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
    """The Jacobian of a linear network is its matrix: the mean over many steps is within 5 standard errors."""
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


def test_layers_made_linear_have_the_same_derivatives() -> None:
    """Both orders agree, whether the weights are differentiated too or not."""
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
