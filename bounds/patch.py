"""Patches: the coefficients of single units, kept on small windows as long as these are smaller than the image.

A unit of a convolution depends on a few positions of each tensor before it.  Its linear form is stored as coefficients
on that window alone.  The windows of all units of a tensor have the same size and are placed relative to the units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Call

LARGEST_SHARE = 0.7
"""Largest window, as a share of the image, that is kept as a patch; larger ones become dense.  Chosen by hand."""


@dataclass(frozen=True)
class Grid:
    """The positions of all units' windows: stride·unit + offset.  Pairs are (vertical, horizontal)."""

    stride: tuple[int, int] = (1, 1)
    """Distance between the windows of neighbouring units."""
    offset: tuple[int, int] = (0, 0)
    """Position of the window of the unit at (0, 0)."""
    size: tuple[int, int] = (1, 1)
    """Size of every window."""

    def through(self, stride: tuple[int, int], shift: tuple[int, int], span: tuple[int, int]) -> Grid:
        """Return the grid on an operand, if output i reads `span` positions of it from stride·i + shift on."""
        (a, b), (c, d), (e, f) = self.stride, self.offset, self.size
        return Grid(
            (a * stride[0], b * stride[1]),
            (c * stride[0] + shift[0], d * stride[1] + shift[1]),
            ((e - 1) * stride[0] + span[0], (f - 1) * stride[1] + span[1]),
        )

    def joined(self, other: Grid) -> Grid | None:
        """Return the smallest grid that contains both; None if their strides differ."""
        if self.stride != other.stride:
            return None
        first = [min(a, b) for a, b in zip(self.offset, other.offset, strict=True)]
        ends = [
            max(a + m, b + n)
            for a, m, b, n in zip(self.offset, self.size, other.offset, other.size, strict=True)
        ]
        return Grid(self.stride, (first[0], first[1]), (ends[0] - first[0], ends[1] - first[1]))

    def small(self, image: tuple[int, ...]) -> bool:
        """Return whether windows of this size are worth keeping on an image [..., H, W]."""
        return self.size[0] * self.size[1] <= LARGEST_SHARE * image[-2] * image[-1]


@dataclass(frozen=True)
class Patch:
    """Coefficients on windows, for M units of each of N images.

    The channels are stored last, which suits gathering and convolutions on a CPU.
    """

    coef: Tensor
    """The coefficients: k linear forms of each unit, [N, k·M, C, *grid.size]."""
    top: Tensor
    """The row of each unit in its own tensor, [N, M]."""
    left: Tensor
    """The column of each unit in its own tensor, [N, M]."""
    grid: Grid
    """The positions of the windows, relative to the units."""
    shape: tuple[int, ...]
    """The shape [C, H, W] of the tensor that the windows lie on."""
    masked: bool = True
    """Whether every coefficient outside of the tensor is zero."""

    def folded(self) -> Tensor:
        """Return the coefficients as [N·k·M, C, *size]."""
        return self.coef.flatten(0, 1)

    def expanded(self, n: int) -> Patch:
        """Return the patches for each of `n` images, if they are stored once for all."""
        if len(self.top) == n:
            return self
        coef, top, left = (t.expand(n, *t.shape[1:]) for t in (self.coef, self.top, self.left))
        return replace(self, coef=coef, top=top, left=left)

    def gather(self, *images: Tensor) -> list[Tensor]:
        """Return the windows of images, with zeros outside, for products with `by_unit`.  [N, 1, M, C, kh, kw] each

        images: [N or 1, 1, C, H, W], or [N or 1, M, C, H, W] with one image per unit.
        """
        n, m = self.top.shape
        if any(image.shape[1] != 1 for image in images):
            return [
                self._gather_per_unit(image) if image.shape[1] != 1 else self.gather(image)[0]
                for image in images
            ]
        (kh, kw), (sh, sw), (oh, ow) = self.grid.size, self.grid.stride, self.grid.offset
        top, left = self.top * sh + oh, self.left * sw + ow
        padding, start = (0, 0, 0, 0), {}
        found = []
        for image in images:
            batch, (h, w) = len(image), image.shape[-2:]
            if batch not in start:
                padding = _margins(left, kw, w) + _margins(top, kh, h)
                width, height = padding[0] + w + padding[1], padding[2] + h + padding[3]
                start[batch] = (top + padding[2]) * width + left + padding[0]
                if batch > 1:
                    start[batch] += torch.arange(batch, device=top.device).unsqueeze(1) * (height * width)
            padded = F.pad(image.squeeze(1).permute(0, 2, 3, 1), (0, 0, *padding))
            windows = _windows(padded, start[batch].flatten(), (kh, kw))
            found.append(windows.reshape(n, 1, m, kh, kw, -1).movedim(-1, 3))
        return found

    def _gather_per_unit(self, image: Tensor) -> Tensor:
        """Return `gather` for an image per unit."""
        n, m = self.top.shape
        places = replace(self, top=self.top.reshape(-1, 1), left=self.left.reshape(-1, 1))
        (windows,) = places.gather(image.expand(n, *image.shape[1:]).flatten(0, 1).unsqueeze(1))
        return windows.reshape(n, 1, m, *windows.shape[3:])

    def by_unit(self) -> Tensor:
        """Return the coefficients as [N, k, M, C, kh, kw]."""
        return self.coef.unflatten(1, (-1, self.top.shape[1]))

    def mask(self) -> Patch:
        """Return the patches with all coefficients outside of the tensor set to zero."""
        if self.masked:
            return self
        h, w = self.shape[-2:]
        ones = torch.ones(1, 1, 1, h, w, dtype=self.coef.dtype, device=self.coef.device)
        (inside,) = self.gather(ones)
        return replace(self, coef=(self.by_unit() * inside).flatten(1, 2), masked=True)

    def dense(self) -> Tensor:
        """Return dense coefficients [N, S, C, H, W]."""
        n, s, c = self.coef.shape[:3]
        (kh, kw), (sh, sw), (oh, ow) = self.grid.size, self.grid.stride, self.grid.offset
        h, w = self.shape[-2:]
        device = self.coef.device
        down = torch.arange(h, device=device) - (self.top * sh + oh).unsqueeze(-1)
        across = torch.arange(w, device=device) - (self.left * sw + ow).unsqueeze(-1)
        inner = down.clamp(0, kh - 1).unsqueeze(-1) * kw + across.clamp(0, kw - 1).unsqueeze(-2)
        inside = ((down >= 0) & (down < kh)).unsqueeze(-1) & ((across >= 0) & (across < kw)).unsqueeze(-2)
        k = s // self.top.shape[1]
        row = torch.arange(n * s, device=device).reshape(n, s, 1, 1) * (kh * kw)
        index = torch.where(inside.repeat(1, k, 1, 1), inner.repeat(1, k, 1, 1) + row, n * s * kh * kw)
        flat = self.coef.permute(0, 1, 3, 4, 2).reshape(-1, c)
        written = torch.cat([flat, flat.new_zeros(1, c)]).index_select(0, index.flatten())
        return written.reshape(n, s, h, w, c).permute(0, 1, 4, 2, 3)

    def __add__(self, other: Patch) -> Patch | None:
        """Return the sum of linear forms of the same units; None if their windows do not fit together."""
        grid = self.grid.joined(other.grid)
        if grid is None or not grid.small(self.shape):
            return None
        return replace(
            self,
            coef=self._on(grid) + other._on(grid),
            grid=grid,
            masked=self.masked and other.masked,
        )

    def _on(self, grid: Grid) -> Tensor:
        (top, left), (first, second) = self.grid.offset, grid.offset
        (kh, kw), (height, width) = self.grid.size, grid.size
        above, before = top - first, left - second
        padding = (before, width - kw - before, above, height - kh - above)
        return F.pad(self.coef, padding) if any(padding) else self.coef


Pair = tuple[int, int]


@dataclass(frozen=True)
class ReceptiveField:
    """The positions of the operand that an output depends on: output i reads `span` positions from stride·i + shift on.

    Pairs are (vertical, horizontal).
    """

    stride: Pair = (1, 1)
    """Step on the operand per step on the output."""
    shift: Pair = (0, 0)
    """First position that the output at (0, 0) reads."""
    span: Pair = (1, 1)
    """Number of positions that an output reads."""
    pads: bool = False
    """Whether an output may read beyond the operand's border."""

    def on(self, grid: Grid) -> Grid:
        """Return the grid of the operand's windows."""
        return grid.through(self.stride, self.shift, self.span)


POINTWISE = ReceptiveField()


@dataclass(frozen=True)
class PatchRule:
    """How patches on the output [C, H, W] of an operator become patches on its operands."""

    receptive_field: Callable[[Call], ReceptiveField | None]
    """receptive_field(call): the positions that an output depends on; None if the coefficients must be dense."""
    pull: Callable[[Call, Patch, Pair], tuple[Tensor, ...]] | None = None
    """pull(call, patch, size): the coefficients on each operand, [B, C, *size]; None for a nonlinear operator."""


def pointwise(call: Call) -> ReceptiveField:
    """Return the receptive field of an operator whose output at a position reads its operands there alone."""
    return POINTWISE


def pointwise_without_broadcast(call: Call) -> ReceptiveField | None:
    """Return the receptive field of an element-wise operator: a single position, or None if it broadcasts."""
    return POINTWISE if all(shape == call.shape for shape in call.shapes) else None


def pull_unchanged(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    """Return the same coefficients for the operand."""
    return (patch.folded(),)


def pull_by(
    transpose: Callable[[Call, Tensor], tuple[Tensor, ...]],
) -> Callable[[Call, Patch, Pair], tuple[Tensor, ...]]:
    """Return the patch rule of an operator whose transpose does not depend on the height and width."""
    return lambda call, patch, size: transpose(call, patch.folded())


def pair(value: int | Sequence[int]) -> Pair:
    """Return (vertical, horizontal) for an argument that may be one number for both."""
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


ELEMENTWISE = PatchRule(pointwise_without_broadcast)
"""The patch rule of nonlinear operators whose output at a position reads their operands there alone."""


Coefficients = Tensor | Patch


def coefficients(rows: Coefficients) -> Tensor:
    """Return the coefficients [N, S, *]; for patches, those on the windows."""
    return rows.coef if isinstance(rows, Patch) else rows


def flat(windows: Tensor) -> Tensor:
    """Return windows [N, *, M, C, kh, kw] as vectors [N, *, M, kh·kw·C], in the order in which they are stored."""
    return windows.movedim(3, -1).flatten(3)


def dot(coef: Tensor, windows: Tensor) -> Tensor:
    """Return the product of each linear form with its window.

    coef [N, k, M, C, kh, kw], windows [N, 1, M, C, kh, kw] -> [N, k·M]
    """
    return torch.einsum("nkmd,nmd->nkm", flat(coef), flat(windows)[:, 0]).flatten(1)


def _margins(first: Tensor, count: int, size: int) -> tuple[int, int]:
    """Return how far windows of `count` positions leave [0, size) on either side."""
    low, high = (int(first.min()), int(first.max())) if first.numel() else (0, 0)
    return max(0, -low), max(0, high + count - size)


def _windows(padded: Tensor, start: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the windows of padded [batch, H', W', C] that begin at flat positions start [B].  [B, kh·kw·C]"""
    (kh, kw), (_, height, width, channels) = size, padded.shape
    if padded.requires_grad:
        within = torch.arange(kh, device=start.device).unsqueeze(1) * width + torch.arange(
            kw, device=start.device
        )
        index = (start.unsqueeze(1) + within.flatten()).flatten()
        return padded.flatten(0, 2).index_select(0, index).reshape(len(start), -1)
    # all windows are one overlapping view, of which kw·C numbers are copied at once; it has no cheap derivative
    flat = padded.contiguous()
    places = max(1, len(flat) * height * width - (kh - 1) * width - kw + 1)
    view = flat.as_strided((places, kh, kw * channels), (channels, width * channels, 1))
    return view.index_select(0, start).flatten(1)


def unit_rows(
    index: Tensor, shape: tuple[int, ...], dtype: torch.dtype, signs: Tensor | None = None
) -> Coefficients:
    """Return the linear forms that read single units: unit and −unit for each, or sign·unit if signs are given.

    index [N, M] into the flattened tensor; signs [N, M].  Returns patches if the shape is [C, H, W], otherwise dense
    coefficients [N, k·M, *shape].
    """
    if len(shape) != 3:
        return _dense_rows(index, shape, dtype, signs)
    c, h, w = shape
    channel = index // (h * w)
    one = F.one_hot(channel, c).to(dtype).reshape(*index.shape, c, 1, 1)
    coef = torch.cat([one, -one], 1) if signs is None else one * signs[..., None, None, None]
    return Patch(coef, index // w % h, index % w, Grid(), shape)


def _dense_rows(index: Tensor, shape: tuple[int, ...], dtype: torch.dtype, signs: Tensor | None) -> Tensor:
    ones = torch.ones(index.shape, dtype=dtype, device=index.device) if signs is None else signs
    dense = torch.zeros(*index.shape, prod(shape), dtype=dtype, device=index.device)
    dense.scatter_(2, index.unsqueeze(2), ones.unsqueeze(2))
    if signs is None:
        dense = torch.cat([dense, -dense], 1)
    return dense.reshape(len(index), -1, *shape)
