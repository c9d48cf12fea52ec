"""What the engine knows about one operator: a record of functions, `Affine` or `Nonlinear`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..patch import PatchRule
from ..relaxation import Relaxation, Slope


def _no_bias(call: Call) -> Tensor | None:
    return None


def _one(call: Call) -> int:
    return 1


def vjp(linear: Callable[..., Tensor]) -> Callable[[Call, Tensor], tuple[Tensor, ...]]:
    """The transpose of a linear map, from its own derivative: right by construction, differentiable again."""

    def transpose(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            zero = torch.zeros((), dtype=coef.dtype, device=coef.device)
            operands = [zero.expand(len(coef), *shape).clone().requires_grad_() for shape in call.shapes]
            output = linear(call, *operands)
        return torch.autograd.grad(output, operands, coef, create_graph=torch.is_grad_enabled())

    return transpose


@dataclass(frozen=True)
class Affine:
    """y = Σₖ Lₖ xₖ + b.

    linear(call, *operands): Σ Lₖ xₖ, for any batch size.  bias(call): b as [1, *out or broadcastable], None for zero.
    magnitude: the same as `linear` with |L|; None only where no coefficient of L can be negative.
    transpose(call, coef [B, *out]): Lₖᵀ coef for each operand.
    mixing: whether an output unit may depend on several units of one operand.  moves: every output unit *is* an
    operand unit, so bounds of the operand are bounds of the output and nothing is lost.
    variadic: whether any of its arguments may be perturbed; otherwise one may, the first.
    patches: how rows pass it as windows of an image; None writes them out.
    work(call): multiplications per output unit.
    """

    linear: Callable[..., Tensor]
    bias: Callable[[Call], Tensor | None] = _no_bias
    magnitude: Callable[..., Tensor] | None = None
    transpose: Callable[[Call, Tensor], tuple[Tensor, ...]] | None = None
    mixing: bool = True
    moves: bool = False
    variadic: bool = False
    patches: PatchRule | None = None
    work: Callable[[Call], int] = _one

    def pull(self, call: Call, coef: Tensor) -> tuple[Tensor, ...]:
        """Lₖᵀ coef for row coefficients [N, S, *out]."""
        n, s = coef.shape[:2]
        folded = coef.reshape(n * s, *coef.shape[2:])
        pulled = (self.transpose or vjp(self.linear))(call, folded)
        return tuple(p.reshape(n, s, *p.shape[1:]) for p in pulled)

    def push(self, call: Call, *operands: Tensor) -> Tensor:
        """Σ Lₖ xₖ for operands with two batch axes [N, G, *in]."""
        n, g = operands[0].shape[:2]
        out = self.linear(call, *(x.reshape(n * g, *x.shape[2:]) for x in operands))
        return out.reshape(n, g, *out.shape[1:])

    def interval(self, call: Call, *operands: Interval) -> Interval:
        """L·center + b ± |L|·radius."""
        center = self.linear(call, *(x.center for x in operands))
        bias = self.bias(call)
        center = center if bias is None else center + bias
        return Interval.around(center, self.spread(call, *(x.radius for x in operands)))

    def spread(self, call: Call, *radii: Tensor) -> Tensor:
        """|L|·radius."""
        return (self.magnitude or self.linear)(call, *radii)


def _all_units(call: Call, *operands: Interval) -> tuple[Tensor, ...]:
    return tuple(torch.ones_like(x.lower, dtype=torch.bool) for x in operands)


def _no_alphas(call: Call, *operands: Interval) -> tuple[Tensor, ...]:
    return ()


@dataclass(frozen=True)
class Nonlinear:
    """An operator that needs a relaxation.

    interval(call, *operands): the exact range, [N, *out].
    relax(call, slope, alphas, *operands): a `Relaxation` for operand intervals [N, 1, *in]; `alphas` holds numbers in
    [0, 1], [N, 1 or S, …], that choose among the sound planes (empty: the default choice for `slope`).
    alphas(call, *operands): the alphas that gives the default planes, where an optimiser starts.
    unstable(call, *operands): which operand units the relaxation is loose on, one mask [N, *in] each: only these
    deserve tighter bounds.  elementwise: that mask depends on a unit's own interval alone.  by_sign: and on nothing but
    whether zero lies inside of it.  variadic, patches, work: as in `Affine`.
    domain(call, *operands): where the operator is defined on all of the intervals, [N, *out]; None: everywhere.
    """

    interval: Callable[..., Interval]
    relax: Callable[..., Relaxation]
    alphas: Callable[..., tuple[Tensor, ...]] = _no_alphas
    unstable: Callable[..., tuple[Tensor, ...]] = _all_units
    elementwise: bool = True
    by_sign: bool = False
    variadic: bool = False
    patches: PatchRule | None = None
    work: Callable[[Call], int] = _one
    domain: Callable[..., Tensor] | None = None


Rule = Affine | Nonlinear
Alphas = tuple[Tensor, ...]

__all__ = ["Affine", "Alphas", "Interval", "Nonlinear", "Relaxation", "Rule", "Slope", "vjp"]
