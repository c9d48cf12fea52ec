"""How far rounding may take a bound: the first-order error of evaluating the network, from its derivatives.

In a precision of unit roundoff u a sum of m products w·x is computed with an error of at most m·u·Σ|w·x| to first order
(Higham 2002, section 3.1), and an elementary function v with a few u·|v|.  What these errors do to the output is their
product with its derivative.  Σ|∂f/∂w||w| over the weights of a linear layer is |∂f/∂v|·Σ|w·x|, so that all together are
at most

    n·u·E,    E = |f| + Σ over values |∂f/∂v|·|v| + Σ over weights |∂f/∂w|·|w| + Σ over pixels |∂f/∂x|·(|x| + ε),

n the largest number of units of a tensor, and eight more.  A bound computes two such sums, a centre and a radius, and
its planes are functions of bounds that have such errors themselves: it may be off by SIDES·n·u·E, and no more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.soundness.networks import Drawn

SIDES = 4
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}


def magnitude(model: Drawn, x: Tensor, row: Tensor, eps: Tensor) -> float:
    """n·E of row·f at one point x [*shape]; eps broadcasts to it."""
    x = torch.stack([x, x]).requires_grad_()  # of two: an axis of one image may be squeezed
    values = model.values(x)
    output = (model.output(values)[0].flatten() * row).sum()
    parameters = list(model.parameters())
    read = [value for value in values if value.requires_grad]
    gradients = torch.autograd.grad(output, [*read, *parameters], allow_unused=True)
    total = float(output.detach().abs())
    for tensor, gradient in zip([*read, *parameters], gradients, strict=True):
        if gradient is not None:
            reach = tensor.detach().abs() + (eps if tensor is x else 0.0)
            total += float((gradient.abs() * reach).nan_to_num(nan=0.0, posinf=0.0).sum())
    return (max(value[0].numel() for value in values) + 8) * total


def allowance(model: Drawn, points: list[Tensor], row: Tensor, eps: Tensor, dtype: str) -> float:
    """SIDES·u·n·E, with the largest E among the points."""
    return SIDES * UNIT[dtype] * max(magnitude(model, point.detach(), row, eps) for point in points)
