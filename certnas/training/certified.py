"""Certified training: bound methods for the worst-case cross-entropy over a ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import BoundState


@dataclass(frozen=True)
class BoxedCrossEntropy(bounds.Method):
    """A lower bound of −CE(f(x'), y) over the ball: −log(1 + Σ_j exp(−l_j)), with interval bounds l_j ≤ f_y
    − f_j.

    The specification must be `bounds.margins(y, K)`. [N, K−1, K] -> [N, 1]. Gowal et al. 2018.
    """

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        return -_log_sum(-state.lower_bounds_by_intervals(coef))


@dataclass(frozen=True)
class FusedCrossEntropy(bounds.Method):
    """−β·(fused upper bound of CE) − (1 − β)·(boxed upper bound of CE), with one specification row per image.

    CE = log(1 + Σ_j exp(v_j)), where v_j = f_j − f_y lies in [a_j, b_j] by interval arithmetic. Each
    exponential lies below its chord on [a_j, b_j] with slope s_j, so that over the ball

        Σ_j exp(v_j) ≤ Σ_j (exp(b_j) − s_j·b_j) + max Σ_j s_j·v_j.

    The last maximum is over one linear form of the logits. CROWN-IBP's backward pass thus has one row for
    any K (loss fusion: Xu et al. 2020, section 3.3) instead of K−1 margins. The sum of the maxima Σ_j
    s_j·max v_j is never smaller, so the fused bound is never above the boxed one. It is exact at radius 0.

    The specification must be `bounds.margins(y, K)`. [N, K−1, K] -> [N, 1]
    """

    beta: float = 1.0
    """β in [0, 1], the weight of the fused bound."""

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        below, above = state.lower_bounds_by_intervals(torch.cat([coef, -coef], 1)).chunk(2, 1)
        boxed = _log_sum(-below)
        if self.beta == 0:
            return -boxed
        fused = self._fused(state, coef, above, -below)
        return -(self.beta * fused + (1 - self.beta) * boxed)

    @staticmethod
    def _fused(state: BoundState, coef: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The fused bound of CE; a, b [N, K−1] are the bounds of v.

        All exponentials are in units of exp(shift). [N, 1]
        """
        shift = b.amax(1, keepdim=True).clamp(min=0).detach()
        top = (b - shift).exp()
        slope = top * _chord(b - a)
        row = (slope.unsqueeze(2) * coef).sum(1, keepdim=True)
        least = state.lower_bounds(state.network.graph.output, row)
        slack = (-least - (slope * b).sum(1, keepdim=True)).clamp(max=0)
        total = top.sum(1, keepdim=True) + slack
        floor = (a - shift).exp().sum(1, keepdim=True)
        one = (-shift).exp()
        return shift + (one + torch.maximum(total, floor)).clamp(min=torch.finfo(a.dtype).tiny).log()


def _log_sum(v: Tensor) -> Tensor:
    """log(1 + Σ_j exp(v_j)). [N, K−1] -> [N, 1]"""
    return torch.cat([torch.zeros_like(v[:, :1]), v], 1).logsumexp(1, keepdim=True)


def _chord(width: Tensor) -> Tensor:
    """(1 − exp(−d)) / d for d ≥ 0, the slope of the chord in units of exp(b); 1 at d = 0."""
    small = width < 1e-4
    safe = torch.where(small, 1.0, width)
    return torch.where(small, 1 - width / 2, -torch.expm1(-safe) / safe)
