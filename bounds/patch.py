"""Rows that start at single units, kept as small patches of the image until they meet an operator that spreads them.

A unit of a convolution sees a few positions only.  Its row is held as [N, S, C, kh, kw] coefficients at an offset, and
goes through convolutions, batch normalisation and sums in that form; then it is written out as a dense row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.graph import Call
from bounds.ops.affine import RULES
from bounds.ops.conv import symmetric_geometry
from bounds.ops.rule import Affine

aten = torch.ops.aten


@dataclass(frozen=True)
class Patch:
    """coef [N, S, C, kh, kw]; its first row and column stand at `top`, `left` [N, S] of a tensor [C, H, W] = `shape`.

    Coefficients outside of the tensor are zero.
    """

    coef: Tensor
    top: Tensor
    left: Tensor
    shape: tuple[int, ...]

    def masked(self) -> Patch:
        """The same, with what stands outside of the tensor set to zero."""
        inside = _inside(self.top, self.coef.shape[3], self.shape[1]).unsqueeze(-1)
        inside = inside & _inside(self.left, self.coef.shape[4], self.shape[2]).unsqueeze(-2)
        return replace(self, coef=self.coef * inside.unsqueeze(2))

    def dense(self) -> Tensor:
        """[N, S, C, H, W]"""
        n, s, c, kh, kw = self.coef.shape
        h, w = self.shape[1:]
        rows = self.top.unsqueeze(-1) + torch.arange(kh, device=self.top.device)
        columns = self.left.unsqueeze(-1) + torch.arange(kw, device=self.top.device)
        place = rows.clamp(0, h - 1).unsqueeze(-1) * w + columns.clamp(0, w - 1).unsqueeze(-2)
        index = place.reshape(n, s, 1, kh * kw).expand(n, s, c, kh * kw)
        flat = torch.zeros(n, s, c, h * w, dtype=self.coef.dtype, device=self.coef.device)
        return flat.scatter_add(3, index, self.coef.reshape(n, s, c, kh * kw)).reshape(n, s, c, h, w)

    @property
    def small(self) -> bool:
        """Whether the patch is still worth keeping: less than a quarter of the tensor."""
        return 4 * self.coef.shape[3] * self.coef.shape[4] <= self.shape[1] * self.shape[2]


def _inside(first: Tensor, count: int, size: int) -> Tensor:
    """Which of the positions first … first + count lie in [0, size).  [N, S] -> [N, S, count]"""
    position = first.unsqueeze(-1) + torch.arange(count, device=first.device)
    return (position >= 0) & (position < size)


def units(index: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Patch:
    """One row for each unit.  index [N, S] into the flattened tensor [C, H, W]."""
    c, h, w = shape
    channel = index // (h * w)
    coef = F.one_hot(channel, c).to(dtype).reshape(*index.shape, c, 1, 1)
    return Patch(coef, index // w % h, index % w, shape)


def _convolved(call: Call, patch: Patch) -> tuple[Patch, ...] | None:
    geometry = symmetric_geometry(call)
    if geometry is None:
        return None
    (sh, sw), (ph, pw), dilation = geometry
    n, s = patch.coef.shape[:2]
    folded = patch.coef.reshape(n * s, *patch.coef.shape[2:])
    pulled = F.conv_transpose2d(folded, call["weight"], None, (sh, sw), 0, 0, call["groups"], dilation)
    moved = Patch(
        pulled.reshape(n, s, *pulled.shape[1:]), patch.top * sh - ph, patch.left * sw - pw, call.shapes[0]
    )
    return (moved.masked(),)


def _scaled(call: Call, patch: Patch) -> tuple[Patch, ...] | None:
    """Element-wise scaling by one number a channel, or one for all."""
    rule = RULES[call.node.target]
    assert isinstance(rule, Affine) and rule.transpose is not None
    n, s = patch.coef.shape[:2]
    if call.node.target in SCALARS:
        factor = call["other"] if call["self"] is None else call["self"]
        if isinstance(factor, Tensor) and factor.dim():
            return None
    (pulled,) = rule.transpose(call, patch.coef.reshape(n * s, *patch.coef.shape[2:]))
    return (replace(patch, coef=pulled.reshape(patch.coef.shape)),)


def _summed(call: Call, patch: Patch) -> tuple[Patch, ...] | None:
    if (
        any(shape != call.shape for shape in call.shapes)
        or len(call.shapes) != 2
        or call.node.arguments["alpha"] != 1
    ):
        return None
    return (patch, patch)


SCALARS = (aten.mul.Tensor, aten.mul.Scalar)
PUSHES: dict[Any, Callable[[Call, Patch], tuple[Patch, ...] | None]] = {
    aten.conv2d.default: _convolved,
    aten.batch_norm.default: _scaled,
    aten.add.Tensor: _summed,
    **dict.fromkeys(SCALARS, _scaled),
}


def push(call: Call, patch: Patch) -> tuple[Patch, ...] | None:
    """The patch pulled back to each operand; None where it has to be written out first."""
    known = PUSHES.get(call.node.target)
    product = call.node.target in SCALARS and len(call.node.operands) == 2
    return None if known is None or product or not patch.small else known(call, patch)
