"""Points of a region: none of them may lie outside a bound."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2", "l1"]
Box = float | Tensor | None


def sample_region(
    x: Tensor,
    eps: float | Tensor,
    norm: Norm,
    lower: Box = None,
    upper: Box = None,
    *,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Points of the ball ‖(x' − x)/eps‖ ≤ 1 ∩ [lower, upper]: inside, sphere, axes.  [count, N, *shape]

    x [N, *shape]; eps scalar, [N] or [N, *shape]. For l2 and l1 the centre must be inside the box.
    """
    size = x[0].numel()
    shape = (count, x.shape[0], size)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform() -> Tensor:
        return torch.rand(shape[:2], generator=generator, dtype=torch.float64).unsqueeze(-1)

    signs = normal().sign()
    share = uniform() ** 2
    kept = torch.rand(shape, generator=generator, dtype=torch.float64) < share
    some = torch.where(kept, signs, 0.0)
    axis = (
        torch.zeros(shape, dtype=torch.float64).scatter_(
            2, torch.randint(size, (*shape[:2], 1), generator=generator), 1.0
        )
        * signs
    )
    directions = [
        signs,
        some,
        axis,
        normal(),
        torch.where(kept, normal(), 0.0),
        _flat(x.sign()).expand(shape),
    ]
    kind = torch.randint(len(directions), shape[:2], generator=generator)
    direction = torch.stack(directions).gather(0, kind[None, :, :, None].expand(1, *shape))[0]
    if norm == "linf":
        unit = torch.where(
            (kind == 3).unsqueeze(-1), torch.rand(shape, generator=generator).double() * 2 - 1, direction
        )
        unit = unit.clamp(-1, 1)
    else:
        length = direction.norm(p=2 if norm == "l2" else 1, dim=-1, keepdim=True)
        unit = direction / length.clamp(min=1e-300)
    inside = uniform() < 0.3
    unit = torch.where(inside, unit * uniform() ** (1 / size), unit)
    return _place(unit.reshape(count, *x.shape), x, eps, norm, lower, upper)


def descend_region(
    function: Callable[[Tensor], Tensor],
    row: Tensor,
    x: Tensor,
    eps: float | Tensor,
    norm: Norm,
    lower: Box = None,
    upper: Box = None,
    *,
    steps: int = 20,
) -> Tensor:
    """Points of the region found by Frank-Wolfe steps towards the minimum of row·function. [steps, N, *shape]

    row [K] or [N, K]. The first step goes by the gradient's sign (l∞), direction (l2) or largest pixel (l1).
    """
    point, path = x.clone(), []
    for step in range(steps):
        leaf = point.detach().requires_grad_()
        gradient = torch.autograd.grad((function(leaf) * row).sum(), leaf, materialize_grads=True)[0]
        slope = _flat(gradient) * _flat(_radii(x, eps))
        if norm == "linf":
            unit = -slope.sign()
        elif norm == "l2":
            unit = -slope / slope.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        else:
            unit = torch.zeros_like(slope)
            largest = slope.abs().argmax(-1, keepdim=True)
            unit.scatter_(1, largest, -slope.gather(1, largest).sign())
        end = _place(unit.reshape(x.shape), x, eps, norm, lower, upper)
        point = point + (end - point) / (1 + step / 2)
        path.append(point)
    return torch.stack(path)


def _place(unit: Tensor, x: Tensor, eps: float | Tensor, norm: Norm, lower: Box, upper: Box) -> Tensor:
    """x + eps·unit moved into the box; from a centre inside it, that move never leaves the ball."""
    radii = _radii(x, eps)
    low, high = cut(x, radii, lower, upper)
    if norm != "linf" and ((x < low) | (x > high)).any():
        raise ValueError("sampling an l2 or l1 region takes a centre inside the box")
    return torch.clamp(x + radii * unit.to(x), low, high)


def cut(x: Tensor, radii: Tensor, lower: Box, upper: Box) -> tuple[Tensor, Tensor]:
    low, high = x - radii, x + radii
    if lower is not None:
        low = torch.maximum(low, torch.as_tensor(lower, dtype=x.dtype, device=x.device))
    if upper is not None:
        high = torch.minimum(high, torch.as_tensor(upper, dtype=x.dtype, device=x.device))
    return low, high


def _radii(x: Tensor, eps: float | Tensor) -> Tensor:
    radii = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    return (
        radii.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape) if radii.ndim == 1 else radii.expand(x.shape)
    )


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)
