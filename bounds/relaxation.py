"""Linear relaxations: two affine functions that bound a nonlinear operator on given intervals.

Every tensor has an axis S for the rows of a specification after the batch, of size 1 if all rows share one relaxation:
operands [N, S, *in], outputs [N, S, *out].  If there are k·S rows, k linear forms for each of S units, then all linear
forms of a unit share one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory_format import channels_last, flat, like, vectors

SPARSE_SHARE = 0.2
"""Largest share of units with different planes that `Relaxation.pull` treats separately.  Chosen by hand."""
SPARSE_COEFFICIENTS = 1_000_000
"""Number of coefficients from which on `Relaxation.pull` does so.  Chosen by hand."""
Images = slice | Tensor
"""An index of some images: a slice, or a tensor of their indices [n]."""
EVERYTHING = slice(None)


class Slope(Enum):
    """The rule for the lower slope of an unstable ReLU-like unit."""

    ADAPTIVE = "adaptive"
    """Slope 0 or 1, whichever encloses the smaller area: CROWN (Zhang et al. 2018, section 3.3), CNN-Cert-Ada."""
    PARALLEL = "parallel"
    """The slope of the chord: Fast-Lin (Weng et al. 2018), CNN-Cert.  Both planes of every operator share one slope."""
    ZERO = "zero"
    """Slope 0."""
    ONE = "one"
    """Slope 1."""


SLOPES: dict[str, Slope] = {slope.value: slope for slope in Slope}
"""Every slope rule by its name."""


class LinearMap(ABC):
    """A linear map from a node's operands to its output, given per image and row."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number S of rows that have maps of their own, 1 if all share one."""

    @abstractmethod
    def transpose(self, coef: Tensor) -> tuple[Tensor, ...]:
        """Return the coefficients [N, S, *out] pulled back to each operand, [N, S, *in]."""

    @abstractmethod
    def apply(self, *operands: Tensor | None) -> Tensor:
        """Apply the map; an operand that is None counts as zero."""

    @abstractmethod
    def magnitude(self) -> LinearMap:
        """Return the map with the absolute values of its coefficients."""

    @abstractmethod
    def at(self, images: Images) -> LinearMap:
        """Return the map for some of the images."""


@dataclass(frozen=True)
class Diagonal(LinearMap):
    """The map out = Σ slopeₖ · xₖ, element by element, with broadcasting."""

    slopes: tuple[Tensor, ...]
    """One tensor [N, S, *] of slopes per operand."""
    shapes: tuple[tuple[int, ...], ...]
    """The operands' shapes without the batch dimension."""

    @property
    def rows(self) -> int:
        return max(slope.shape[1] for slope in self.slopes)

    def transpose(self, coef: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            sum_to(coef * like(coef, slope), shape)
            for slope, shape in zip(self.slopes, self.shapes, strict=True)
        )

    def apply(self, *operands: Tensor | None) -> Tensor:
        terms = [slope * x for slope, x in zip(self.slopes, operands, strict=True) if x is not None]
        return sum(terms[1:], start=terms[0])

    def magnitude(self) -> Diagonal:
        return Diagonal(tuple(slope.abs() for slope in self.slopes), self.shapes)

    def at(self, images: Images) -> Diagonal:
        return Diagonal(tuple(pick(slope, images) for slope in self.slopes), self.shapes)


def sum_to(coef: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the transpose of broadcasting: [*, *out] summed to [*, *shape], same rank."""
    lead = coef.dim() - len(shape)
    axes = [i + lead for i, size in enumerate(shape) if size == 1 and coef.shape[i + lead] != 1]
    return coef.sum(axes, keepdim=True) if axes else coef


def _dot(coef: Tensor, bias: Tensor) -> Tensor:
    """Return ⟨coef, bias⟩ for each row.  coef [N, S, *], bias [N, 1 or S, *] -> [N, S]"""
    if bias.shape[1] == 1:
        row, column = vectors(coef, bias.expand(len(coef), *bias.shape[1:]))
        return torch.matmul(row, column.transpose(1, 2)).squeeze(2)
    return flat(coef * bias, 2).sum(-1)


def ignoring_unused_infinities(const: Tensor, coef: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return ⟨coef⁺, low⟩ + ⟨coef⁻, high⟩, in which an infinite plane with coefficient 0 counts as 0.  [N, S]

    const: the same sum by a product in which 0·∞ is NaN; it is returned if it is finite.
    """
    if bool(torch.isfinite(const).all()):
        return const
    used = torch.where(coef > 0, low, torch.where(coef < 0, high, 0.0))
    return (coef * used).reshape(*coef.shape[:2], -1).sum(-1)


def pick(tensor: Tensor, images: Images) -> Tensor:
    """Return some of the images of a tensor, whose batch may be 1 for all."""
    return tensor if tensor.shape[0] == 1 else tensor[images]


@dataclass(frozen=True)
class Window:
    """The geometry of pooling windows on [C, *size] inputs.  Pairs are (vertical, horizontal)."""

    kernel: tuple[int, int]
    """Height and width of the window."""
    stride: tuple[int, int]
    """Distance between neighbouring windows."""
    padding: tuple[int, int, int, int]
    """Top, bottom, left, right."""
    dilation: tuple[int, int]
    """Distance between neighbouring inputs of a window."""
    size: tuple[int, int]
    """The operand's height and width."""
    output: tuple[int, int]
    """The output's height and width."""

    def gather(self, x: Tensor, fill: float) -> Tensor:
        """Return the inputs of every window; positions outside of the image are `fill`.  [*, C, H, W] -> [*, C, k,
        oh·ow]
        """
        lead, channels = x.shape[:-3], x.shape[-3]
        top, bottom, left, right = self.padding
        padded = F.pad(x.reshape(prod(lead), channels, *self.size), (left, right, top, bottom), value=fill)
        columns = self._unfold(padded)
        return columns.reshape(*lead, channels, prod(self.kernel), prod(self.output))

    def _unfold(self, padded: Tensor) -> Tensor:
        """Gather by indexing, so that infinite padding stays infinite and is never multiplied."""
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = self.kernel, self.stride, self.dilation, self.output
        views = [
            padded[..., i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            for i in range(kh)
            for j in range(kw)
        ]
        return torch.stack(views, dim=-3).flatten(-2)

    def spread(self, rows: Tensor, weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return Σ over the taps of rows·weight, each moved to the position that its tap reads; overlaps add up.

        rows [*, C, a, b] at the windows' positions, weights of each tap that broadcast to them -> [*, C, *size]
        """
        (_, kw), (sh, sw), (dh, dw), (a, b) = self.kernel, self.stride, self.dilation, rows.shape[-2:]
        whole = rows.new_zeros(*rows.shape[:-3], *size, rows.shape[-3]).movedim(-1, -3)
        for tap, weight in enumerate(weights):
            top, left = tap // kw * dh, tap % kw * dw
            target = whole[..., top : top + (a - 1) * sh + 1 : sh, left : left + (b - 1) * sw + 1 : sw]
            target.addcmul_(rows, weight)
        return whole

    def scatter(self, columns: Tensor) -> Tensor:
        """Apply the transpose of `gather`: [*, C, k, oh·ow] -> [*, C, H, W], overlaps added."""
        lead, channels = columns.shape[:-3], columns.shape[-3]
        top, bottom, left, right = self.padding
        padded_size = (self.size[0] + top + bottom, self.size[1] + left + right)
        covered = tuple(
            (o - 1) * s + d * (k - 1) + 1
            for o, s, d, k in zip(self.output, self.stride, self.dilation, self.kernel, strict=True)
        )
        folded = F.fold(
            columns.reshape(prod(lead), channels * prod(self.kernel), prod(self.output)),
            (covered[0], covered[1]), self.kernel, dilation=self.dilation, stride=self.stride,
        )  # fmt: skip
        folded = F.pad(folded, (0, padded_size[1] - covered[1], 0, padded_size[0] - covered[0]))
        folded = folded[..., top : top + self.size[0], left : left + self.size[1]]
        return folded.reshape(*lead, channels, *self.size)


@dataclass(frozen=True)
class Windowed(LinearMap):
    """The map out = Σ over the window of weight · x."""

    weights: Tensor
    """The weights of each window, [N, S, C, k, oh·ow]."""
    window: Window
    """The geometry of the windows."""
    shape: tuple[int, ...]
    """The operand's shape without the batch dimension."""
    output: tuple[int, ...]
    """The output's shape without the batch dimension."""

    @property
    def rows(self) -> int:
        return self.weights.shape[1]

    def transpose(self, coef: Tensor) -> tuple[Tensor, ...]:
        window, channels = self.window, self.weights.shape[2]
        rows = coef.reshape(*coef.shape[:2], channels, *window.output)
        taps = [like(rows, tap.unflatten(-1, window.output)) for tap in self.weights.unbind(3)]
        (height, width), (top, bottom, left, right) = window.size, window.padding
        spread = window.spread(rows, taps, (height + top + bottom, width + left + right))
        inside = spread[..., top : top + height, left : left + width]
        return (inside.reshape(*coef.shape[:2], *self.shape),)

    def apply(self, *operands: Tensor | None) -> Tensor:
        (x,) = operands
        assert x is not None
        channels = self.weights.shape[2]
        columns = self.window.gather(x.reshape(*x.shape[:2], channels, *self.window.size), 0.0)
        out = (columns * self.weights).sum(-2)
        return out.reshape(*out.shape[:2], *self.output)

    def magnitude(self) -> Windowed:
        return Windowed(self.weights.abs(), self.window, self.shape, self.output)

    def at(self, images: Images) -> Windowed:
        return Windowed(pick(self.weights, images), self.window, self.shape, self.output)


@dataclass(frozen=True)
class Plane:
    """One affine function of the operands: map · x + bias."""

    map: LinearMap
    """The linear part."""
    bias: Tensor
    """The constant, [N, S, *out]."""

    def at(self, images: Images) -> Plane:
        return Plane(self.map.at(images), pick(self.bias, images))


@dataclass(frozen=True)
class Relaxation:
    """Two planes with lower(x) ≤ f(x) ≤ upper(x) for all operands in the intervals they were made for."""

    lower: Plane
    """The lower plane."""
    upper: Plane
    """The upper plane."""

    @property
    def rows(self) -> int:
        """The number S of rows that have planes of their own, 1 if all share them."""
        return max(
            size for plane in (self.lower, self.upper) for size in (plane.bias.shape[1], plane.map.rows)
        )

    def pull(self, coef: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Bound Σ coef·f(x) from below by Σₖ ⟨coefₖ, xₖ⟩ + const.

        Positive coefficients take the lower plane, negative ones the upper.
        coef [N, S or k·S, *out] -> (one [N, S or k·S, *in] for each operand, const [N, S or k·S]).
        """
        if self.rows not in (1, coef.shape[1]):
            kinds = [self.pull(part) for part in coef.split(self.rows, 1)]
            operands = zip(*(pulled for pulled, _ in kinds), strict=True)
            return tuple(torch.cat(parts, 1) for parts in operands), torch.cat([c for _, c in kinds], 1)
        low, high = self.lower, self.upper
        unstable = self._few_unstable(coef)
        if unstable is not None:
            return self._pull_few(coef, unstable)
        negative = coef.clamp(max=0)
        const = _dot(negative, high.bias - low.bias)
        if bool((low.bias != 0).any()):
            const = const + _dot(coef, low.bias)
        const = ignoring_unused_infinities(const, coef, low.bias, high.bias)
        if low.map is high.map:
            return low.map.transpose(coef), const
        if isinstance(low.map, Diagonal) and isinstance(high.map, Diagonal):
            slopes = zip(low.map.slopes, high.map.slopes, low.map.shapes, strict=True)
            return tuple(
                sum_to((coef * like(coef, a)).addcmul_(negative, like(coef, b - a)), shape)
                for a, b, shape in slopes
            ), const
        pairs = zip(low.map.transpose(coef - negative), high.map.transpose(negative), strict=True)
        return tuple(a + b for a, b in pairs), const

    def _few_unstable(self, coef: Tensor) -> Tensor | None:
        """Return the units whose planes differ, if they are few and the map is element-wise with one operand, else
        None.

        The units are indices into `vectors`.
        """
        low, high = self.lower.map, self.upper.map
        if not (isinstance(low, Diagonal) and isinstance(high, Diagonal)) or len(low.slopes) > 1:
            return None
        (a,), (b,) = low.slopes, high.slopes
        if (
            a.shape[1] > 1
            or b.shape != a.shape
            or a.shape[2:] != coef.shape[2:]
            or coef.numel() < SPARSE_COEFFICIENTS
        ):
            return None
        apart = ((a != b) | (self.lower.bias != self.upper.bias) | (self.lower.bias != 0)).any(
            0, keepdim=True
        )
        (mask,) = vectors(coef, apart)[1:]
        found = mask.flatten().nonzero().flatten()
        return found if len(found) <= SPARSE_SHARE * mask.numel() else None

    def _pull_few(self, coef: Tensor, unstable: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Apply `pull` to planes that differ only at the units `unstable`."""
        (a,), (b,) = self.lower.map.slopes, self.upper.map.slopes  # type: ignore[attr-defined]
        rows, a, b, low, high = vectors(coef, a, b, self.lower.bias, self.upper.bias)
        few = rows.index_select(2, unstable)
        negative = few.clamp(max=0)
        a_few, b_few, low, high = (t.index_select(2, unstable) for t in (a, b, low, high))
        const = ignoring_unused_infinities(_dot(few, low) + _dot(negative, high - low), few, low, high)
        pulled = (rows * a).index_add_(2, unstable, negative * (b_few - a_few))
        if channels_last(coef):
            c, h, w = coef.shape[2:]
            return (pulled.unflatten(2, (h, w, c)).movedim(-1, 2),), const
        return (pulled.reshape(coef.shape),), const

    def at(self, images: Images) -> Relaxation:
        """Return the relaxation of some of the images."""
        lower = self.lower.at(images)
        upper = self.upper.at(images)
        return Relaxation(lower, Plane(lower.map, upper.bias) if self.lower.map is self.upper.map else upper)


def sandwich(lower_slope: Tensor, lower_bias: Tensor, upper_slope: Tensor, upper_bias: Tensor) -> Relaxation:
    """Return the relaxation of an element-wise function of one operand.  All four [N, S, *shape]."""
    shapes = (tuple(lower_slope.shape[2:]),)
    lower = Plane(Diagonal((lower_slope,), shapes), lower_bias)
    if lower_slope is upper_slope:
        return Relaxation(lower, Plane(lower.map, upper_bias))
    return Relaxation(lower, Plane(Diagonal((upper_slope,), shapes), upper_bias))
