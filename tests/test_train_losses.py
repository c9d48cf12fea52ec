"""The losses of certified training against sampling and closed forms; PGD against a linear model; the schedules."""

from functools import cache
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bounds
from certnas.nas.space import DiscreteNetwork, Genotype
from certnas.training.attack import pgd
from certnas.training.certified import BoxedCrossEntropy, FusedCrossEntropy
from certnas.training.objectives import AdversarialTraining, FusedCrownIBP, IntervalBounds
from certnas.training.ramp import half_cosine, smooth_ramp, stairs

CELL = Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1)),
    normal_concat=(0, 2),
    reduce=(("max_pool_3x3", 0), ("avg_pool_3x3", 1)),
    reduce_concat=(2,),
)
METHODS = [BoxedCrossEntropy(), FusedCrossEntropy(0.0), FusedCrossEntropy(0.4), FusedCrossEntropy(1.0)]


def network(scale: float = 1.0) -> DiscreteNetwork:
    """Two cells of float64 on 6×6 images of 4 classes, their weights spread by `scale`."""
    made = DiscreteNetwork(CELL, 2, 2, 4, in_channels=1, reductions=(1,)).double()
    with torch.no_grad():
        made.classifier.weight.mul_(scale)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return made


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 6, 6, dtype=torch.float64), torch.arange(count) % 4


@cache
def graph(training: bool) -> bounds.Graph:
    """The structure of `network`, traced once; the weights are given at each call."""
    return bounds.trace(network().train(training), images()[0])


def bound_of_loss(model: nn.Module, x: Tensor, y: Tensor, eps: float, method: bounds.Method) -> Tensor:
    """The upper bound of the cross-entropy of each image.  [N]"""
    traced = graph(model.training)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bound = traced.bind({name: tensors[name] for name in traced.parameters.values()}, batch=x)
    rows = bounds.margins(y, 4, dtype=x.dtype)
    return -bounds.lower_bounds(bound, bounds.Linf(x, eps, 0.0, 1.0), rows, method).squeeze(1)


def corners(x: Tensor, eps: float, count: int = 100) -> list[Tensor]:
    """Points of the ball: corners, inner points, and the image itself."""
    points = [x]
    for at in range(count):
        signs = torch.randint(0, 2, x.shape).double() * 2 - 1
        points.append((x + eps * (signs if at % 2 else torch.rand_like(x) * signs)).clamp(0, 1))
    return points


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(("eps", "scale"), [(0.01, 1.0), (0.1, 1.0), (0.3, 20.0)])
def test_no_image_of_the_ball_has_a_larger_loss(method: bounds.Method, eps: float, scale: float) -> None:
    model, (x, y) = network(scale).eval(), images()
    bound = bound_of_loss(model, x, y, eps, method)
    with torch.no_grad():
        attacked = pgd(model, x, y, eps=eps, step=eps / 5, steps=20, start=x)
        losses = [
            functional.cross_entropy(model(point), y, reduction="none")
            for point in [*corners(x, eps), attacked]
        ]
    assert (bound >= torch.stack(losses).amax(0) - 1e-12).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_at_radius_zero_it_is_the_cross_entropy(method: bounds.Method, training: bool) -> None:
    model, (x, y) = network().train(training), images()
    bound = bound_of_loss(model, x, y, 0.0, method)
    torch.testing.assert_close(bound, functional.cross_entropy(model(x), y, reduction="none"))


def test_fusion_is_tighter_than_boxes_and_beta_goes_from_one_to_the_other() -> None:
    model, (x, y) = network().eval(), images()
    boxed, none, half, fused = (bound_of_loss(model, x, y, 0.05, method) for method in METHODS)
    torch.testing.assert_close(none, boxed)
    torch.testing.assert_close(bound_of_loss(model, x, y, 0.05, FusedCrossEntropy(0.5)), (boxed + fused) / 2)
    assert (fused <= half + 1e-12).all()
    assert (fused < boxed - 1e-3).all()


def test_fusion_is_exact_for_two_classes_and_tight_for_a_linear_model() -> None:
    """v = w·x + b over a box: the chord meets exp at the largest v, so the bound is the maximum itself."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double()
    x, y = torch.rand(5, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    worst = torch.stack(
        [
            functional.cross_entropy(linear((x + 0.2 * torch.tensor(signs)).clamp(0, 1)), y, reduction="none")
            for signs in product((-1.0, 1.0), repeat=3)
        ]
    ).amax(0)
    rows = bounds.margins(y, 2, dtype=torch.float64)
    region = bounds.Linf(x, 0.2, 0.0, 1.0)
    bound = -bounds.lower_bounds(bounds.trace(linear, x).bind(), region, rows, FusedCrossEntropy(1.0))
    torch.testing.assert_close(bound.squeeze(1), worst)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_loss_and_gradient_stay_finite_however_wide_the_bounds(scale: float) -> None:
    model, (x, y) = network(scale).float().train(), images()
    loss = bound_of_loss(model, x.float(), y, 1.0, FusedCrossEntropy(1.0)).mean()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("method", [METHODS[0], METHODS[2]], ids=repr)
def test_gradient_is_that_of_finite_differences(method: bounds.Method) -> None:
    """Along a random direction of all parameters, batch statistics included."""
    model, (x, y) = network().train(), images()
    names = [name for name, _ in model.named_parameters()]
    start = [p.detach().clone() for p in model.parameters()]
    direction = [torch.randn_like(p) for p in start]
    rows, region = bounds.margins(y, 4, dtype=torch.float64), bounds.Linf(x, 0.02, 0.0, 1.0)

    def loss(t: Tensor) -> Tensor:
        moved = {name: p + t * d for name, p, d in zip(names, start, direction, strict=True)}
        return -bounds.lower_bounds(graph(True).bind(moved, batch=x), region, rows, method).mean()

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(t), t)
    h = 1e-6
    with torch.no_grad():
        difference = (loss(torch.tensor(h)) - loss(torch.tensor(-h))) / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-8)


def test_pgd_finds_the_worst_image_of_a_linear_model() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x, y = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1])
    weight = linear[1].weight.detach()
    gradient = (weight[1 - y] - weight[y]).view_as(x)
    worst = (x + 0.1 * gradient.sign()).clamp(0, 1)
    attacked = pgd(linear, x, y, eps=0.1, step=0.03, steps=7, start=x)
    torch.testing.assert_close(attacked, worst)
    assert not attacked.requires_grad


def test_pgd_keeps_to_the_ball_and_leaves_the_model_alone() -> None:
    model, (x, y) = network().float().train(), images()
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    x = x.float()
    attacked = pgd(model, x, y, eps=0.2, step=0.3, steps=3, start=x + 10 * torch.randn_like(x))
    assert ((attacked - x).abs() <= 0.2 + 1e-6).all()
    assert ((attacked >= 0) & (attacked <= 1)).all()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())


def test_ramp_is_smooth_and_rises_from_zero_to_one() -> None:
    fine = [smooth_ramp(-0.1 + 1.2 * k / 12000) for k in range(12001)]
    steps = [later - earlier for earlier, later in pairwise(fine)]
    assert (fine[0], fine[-1], smooth_ramp(0), smooth_ramp(1)) == (0, 1, 0, 1)
    assert min(steps) >= 0
    assert max(abs(b - a) for a, b in pairwise(steps[1100:10900])) < 3e-7, "a kink"
    assert smooth_ramp(0.05) < 0.001


def test_learning_rates() -> None:
    assert [half_cosine(t) for t in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [stairs(t, (0.5, 0.75)) for t in (0, 0.499, 0.5, 0.75, 1)] == pytest.approx(
        [1, 1, 0.1, 0.01, 0.01]
    )


def test_adversarial_radius_grows_over_its_warm_up() -> None:
    objective = AdversarialTraining(eps=0.2, warmup=0.5)
    assert [objective.schedule(t)["eps"] for t in (0, 0.25, 0.5, 1)] == pytest.approx([0, 0.1, 0.2, 0.2])
    assert AdversarialTraining(eps=0.2).schedule(0)["eps"] == 0.2


def test_schedules_of_certified_training() -> None:
    objective = FusedCrownIBP(eps=0.1, warmup=(0.2, 0.8), kappa=0.25, beta=0.5)
    assert objective.schedule(0.2) == {"eps": 0, "kappa": 1, "beta": 1}
    assert objective.schedule(0.8) == pytest.approx({"eps": 0.1, "kappa": 0.25, "beta": 0.5})
    assert objective.bound(1.0) == FusedCrossEntropy(0.5)
    assert IntervalBounds().bound(0.5) == BoxedCrossEntropy()


def test_the_fused_loss_of_a_linear_model_by_hand() -> None:
    """Four classes: each exponential under its chord, the greatest weighted sum of the chords in closed form."""
    torch.manual_seed(4)
    model, eps = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double(), 0.07
    x, y = 0.3 + 0.4 * torch.rand(3, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 2, 3])
    rows = bounds.margins(y, 4, dtype=torch.float64)
    bound = bounds.trace(model, x).bind()
    found = -bounds.lower_bounds(bound, bounds.Linf(x, eps), rows, FusedCrossEntropy(1.0)).squeeze(1)
    with torch.no_grad():
        slope = -rows @ model[1].weight
        value = -(rows @ model(x).unsqueeze(2)).squeeze(2)
        reach = eps * slope.abs().sum(2)
        a, b = value - reach, value + reach
        chord = (b.exp() - a.exp()) / (b - a)
        mixed = (chord.unsqueeze(2) * slope).sum(1).abs().sum(1) * eps + (chord * value).sum(1)
        total = (b.exp() - chord * b).sum(1) + mixed
    torch.testing.assert_close(found.detach(), (1 + total).log(), rtol=1e-9, atol=1e-9)
