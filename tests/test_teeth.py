"""Rules broken on purpose: the soundness check of the operators must notice each of them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from operators import OPERATORS, Function, Operator
from soundness import METHODS, NETS, balls, images, output_bounds, points, ready, values, violation
from torch import Tensor, nn

import bounds
from bounds.graph import Call
from bounds.interval import Interval
from bounds.operators import RULES, Affine, Nonlinear
from bounds.operators.curve import Curve
from bounds.operators.rule import Alphas
from bounds.relaxation import Plane, Relaxation, Slope, Window

aten = torch.ops.aten


def worst(operator: Operator) -> float:
    """The greatest violation by any method over any region, in both networks of the operator."""
    found = -1.0
    for net in NETS:
        model, x = ready(operator, net), images(operator)
        network = bounds.trace(model, x).bind()
        for ball in balls(x):
            outputs = values(model, points(ball, model))
            for method in METHODS.values():
                found = max(found, violation(output_bounds(network, ball.region(), method), outputs))
    return found


def replaced(patch: pytest.MonkeyPatch, target: object, **parts: object) -> None:
    patch.setitem(RULES, target, replace(RULES[target], **parts))


def low_relu(patch: pytest.MonkeyPatch) -> None:
    rule = RULES[aten.relu.default]
    assert isinstance(rule, Nonlinear)

    def relax(call: Call, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
        planes = rule.relax(call, slope, alphas, x)
        return Relaxation(planes.lower, Plane(planes.upper.map, 0.99 * planes.upper.bias))

    replaced(patch, aten.relu.default, relax=relax)


def undilated_transpose(patch: pytest.MonkeyPatch) -> None:
    def transpose(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
        kernel = call["weight"]
        pulled = F.conv_transpose2d(coef, kernel, padding=1)
        return (pulled[..., : call.shapes[0][1], : call.shapes[0][2]],)

    replaced(patch, aten.conv2d.default, transpose=transpose)


def padding_counted(patch: pytest.MonkeyPatch) -> None:
    def counted(call: Call, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, call["kernel_size"], call["stride"], call["padding"])

    replaced(patch, aten.avg_pool2d.default, linear=counted)


def tangent_elsewhere(patch: pytest.MonkeyPatch) -> None:
    def extremes(self: Curve, x: Interval, s: Tensor) -> tuple[Tensor, Tensor]:
        ends = [self.value(end) - s * end for end in (x.lower, x.upper)]
        return torch.minimum(*ends), torch.maximum(*ends)

    patch.setattr(Curve, "extremes", extremes)


def zero_padding(patch: pytest.MonkeyPatch) -> None:
    gather = Window.gather
    patch.setattr(Window, "gather", lambda self, x, fill: gather(self, x, 0.0))


def positive_gamma(patch: pytest.MonkeyPatch) -> None:
    rule = RULES[aten.batch_norm.default]
    assert isinstance(rule, Affine) and rule.transpose is not None
    back = rule.transpose
    replaced(
        patch,
        aten.batch_norm.default,
        transpose=lambda call, coef: tuple(
            c * call["weight"].sign().reshape(-1, 1, 1) for c in back(call, coef)
        ),
    )


def signed_magnitude(patch: pytest.MonkeyPatch) -> None:
    replaced(patch, aten.linear.default, magnitude=lambda call, x: F.linear(x, call["weight"]))


def one_corner(patch: pytest.MonkeyPatch) -> None:
    replaced(
        patch,
        aten.square.default,
        interval=lambda call, x: Interval(x.lower.square(), x.upper.square().maximum(x.lower.square())),
    )


def no_constant(patch: pytest.MonkeyPatch) -> None:
    replaced(patch, aten.constant_pad_nd.default, bias=lambda call: None)
    replaced(patch, aten.pad.default, bias=lambda call: None)


NEGATIVE = Operator(lambda: nn.Sequential(Function(lambda x: x - 2), nn.MaxPool2d(3, 1, 1)), (1, 5, 4))
BROKEN = {
    "relu: upper bias lowered by 1 %": (low_relu, OPERATORS["relu"]),
    "convolution: transpose without dilation": (undilated_transpose, OPERATORS["conv2d dilation 2"]),
    "average pool: padding counted": (padding_counted, OPERATORS["avg pool, padding not counted"]),
    "sigmoid: planes through the ends only": (tangent_elsewhere, OPERATORS["sigmoid, steep"]),
    "max pool: padding as 0": (zero_padding, NEGATIVE),
    "batch norm: gamma's sign dropped": (positive_gamma, OPERATORS["batch norm, negative gamma"]),
    "linear: no absolute value in the magnitude": (signed_magnitude, OPERATORS["relu"]),
    "square: the ends as the range": (one_corner, OPERATORS["square"]),
    "padding: its constant dropped": (no_constant, OPERATORS["constant padding"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_notices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound as it is, and seen to be unsound once broken."""
    break_it, operator = BROKEN[name]
    assert worst(operator) <= 1e-9
    break_it(monkeypatch)
    try:
        assert worst(operator) > 1e-7
    except bounds.BoundsError as stopped:  # bounds that cross stop the engine itself
        assert "the lower bound exceeds the upper bound" in str(stopped)
