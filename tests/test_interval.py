"""Intervals by centre and radius: small radii keep their precision, and the ends are those of the exact range."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.chunking import budget
from bounds.graph.batch_norm import normalised
from bounds.interval import Interval
from bounds.passes.ibp import interval_bounds
from bounds.relaxation import Slope
from bounds.state import BoundState


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 12),
        nn.ReLU(),
        nn.Linear(12, 3),
    ).eval()


def state(module: nn.Module, x: Tensor, eps: float) -> BoundState:
    bound = bounds.trace(module, x).bind()
    region = bounds.Linf(x, eps, 0.0, 1.0)
    return BoundState(bound, region, budget(None, bound.dtype, bound.device), Slope.ADAPTIVE)


@pytest.mark.parametrize("eps", [1e-3, 1e-9, 1e-30])
def test_single_precision_keeps_small_radii(eps: float) -> None:
    """The radius is within 1e-4 of what double precision finds, far below a rounding error of the centres."""
    module, x = network(), torch.rand(3, 2, 8, 8) * 0.8 + 0.1
    narrow = state(module, x, eps)
    wide = state(copy.deepcopy(module).double(), x.double(), eps)
    for name in narrow.network.graph.nodes:
        with torch.no_grad():
            found, exact = narrow.interval(name).radius.double(), wide.interval(name).radius
        assert float((found - exact).abs().max()) <= 1e-4 * float(exact.max())


def test_the_ends_do_not_depend_on_how_an_interval_is_held() -> None:
    """ReLU and max pooling of balls, against the operators on the ends; radii from far above to far below centres."""
    torch.manual_seed(1)
    center = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    radius = torch.rand(4, 3, 6, 6, dtype=torch.float64) * torch.logspace(-9, 1, 4).reshape(4, 1, 1, 1)
    ball = Interval.around(center, radius)
    for module in (nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True)):
        bound = bounds.trace(module, center).bind(dtype=torch.float64)
        node = bound.graph.nodes[bound.graph.output]
        found = bounds.operators.rule_for(node).interval(bound.call(node), ball)
        torch.testing.assert_close(found.lower, module(ball.lower), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.upper, module(ball.upper), rtol=1e-12, atol=1e-14)
        assert bool((found.radius >= 0).all())


def test_walking_once_finds_the_same_intervals() -> None:
    module, x = network(), torch.rand(2, 2, 8, 8)
    kept, walked = state(module, x, 0.01), state(module, x, 0.01)
    wanted = list(kept.network.graph.nodes)[2::3]
    found = interval_bounds(walked, wanted)
    assert set(found) == set(wanted)
    for name in wanted:
        assert torch.equal(found[name].lower, kept.interval(name).lower)
        assert torch.equal(found[name].upper, kept.interval(name).upper)


def test_statistics_of_a_batch_and_their_derivatives() -> None:
    torch.manual_seed(2)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, mean, variance = normalised(x, weight, bias, 1e-5)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), unbiased=False))
    expected = nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)
    torch.testing.assert_close(y, expected)
    assert torch.autograd.gradcheck(lambda *given: normalised(*given, 1e-5), (x, weight, bias))


def test_ends_that_rounding_crosses_do_not_stay_crossed() -> None:
    """Two bounds of one number that miss each other by an ulp hold both ends when they are met."""
    low = torch.tensor([[1.0]], dtype=torch.float64)
    high = torch.nextafter(low, torch.full_like(low, 2.0))
    for one, other in (
        (Interval(low - 1, low), Interval(high, high + 1)),
        (Interval(high, high), Interval(low, low)),
    ):
        for met in (one.intersect(other), other.intersect(one)):
            assert torch.equal(met.lower, low) and torch.equal(met.upper, high)


def test_what_a_nonlinear_operator_gives_stays_in_its_range() -> None:
    """Planes of tanh on [−3, 3] reach beyond its values at the ends; what reads it knows them in any case."""
    x = torch.zeros(1, 2).double()
    network = bounds.trace(nn.Sequential(nn.Tanh(), nn.ReLU()), x).bind(dtype=x.dtype)
    analysis = BoundState(network, bounds.Linf(x, 3.0), budget(None, x.dtype, x.device), Slope.ADAPTIVE)
    bounds.Crown(intersect=False).lower(analysis, torch.eye(2).double().unsqueeze(0))
    found = analysis.interval("tanh")
    assert (found.upper <= math.tanh(3.0)).all() and (found.lower >= math.tanh(-3.0)).all()
