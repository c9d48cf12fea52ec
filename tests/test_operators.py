"""Every operator, at the input and between affine layers, by every method over every region."""

from functools import cache

import pytest
import torch
from effort import in_turn
from operators import OPERATORS
from oracles import linear_minimum
from soundness import METHODS, NETS, Ball, balls, images, output_bounds, points, ready, values, violation
from torch import Tensor, nn

import bounds

NEVER_LOOSER = [
    ("ibp", "crown-ibp"),
    ("ibp", "zonotope"),
    ("ibp", "crown"),
    ("zonotope", "zonotope+crown"),
    ("crown", "alpha-crown"),
]
ROUNDING = 1e-9
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@cache
def traced(name: str, net: str) -> tuple[nn.Module, bounds.Graph]:
    """The network of an operator and its graph, for all tests of the operator, which follow each other."""
    model = ready(OPERATORS[name], net)
    return model, bounds.trace(model, images(OPERATORS[name]))


each_operator = pytest.mark.parametrize("name", OPERATORS, scope="module")


def met(name: str, net: str) -> list[int]:
    """The places among `balls` of the regions that an operator meets in a network; another norm in each by day."""
    return in_turn(range(6), name, turn=3 * list(NETS).index(net), count=1)


def test_every_region_is_met_in_every_network() -> None:
    """Names and networks choose the regions, so that none is left to the nights alone."""
    for net in NETS:
        assert {place for name in OPERATORS for place in met(name, net)} == set(range(6))
    for name in OPERATORS:
        assert len({place for net in NETS for place in met(name, net)}) >= 2
    for turn in range(3):
        assert {place for name in OPERATORS for place in in_turn(range(6), name, turn)} == set(range(6))


@pytest.mark.parametrize("net", NETS)
@each_operator
def test_an_operator(name: str, net: str) -> None:
    """The traced function is the model's; no point leaves a bound; affine networks are exact; no method is looser
    than what it refines."""
    operator = OPERATORS[name]
    (model, graph), x = traced(name, net), images(operator)
    network = graph.bind()
    for n in (1, 3):
        torch.testing.assert_close(
            network(images(operator, n)), model(images(operator, n)), rtol=0, atol=1e-12
        )
    regions = list(balls(x))
    for ball in [regions[place] for place in met(name, net)]:
        outputs = values(model, points(ball, model))
        found = {key: output_bounds(network, ball.region(), method) for key, method in METHODS.items()}
        for key, interval in found.items():
            assert violation(interval, outputs) <= ROUNDING, (ball, key)
        slack = ROUNDING * (1 + (found["ibp"].upper - found["ibp"].lower))
        for loose, tight in NEVER_LOOSER:
            assert (found[tight].lower >= found[loose].lower - slack).all(), (ball, loose, tight)
            assert (found[tight].upper <= found[loose].upper + slack).all(), (ball, loose, tight)
        if operator.affine:
            low, high = exact(model, ball)
            for key in ("crown", "zonotope", "ibp"):
                torch.testing.assert_close(found[key].lower[0, 0], low, rtol=1e-7, atol=1e-7)
                torch.testing.assert_close(found[key].upper[0, 0], high, rtol=1e-7, atol=1e-7)


def exact(model: nn.Module, ball: Ball) -> tuple[Tensor, Tensor]:
    """The first output's range for the first image, an affine model taken apart by its derivative."""
    x = ball.x[:1].clone().requires_grad_()
    value = model(x)[0, 0]
    slope = torch.autograd.grad(value, x)[0].flatten().numpy()
    center = x.detach().flatten().numpy()
    side = ball.box or (-torch.inf, torch.inf)
    box = [torch.full((len(center),), s, dtype=torch.float64).numpy() for s in side]
    low, high = (sign * linear_minimum(sign * slope, center, ball.eps, ball.norm, *box) for sign in (1, -1))
    offset = value.detach() - float(slope @ center)
    return low + offset, high + offset


@each_operator
def test_a_region_of_one_point_is_the_clean_value(name: str) -> None:
    """eps = 0 gives f(x), and every gradient is finite."""
    operator = OPERATORS[name]
    (model, graph), x = traced(name, "twice"), images(operator)
    with torch.no_grad():
        clean = model(x)
    for ball in in_turn(list(balls(x, 0.0)), name, turn=len(NETS)):
        for key, method in METHODS.items():
            leaf, eps = (
                x.clone().requires_grad_(),
                torch.zeros(len(x), dtype=torch.float64, requires_grad=True),
            )
            region = type(ball.region())(leaf, eps, *ball.sides)
            found = bounds.output_bounds(graph.bind(), region, method)
            torch.testing.assert_close(
                found.lower, clean, rtol=1e-9, atol=1e-9, msg=lambda m, k=key, b=ball: f"{k} {b}: {m}"
            )
            torch.testing.assert_close(
                found.upper, clean, rtol=1e-9, atol=1e-9, msg=lambda m, k=key, b=ball: f"{k} {b}: {m}"
            )
            weight = next(model.parameters())
            for gradient in torch.autograd.grad((found.upper - 2 * found.lower).sum(), (leaf, eps, weight)):
                assert torch.isfinite(gradient).all(), (key, ball)


@each_operator
def test_images_do_not_know_of_each_other(name: str) -> None:
    """The bounds of an image alone are its bounds in a batch.  Not asked of alpha-CROWN, whose first slopes lie on
    kinks of the bound: there the last bit, which a batch may change, decides between derivatives."""
    operator = OPERATORS[name]
    network, x = traced(name, "twice")[1].bind(), images(operator, 3)
    exact = [method for name, method in METHODS.items() if name != "alpha-crown"]
    for norm, method in zip(("linf", "l2", "l1", "linf", "l2"), exact, strict=True):
        together = output_bounds(network, Ball(norm, x, 0.2).region(), method)
        for n in range(len(x)):
            alone = output_bounds(network, Ball(norm, x[n : n + 1], 0.2).region(), method)
            torch.testing.assert_close(alone.lower[0], together.lower[n], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(alone.upper[0], together.upper[n], rtol=1e-10, atol=1e-10)
