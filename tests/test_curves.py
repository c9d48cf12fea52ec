"""The derivatives of the scalar functions that planes are made from, and the units that planes are loose on."""

import pytest
import torch

from bounds.interval import Interval
from bounds.operators import relu, smooth
from bounds.operators.curve import Curve

CURVES = {name: made for name, made in vars(smooth).items() if isinstance(made, Curve)}


@pytest.mark.parametrize("name", CURVES)
def test_slope_and_bend_are_the_derivatives(name: str) -> None:
    curve = CURVES[name]
    low = -6.0 if curve.domain is None else 0.05
    x = torch.linspace(low, 6.0, 241, dtype=torch.float64) + 0.0031  # on no kink
    x.requires_grad_()
    (slope,) = torch.autograd.grad(curve.value(x).sum(), x)
    torch.testing.assert_close(curve.slope(x), slope.expand_as(x), rtol=1e-9, atol=1e-9)
    if curve.bend is not None:
        (bend,) = torch.autograd.grad(curve.slope(x).sum(), x)
        torch.testing.assert_close(curve.bend(x), bend, rtol=1e-9, atol=1e-9)


def test_a_relu_is_loose_on_units_of_both_signs_alone() -> None:
    ends = torch.tensor([[-2.0, -0.5], [-1.0, 0.0], [-1.0, 0.1], [0.0, 0.5], [0.3, 2.0], [0.0, 0.0]])
    (loose,) = relu._unstable(None, Interval(ends[:, 0], ends[:, 1]))
    assert loose.tolist() == [False, False, True, False, False, False]
