"""Moves adversarial candidates to the decision boundary, in float64."""

from collections.abc import Callable

import torch
from torch import Tensor

from certnas.attacks.norms import AttackNorm, per_image

OVERSHOOTS = (1.0, 1 + 1e-6, 1 + 1e-4, 1 + 1e-2)  # a success in float32 can narrowly fail in float64
HALVINGS = 32


def to_boundary(
    wrong: Callable[[Tensor], Tensor], x: Tensor, candidate: Tensor, norm: AttackNorm
) -> tuple[Tensor, Tensor]:
    """Moves each candidate towards x as far as it stays adversarial.

    It bisects t along each of the norm's paths from x (t = 0, not adversarial) to the candidate (t = 1). Every
    returned example was itself evaluated as adversarial, and lies in [0, 1].

    wrong: maps images [n, *shape] to whether they are adversarial, [n] bool.
    x, candidate: images and candidates [n, *shape], float64.
    Returns the examples [n, *shape], and which of them are adversarial, [n] bool.
    """
    example, found = x, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for overshoot in OVERSHOOTS:
        point = (x + (candidate - x) * overshoot).clamp(0, 1)
        new = wrong(point) & ~found
        example = torch.where(per_image(new, x), point, example)
        found = found | new
        if found.all():
            break
    for path in norm.paths:
        delta, shortest = example - x, example
        low = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        high = torch.ones_like(low)
        for _ in range(HALVINGS):
            t = (low + high) / 2
            point = (x + path(delta, t)).clamp(0, 1)
            still = wrong(point) & found
            shortest = torch.where(per_image(still, x), point, shortest)
            low, high = torch.where(still, low, t), torch.where(still, t, high)
        example = shortest
    return example, found
