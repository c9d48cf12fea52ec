"""The norms of adversarial distances."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[N] -> [N, 1, ..., 1], to broadcast against `like` [N, *shape]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def scaled(delta: Tensor, t: Tensor) -> Tensor:
    """t·δ, the straight path from 0 (t = 0) to δ (t = 1).  delta [N, *shape], t [N]"""
    return delta * per_image(t, delta)


def clipped(delta: Tensor, t: Tensor) -> Tensor:
    """Each element of δ clamped to ±t·‖δ‖∞: along this path, small elements shrink last."""
    bound = per_image(t * delta.abs().flatten(1).amax(1), delta)
    return delta.clamp(-bound, bound)


@dataclass(frozen=True)
class AttackNorm:
    """A norm, and the paths along which a perturbation is shortened."""

    name: str
    """The name in certnas."""
    autoattack: str
    """The name in pyautoattack."""
    length: Callable[[Tensor], Tensor]
    """The norm of each perturbation: [N, *shape] -> [N]."""
    paths: tuple[Callable[[Tensor, Tensor], Tensor], ...]
    """Paths from 0 (t = 0) to a perturbation (t = 1): [N, *shape], [N] -> [N, *shape]."""


LINF = AttackNorm("linf", "Linf", lambda delta: delta.abs().flatten(1).amax(1), (scaled, clipped))
L2 = AttackNorm("l2", "L2", lambda delta: delta.square().flatten(1).sum(1).sqrt(), (scaled,))
L1 = AttackNorm("l1", "L1", lambda delta: delta.abs().flatten(1).sum(1), (scaled,))
NORMS = {norm.name: norm for norm in (LINF, L2, L1)}
