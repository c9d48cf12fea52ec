"""Operators at their edges: ends on kinks, dead and saturated units, infinite intervals, training mode, refusals."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from operators import Function, norm
from soundness import METHODS, Ball, balls, output_bounds, points, values, violation
from torch import Tensor, nn

import bounds
from bounds.operators import RULES, Nonlinear
from bounds.relaxation import Diagonal

ROUNDING = 1e-9
PIECEWISE = {
    "relu": F.relu,
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "steep leaky relu": lambda x: F.leaky_relu(x, 1.5),
    "abs": torch.abs,
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 1.0),
    "hardsigmoid": lambda x: F.hardsigmoid(x - 3),
    "elu": lambda x: F.elu(x, 2.0),
    "square": torch.square,
    "sign": torch.sign,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "softplus": lambda x: F.softplus(x, threshold=0.0),
    "max pool": lambda x: F.max_pool1d(x.unsqueeze(1), 2, 1).squeeze(1),
}
INTERVALS = [
    (0.0, 0.5),
    (-0.5, 0.0),
    (0.0, 0.0),
    (-0.5, 0.5),
    (-1e-13, 1e-13),
    (0.25, 0.25),
    (-3.0, -2.0),
    (1.0, 1e-3),
]


def network_of(model: nn.Module, x: Tensor) -> bounds.Network:
    return bounds.trace(model, x).bind(dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PIECEWISE)
def test_intervals_that_end_on_a_kink(name: str, method: str) -> None:
    """Units with l = u, l = 0, u = 0, l = −u, side by side: sound and, one at a time, attained on both sides."""
    low = torch.tensor([[min(pair) for pair in INTERVALS]]).double()
    high = torch.tensor([[max(pair) for pair in INTERVALS]]).double()
    model = Function(PIECEWISE[name])
    eps = ((high - low) / 2).requires_grad_()
    center = ((low + high) / 2).requires_grad_()
    found = bounds.output_bounds(network_of(model, center), bounds.Linf(center, eps), METHODS[method])
    grid = (center + eps * torch.linspace(-1, 1, 2001).double()[:, None]).detach()
    outputs = model(grid)
    assert (found.lower <= outputs + 1e-12).all()
    assert (found.upper >= outputs - 1e-12).all()
    for gradient in torch.autograd.grad((found.upper - found.lower).sum(), (eps, center)):
        assert torch.isfinite(gradient).all()


SIGN_ENDS = [
    (-0.5, 2.0),
    (-2.0, 0.5),
    (-1.0, 1.0),
    (0.0, 0.7),
    (-0.7, 0.0),
    (0.0, 0.0),
    (0.2, 0.9),
    (-0.9, -0.2),
]


def sign_lines(
    alphas: tuple[Tensor, Tensor] | None, slope: bounds.Slope = bounds.Slope.ADAPTIVE
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ends of each interval, and the least distance of sign from its lower line, and of the upper line from it."""
    x = torch.tensor([[0.0] * len(SIGN_ENDS)]).double()
    network = network_of(Function(torch.sign), x)
    (node,) = network.graph.nodes.values()
    low, high = torch.tensor(SIGN_ENDS).double().T.unsqueeze(1)
    rule = RULES[node.target]
    assert isinstance(rule, Nonlinear)
    found = rule.relax(network.call(node), slope, alphas, bounds.Interval(low, high))
    inside = low + (high - low) * torch.linspace(0, 1, 4001).double()[:, None]
    tiny = torch.tensor([[-1e-15], [0.0], [1e-15]]).double()
    points = torch.cat([inside, tiny.expand(3, len(SIGN_ENDS)).clamp(low, high)])
    value = torch.sign(points)
    sides = []
    for plane in (found.lower, found.upper):
        assert isinstance(plane.map, Diagonal)
        sides.append(plane.map.slopes[0].reshape(1, -1) * points + plane.bias.reshape(1, -1))
    return low, high, (value - sides[0]).amin(0), (sides[1] - value).amin(0)


@pytest.mark.parametrize("t", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("s", [0.0, 0.3, 1.0])
def test_the_lines_of_sign_touch_it_from_either_side(t: float | None, s: float) -> None:
    """Below and above at every point of the interval, next to zero too, and each met by the sign somewhere."""
    ones = torch.ones(1, len(SIGN_ENDS)).double()
    _, _, below, above = sign_lines(None if t is None else (t * ones, s * ones))
    for gap in (below, above):
        assert (gap >= -1e-12).all()
        assert (gap <= 1e-9).all()


def test_the_steepest_lines_of_sign_meet_its_far_end() -> None:
    """t = 1: the lower line is 1 at u, the upper one −1 at l; where that end is zero they stay on the one piece."""
    ones = torch.ones(1, len(SIGN_ENDS)).double()
    network = network_of(Function(torch.sign), torch.zeros(1, len(SIGN_ENDS)).double())
    (node,) = network.graph.nodes.values()
    low, high = torch.tensor(SIGN_ENDS).double().T.unsqueeze(1)
    rule = RULES[node.target]
    assert isinstance(rule, Nonlinear)
    relax = partial(rule.relax, network.call(node))
    steep = relax(bounds.Slope.ADAPTIVE, (ones, ones), bounds.Interval(low, high))
    level = relax(bounds.Slope.PARALLEL, None, bounds.Interval(low, high))
    for plane, flat, end, other in (
        (steep.lower, level.lower, high, low),
        (steep.upper, level.upper, low, high),
    ):
        assert isinstance(plane.map, Diagonal) and isinstance(flat.map, Diagonal)
        at_end = plane.map.slopes[0].reshape(1, -1) * end + plane.bias.reshape(1, -1)
        expected = torch.where(end == 0, torch.sign(other), torch.sign(end))
        torch.testing.assert_close(at_end, expected, rtol=0, atol=1e-12)
        assert not flat.map.slopes[0].any()


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_of_dead_units_is_constant(method: str) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[0].bias.sub_(10)
    x = torch.rand(2, 3).double()
    found = output_bounds(network_of(model, x), bounds.Linf(x, 0.3), METHODS[method])
    torch.testing.assert_close(found.lower, model(x).detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.upper, model(x).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("f", [torch.sigmoid, torch.tanh, torch.atan, F.softplus, F.silu, F.gelu, F.elu])
def test_saturated_units(f: Callable[[Tensor], Tensor], method: str, dtype: torch.dtype) -> None:
    """Inputs at ±50, alone, touching and across: bounds hold to rounding, gradients are finite."""
    center = torch.tensor([[-50.0, 50.0, 0.0, -25.0, 25.0, 0.5]], dtype=dtype).requires_grad_()
    eps = torch.tensor([[1.0, 1.0, 50.0, 25.0, 25.0, 60.0]], dtype=dtype)
    model = Function(f)
    network = bounds.trace(model, center).bind(dtype=dtype)
    found = bounds.output_bounds(network, bounds.Linf(center, eps), METHODS[method])
    grid = center.detach().double() + eps.double() * torch.linspace(-1, 1, 4001).double()[:, None]
    outputs, rounding = model(grid), 200 * torch.finfo(dtype).eps
    assert (found.lower.double() <= outputs + rounding * (1 + outputs.abs())).all()
    assert (found.upper.double() >= outputs - rounding * (1 + outputs.abs())).all()
    (gradient,) = torch.autograd.grad((found.upper - found.lower).sum(), center)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("method", METHODS)
def test_zero_times_an_infinite_interval_is_zero(method: str) -> None:
    """exp overflows inside of the region, and the zero operation of DARTS does not let it out."""
    model = Function(lambda x: torch.exp(x * 1000).mul(0.0) + 2 * x)
    x = torch.tensor([[0.6, -0.3]]).double()
    found = output_bounds(network_of(model, x), bounds.Linf(x, 0.3), METHODS[method])
    torch.testing.assert_close(found.lower, 2 * x - 0.6, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.upper, 2 * x + 0.6, rtol=0, atol=1e-9)


def test_training_mode_batch_norm_uses_the_batch_given() -> None:
    """Against the same network in eval mode with those statistics written into it."""

    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 2, 3), norm([-1.2, 0.7]), nn.ReLU(),
            nn.Conv2d(2, 2, 1), norm(None), nn.Flatten(), nn.Linear(8, 3),
        ).double()  # fmt: skip

    batch, x = torch.randn(16, 2, 4, 4).double(), torch.rand(2, 2, 4, 4).double()
    model, fixed = build().train(), build().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = bounds.trace(model, x).bind(batch=batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(network(batch), model(batch), rtol=0, atol=1e-12)
        z = batch
        for module in fixed:
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(z.mean((0, 2, 3)))
                module.running_var.copy_(z.var((0, 2, 3), unbiased=False))
            z = module(z)
    for ball in balls(x):
        outputs = values(fixed, points(ball, fixed))
        for key, method in METHODS.items():
            found = output_bounds(network, ball.region(), method)
            assert violation(found, outputs) <= ROUNDING, (ball, key)
            expected = output_bounds(network_of(fixed, x), ball.region(), method)
            torch.testing.assert_close(found.lower, expected.lower, rtol=1e-9, atol=1e-9)


def test_training_mode_batch_norm_needs_a_batch() -> None:
    model = nn.Sequential(norm([1.0, 1.0])).double().train()
    with pytest.raises(bounds.InvalidInput, match="give batch=images"):
        bounds.trace(model, torch.rand(2, 2, 4, 3).double()).bind()


@pytest.mark.parametrize("build", [nn.Dropout, nn.Dropout2d])
def test_dropout_in_training_mode_is_refused(build: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), build(0.5)).train()
    x = torch.rand(2, 2, 3, 3)
    with pytest.raises(bounds.UnsupportedOp, match=r"model.eval\(\)"):
        bounds.output_bounds(bounds.trace(model, x).bind(), bounds.Linf(x, 0.1), bounds.IBP())


MIXES = {
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(1, 0, 2),
    "flip": lambda x: x.flip(0),
    "flip, negative axis": lambda x: x.flip(-3),
    "roll": lambda x: x.roll(1, 0),
    "roll of everything": lambda x: x.roll(1),
    "index": lambda x: x[torch.tensor([1, 0])],
    "index_select": lambda x: x.index_select(0, torch.tensor([1, 0])),
    "mean": lambda x: x - x.mean(0, keepdim=True),
    "sum of everything": lambda x: x * x.sum(),
    "slice": lambda x: x + x[:1],
    "reshape": lambda x: x.reshape(-1, 2),
    "cat": lambda x: torch.cat([x, x]),
}


@pytest.mark.parametrize("name", MIXES)
def test_an_operator_that_mixes_images_is_refused(name: str) -> None:
    """The example has as many images as there are channels, so that sizes alone do not tell."""
    with pytest.raises(bounds.UnsupportedOp, match="batch dimension"):
        bounds.trace(Function(lambda x: MIXES[name](2 * x)), torch.rand(2, 2, 2))


def test_an_in_place_change_of_a_view_is_seen_by_whoever_reads_the_memory() -> None:
    def f(x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0].mul_(3)
        return y

    x = torch.rand(2, 3, 4)
    network = bounds.trace(Function(f), x).bind()
    exact = bounds.output_bounds(network, bounds.Linf(x, 0.0), bounds.Crown())
    assert torch.equal(network(x), f(x))
    torch.testing.assert_close(exact.lower, f(x))
    torch.testing.assert_close(exact.upper, f(x))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (torch.erf, "no rule for aten.erf.default at node 'erf'"),
        (lambda x: x / torch.tensor([1.0, 0.0]), "division by zero"),
    ],
)
def test_what_no_rule_can_follow_is_refused_by_name(f: Callable[[Tensor], Tensor], message: str) -> None:
    x = torch.tensor([[0.1, 0.3]])
    with pytest.raises(bounds.BoundsError, match=message):
        bounds.output_bounds(bounds.trace(Function(f), x).bind(), bounds.Linf(x, 0.2), bounds.Crown())


def test_an_ellipsoid_around_each_image_has_its_own_radius() -> None:
    """eps per image equals one call for each."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, eps = torch.rand(3, 4).double(), torch.tensor([0.0, 0.1, 0.4]).double()
    network = network_of(model, x)
    for norm_of in ("linf", "l2", "l1"):
        together = output_bounds(network, type(Ball(norm_of, x, 0.1).region())(x, eps), bounds.Crown())
        for n in range(3):
            alone = output_bounds(
                network, Ball(norm_of, x[n : n + 1], float(eps[n])).region(), bounds.Crown()
            )
            torch.testing.assert_close(alone.lower[0], together.lower[n], rtol=1e-12, atol=1e-12)


def test_a_window_of_padding_alone_is_refused() -> None:
    model = nn.Sequential(nn.MaxPool2d(2, 1, padding=1, dilation=2), nn.Flatten()).eval()
    x = torch.rand(2, 1, 1, 3)
    with pytest.raises(bounds.InvalidInput, match="a window holds nothing but padding"):
        bounds.output_bounds(bounds.trace(model, x).bind(), bounds.Linf(x, 0.1), bounds.Crown())
