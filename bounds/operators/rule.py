"""The record of one operator, `Affine` or `Nonlinear`, and the signatures of the functions it consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..patch import PatchRule
from ..relaxation import Relaxation, Slope

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Alphas = tuple[Tensor, ...]
"""Numbers in [0, 1] that choose among the sound planes of a nonlinear operator, [N, 1 or S, …] each."""


class UnaryRule(Protocol[In, Out]):
    """A function of a call and its only perturbed operand."""

    def __call__(self, call: Call, x: In, /) -> Out: ...


class VariadicRule(Protocol[In, Out]):
    """A function of a call and all of its perturbed operands."""

    def __call__(self, call: Call, /, *operands: In) -> Out: ...


LinearRule = UnaryRule[Tensor, Tensor] | VariadicRule[Tensor, Tensor]
"""Operands [B, *in] to the output [B, *out], for any batch size B."""
IntervalRule = UnaryRule[Interval, Interval] | VariadicRule[Interval, Interval]
"""The operands' intervals [N, *in] to the interval of the output [N, *out]."""
AlphasRule = UnaryRule[Interval, Alphas] | VariadicRule[Interval, Alphas]
"""The operands' intervals [N, 1, *in] to the alphas of the default planes."""
UnstableRule = UnaryRule[Interval, tuple[Tensor, ...]] | VariadicRule[Interval, tuple[Tensor, ...]]
"""The operands' intervals [N, *in] to a mask of the unstable units of each operand, [N, *in] of bool."""


class UnaryRelaxRule(Protocol):
    """Relaxes an operator with one perturbed operand on its interval [N, 1, *in]."""

    def __call__(self, call: Call, slope: Slope, alphas: Alphas, x: Interval, /) -> Relaxation: ...


class VariadicRelaxRule(Protocol):
    """Relaxes an operator on the intervals [N, 1, *in] of all of its perturbed operands."""

    def __call__(self, call: Call, slope: Slope, alphas: Alphas, /, *operands: Interval) -> Relaxation: ...


RelaxRule = UnaryRelaxRule | VariadicRelaxRule
"""The operands' intervals to a relaxation; `alphas` choose among the sound planes, empty ones leave it to `slope`."""


DomainRule = UnaryRule[Interval, Tensor] | VariadicRule[Interval, Tensor]
"""The operands' intervals to a mask [N, *out] of the outputs that are defined on all of them."""


class TransposeRule(Protocol):
    """The transpose of a linear map: coefficients [B, *out] to coefficients [B, *in] of each operand."""

    def __call__(self, call: Call, coef: Tensor, /) -> tuple[Tensor, ...]: ...


class BiasRule(Protocol):
    """The constant of an affine operator, [1, *out or broadcastable]; None for zero."""

    def __call__(self, call: Call, /) -> Tensor | None: ...


class WorkRule(Protocol):
    """The number of multiplications per output unit."""

    def __call__(self, call: Call, /) -> int: ...


def _no_bias(call: Call) -> Tensor | None:
    return None


def _one(call: Call) -> int:
    return 1


def vjp(linear: LinearRule) -> TransposeRule:
    """Return the transpose of a linear map by its vector-Jacobian product, which is itself differentiable."""

    def transpose(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            zero = torch.zeros((), dtype=coef.dtype, device=coef.device)
            operands = [zero.expand(len(coef), *shape).clone().requires_grad_() for shape in call.shapes]
            output = linear(call, *operands)
        return torch.autograd.grad(output, operands, coef, create_graph=torch.is_grad_enabled())

    return transpose


@dataclass(frozen=True)
class Affine:
    """The record of an affine operator y = Σₖ Lₖ xₖ + b."""

    linear: LinearRule
    """linear(call, *operands): Σ Lₖ xₖ, for any batch size."""
    bias: BiasRule = _no_bias
    """bias(call): b as [1, *out or broadcastable]; None for zero."""
    magnitude: LinearRule | None = None
    """magnitude(call, *operands): as `linear`, with |L|; None only if no coefficient of L can be negative."""
    transpose: TransposeRule | None = None
    """transpose(call, coef [B, *out]): Lₖᵀ coef for each operand; None for the vector-Jacobian product of `linear`."""
    mixing: bool = True
    """Whether an output unit may depend on several units of one operand."""
    moves: bool = False
    """Whether every output unit is an operand unit, so that the operand's bounds are the output's."""
    variadic: bool = False
    """Whether any of the operator's arguments may be perturbed; otherwise only the first may."""
    patches: PatchRule | None = None
    """How patches pass the operator; None makes the coefficients dense."""
    work: WorkRule = _one
    """work(call): multiplications per output unit."""

    def pull(self, call: Call, coef: Tensor) -> tuple[Tensor, ...]:
        """Return Lₖᵀ coef of each operand, for coefficients [N, S, *out]."""
        n, s = coef.shape[:2]
        folded = coef.reshape(n * s, *coef.shape[2:])
        pulled = (self.transpose or vjp(self.linear))(call, folded)
        return tuple(p.reshape(n, s, *p.shape[1:]) for p in pulled)

    def push(self, call: Call, *operands: Tensor) -> Tensor:
        """Return Σ Lₖ xₖ for operands with two batch axes [N, G, *in]."""
        n, g = operands[0].shape[:2]
        out = self.linear(call, *(x.reshape(n * g, *x.shape[2:]) for x in operands))
        return out.reshape(n, g, *out.shape[1:])

    def interval(self, call: Call, *operands: Interval) -> Interval:
        """Return the output's interval L·center + b ± |L|·radius."""
        center = self.linear(call, *(x.center for x in operands))
        bias = self.bias(call)
        center = center if bias is None else center + bias
        return Interval.around(center, self.spread(call, *(x.radius for x in operands)))

    def spread(self, call: Call, *radii: Tensor) -> Tensor:
        """Return |L|·radius."""
        return (self.magnitude or self.linear)(call, *radii)


def _all_units(call: Call, *operands: Interval) -> tuple[Tensor, ...]:
    return tuple(torch.ones_like(x.lower, dtype=torch.bool) for x in operands)


def _no_alphas(call: Call, *operands: Interval) -> tuple[Tensor, ...]:
    return ()


@dataclass(frozen=True)
class Nonlinear:
    """The record of an operator that needs a relaxation."""

    interval: IntervalRule
    """interval(call, *operands): the exact range, [N, *out]."""
    relax: RelaxRule
    """relax(call, slope, alphas, *operands): a sound relaxation on the operands' intervals [N, 1, *in].

    `alphas` holds numbers in [0, 1], [N, 1 or S, …], that choose among the sound planes; empty for the default of
    `slope`.
    """
    alphas: AlphasRule = _no_alphas
    """alphas(call, *operands): the alphas of the default planes, where an optimiser starts."""
    unstable: UnstableRule = _all_units
    """unstable(call, *operands): a mask [N, *in] per operand of the units on which the relaxation is loose.

    Only these units need tighter bounds.
    """
    elementwise: bool = True
    """Whether the mask of a unit depends on the interval of that unit alone."""
    by_sign: bool = False
    """Whether the mask depends only on whether the interval has zero in its interior."""
    variadic: bool = False
    """As in `Affine`."""
    patches: PatchRule | None = None
    """As in `Affine`."""
    work: WorkRule = _one
    """As in `Affine`."""
    domain: DomainRule | None = None
    """domain(call, *operands): where the operator is defined on all of the intervals, [N, *out]; None: everywhere."""


Rule = Affine | Nonlinear

__all__ = ["Affine", "Alphas", "Interval", "Nonlinear", "Relaxation", "Rule", "Slope", "vjp"]
