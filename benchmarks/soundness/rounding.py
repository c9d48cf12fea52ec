"""How far rounding may take a bound: the first-order error of evaluating the network, from its derivatives.

In a precision of unit roundoff u a sum of m products w·x is computed with an error of at most m·u·Σ|w·x| to first order
(Higham 2002, section 3.1), and an elementary function v with a few u·|v|.  What these errors do to the output is their
product with its derivative.  Σ|∂f/∂w||w| over the weights of a linear layer is |∂f/∂v|·Σ|w·x|, so that all together are
at most

    n·u·E,    E = |f| + Σ over values |∂f/∂v|·|v| + Σ over weights |∂f/∂w|·|w| + Σ over pixels |∂f/∂x|·(|x| + ε),

n the largest number of units of a tensor, and eight more.  A bound computes two such sums, a centre and a radius, and
its planes are functions of bounds that have such errors themselves: it may be off by SIDES·n·u·E, and no more.  A bound
reads the values of the whole region, not those of one point: an interval [0, 10⁶] has a centre and a radius of 5·10⁵,
whose rounding it keeps at its end 0.  So each |v| and each |∂f/∂v| is the largest among points of the region.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.soundness.networks import Drawn

SIDES = 4
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}


def _terms(
    model: Drawn, x: Tensor, row: Tensor, eps: Tensor
) -> tuple[float, list[tuple[Tensor, Tensor]], int]:
    """Returns |row·f| at a point x [*shape], each tensor's |value| (+ ε for pixels) and |derivative|, and n."""
    x = torch.stack([x, x]).requires_grad_()  # of two: an axis of one image may be squeezed
    values = model.values(x)
    output = (model.output(values)[0].flatten() * row).sum()
    read = [*(value for value in values if value.requires_grad), *model.parameters()]
    gradients = torch.autograd.grad(output, read, allow_unused=True)
    terms = []
    for tensor, gradient in zip(read, gradients, strict=True):
        derivative = torch.zeros_like(tensor) if gradient is None else gradient.abs()
        size = tensor.detach().abs() + (eps if tensor is x else 0.0)
        terms.append((size, derivative.nan_to_num(nan=0.0, posinf=0.0)))
    return (
        float(output.detach().abs().nan_to_num(nan=0.0, posinf=0.0)),
        terms,
        max(value[0].numel() for value in values) + 8,
    )


def allowance(model: Drawn, points: list[Tensor], row: Tensor, eps: Tensor, dtype: str) -> float:
    """SIDES·u·n·E; each value and each derivative in E is the largest that it has at any of the points."""
    found = [_terms(model, point.detach(), row, eps) for point in points]
    total = max(output for output, _, _ in found)
    for tensor in zip(*(terms for _, terms, _ in found), strict=True):
        size = torch.stack([size for size, _ in tensor]).amax(0)
        derivative = torch.stack([derivative for _, derivative in tensor]).amax(0)
        total += float((size * derivative).nan_to_num(nan=0.0, posinf=0.0).sum())
    return SIDES * UNIT[dtype] * max(units for _, _, units in found) * total
