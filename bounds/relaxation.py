"""Linear relaxations: two affine functions that sandwich a nonlinear operator on given intervals.

Everything carries a rows axis S after the batch, of size 1 where all rows share one relaxation:
operands [N, S, *in], outputs [N, S, *out].  Of k·S rows, k kinds of each of S units, all kinds of a unit share one.
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

RARE = 0.2
"""Up to this part of a tensor's units, those whose planes differ are worth being picked out."""
LARGE = 1_000_000
"""And that from so many coefficients on."""
Images = slice | Tensor
"""Some of the images: a slice, or their places [n] long."""
EVERYTHING = slice(None)


class Slope(Enum):
    """Which of the admissible lower slopes of a ReLU-like unit to take where it is unstable."""

    ADAPTIVE = "adaptive"
    """The smaller area: CROWN (Zhang et al. 2018, section 3.3), CNN-Cert-Ada."""
    PARALLEL = "parallel"
    """The chord's: Fast-Lin (Weng et al. 2018), CNN-Cert.  For every operator: both planes share one slope."""
    ZERO = "zero"
    ONE = "one"


SLOPES: dict[str, Slope] = {slope.value: slope for slope in Slope}


class LinearMap(ABC):
    """A linear map of a node's operands to its output, given per image and row."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """S: of how many rows each has a map of its own, 1 where all share one."""

    @abstractmethod
    def transpose(self, coef: Tensor) -> tuple[Tensor, ...]:
        """Row coefficients [N, S, *out] pulled back to each operand, [N, S, *in]."""

    @abstractmethod
    def apply(self, *operands: Tensor | None) -> Tensor:
        """The map itself; an operand that is None counts as zero."""

    @abstractmethod
    def magnitude(self) -> LinearMap:
        """The map with the absolute values of its coefficients."""

    @abstractmethod
    def at(self, images: Images) -> LinearMap:
        """The same map for some of the images."""


@dataclass(frozen=True)
class Diagonal(LinearMap):
    """out = Σ slopeₖ · xₖ, element by element, with broadcasting.  slopes: one [N, S, *] for each operand."""

    slopes: tuple[Tensor, ...]
    shapes: tuple[tuple[int, ...], ...]

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
    """The transpose of broadcasting: [*, *out] summed down to [*, *shape], same rank."""
    lead = coef.dim() - len(shape)
    axes = [i + lead for i, size in enumerate(shape) if size == 1 and coef.shape[i + lead] != 1]
    return coef.sum(axes, keepdim=True) if axes else coef


def _dot(coef: Tensor, bias: Tensor) -> Tensor:
    """⟨coef, bias⟩ for each row.  coef [N, S, *], bias [N, 1 or S, *] -> [N, S]"""
    if bias.shape[1] == 1:
        row, column = vectors(coef, bias.expand(len(coef), *bias.shape[1:]))
        return torch.matmul(row, column.transpose(1, 2)).squeeze(2)
    return flat(coef * bias, 2).sum(-1)


def asked_alone(const: Tensor, coef: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """⟨coef⁺, low⟩ + ⟨coef⁻, high⟩, as `const` has it unless a plane is infinite: one that no coefficient asks for
    counts for nothing then.  [N, S]"""
    if bool(torch.isfinite(const).all()):
        return const
    asked = torch.where(coef > 0, low, torch.where(coef < 0, high, 0.0))
    return (coef * asked).reshape(*coef.shape[:2], -1).sum(-1)


def pick(tensor: Tensor, images: Images) -> Tensor:
    """Some of the images of a tensor whose batch may be 1 for all."""
    return tensor if tensor.shape[0] == 1 else tensor[images]


@dataclass(frozen=True)
class Window:
    """The geometry of a pooling window over the last `axes` dimensions of [C, *size] inputs."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]
    output: tuple[int, int]

    def gather(self, x: Tensor, fill: float) -> Tensor:
        """[*, C, H, W] -> [*, C, k, oh·ow]; positions outside of the image hold `fill`."""
        lead, channels = x.shape[:-3], x.shape[-3]
        top, bottom, left, right = self.padding
        padded = F.pad(x.reshape(prod(lead), channels, *self.size), (left, right, top, bottom), value=fill)
        columns = self._unfold(padded)
        return columns.reshape(*lead, channels, prod(self.kernel), prod(self.output))

    def _unfold(self, padded: Tensor) -> Tensor:
        """Plain indexing, so that infinite padding stays infinite and is never multiplied."""
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = self.kernel, self.stride, self.dilation, self.output
        views = [
            padded[..., i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            for i in range(kh)
            for j in range(kw)
        ]
        return torch.stack(views, dim=-3).flatten(-2)

    def spread(self, rows: Tensor, weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Σ over the taps of rows·weight, each moved to where its tap reads; overlaps add up, `size` holds all.

        rows [*, C, a, b] at windows' positions, weights of each tap that broadcast to them -> [*, C, *size]
        """
        (_, kw), (sh, sw), (dh, dw), (a, b) = self.kernel, self.stride, self.dilation, rows.shape[-2:]
        whole = rows.new_zeros(*rows.shape[:-3], *size, rows.shape[-3]).movedim(-1, -3)
        for tap, weight in enumerate(weights):
            top, left = tap // kw * dh, tap % kw * dw
            reached = whole[..., top : top + (a - 1) * sh + 1 : sh, left : left + (b - 1) * sw + 1 : sw]
            reached.addcmul_(rows, weight)
        return whole

    def scatter(self, columns: Tensor) -> Tensor:
        """The transpose of `gather`: [*, C, k, oh·ow] -> [*, C, H, W], overlaps added."""
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
    """out = Σ over the window of weight · x.  weights [N, S, C, k, oh·ow]; shape, output: operand's and node's."""

    weights: Tensor
    window: Window
    shape: tuple[int, ...]
    output: tuple[int, ...]

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
    """One affine function of the operands: map · x + bias.  bias [N, S, *out]."""

    map: LinearMap
    bias: Tensor

    def at(self, images: Images) -> Plane:
        return Plane(self.map.at(images), pick(self.bias, images))


@dataclass(frozen=True)
class Relaxation:
    """lower(x) ≤ f(x) ≤ upper(x) wherever the operands lie in the intervals it was made for."""

    lower: Plane
    upper: Plane

    @property
    def rows(self) -> int:
        """S: of how many rows each has planes of its own, 1 where all share them."""
        return max(
            size for plane in (self.lower, self.upper) for size in (plane.bias.shape[1], plane.map.rows)
        )

    def pull(self, coef: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Σ coef·f(x) ≥ Σₖ ⟨coefₖ, xₖ⟩ + const: positive coefficients take the lower plane, negative the upper.

        coef [N, S or k·S, *out] -> (one [N, S or k·S, *in] for each operand, const [N, S or k·S]).
        """
        if self.rows not in (1, coef.shape[1]):
            kinds = [self.pull(part) for part in coef.split(self.rows, 1)]
            operands = zip(*(pulled for pulled, _ in kinds), strict=True)
            return tuple(torch.cat(parts, 1) for parts in operands), torch.cat([c for _, c in kinds], 1)
        low, high = self.lower, self.upper
        loose = self._few_loose(coef)
        if loose is not None:
            return self._pull_few(coef, loose)
        negative = coef.clamp(max=0)
        const = _dot(negative, high.bias - low.bias)
        if bool((low.bias != 0).any()):
            const = const + _dot(coef, low.bias)
        const = asked_alone(const, coef, low.bias, high.bias)
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

    def _few_loose(self, coef: Tensor) -> Tensor | None:
        """Where the planes differ, as places in `vectors`, if they are of one element-wise operand and do so rarely."""
        low, high = self.lower.map, self.upper.map
        if not (isinstance(low, Diagonal) and isinstance(high, Diagonal)) or len(low.slopes) > 1:
            return None
        (a,), (b,) = low.slopes, high.slopes
        if a.shape[1] > 1 or b.shape != a.shape or a.shape[2:] != coef.shape[2:] or coef.numel() < LARGE:
            return None
        apart = ((a != b) | (self.lower.bias != self.upper.bias) | (self.lower.bias != 0)).any(
            0, keepdim=True
        )
        (places,) = vectors(coef, apart)[1:]
        found = places.flatten().nonzero().flatten()
        return found if len(found) <= RARE * places.numel() else None

    def _pull_few(self, coef: Tensor, loose: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """`pull` through planes that differ at `loose` alone."""
        (a,), (b,) = self.lower.map.slopes, self.upper.map.slopes  # type: ignore[attr-defined]
        rows, a, b, low, high = vectors(coef, a, b, self.lower.bias, self.upper.bias)
        few = rows.index_select(2, loose)
        negative = few.clamp(max=0)
        a_few, b_few, low, high = (t.index_select(2, loose) for t in (a, b, low, high))
        const = asked_alone(_dot(few, low) + _dot(negative, high - low), few, low, high)
        pulled = (rows * a).index_add_(2, loose, negative * (b_few - a_few))
        if channels_last(coef):
            c, h, w = coef.shape[2:]
            return (pulled.unflatten(2, (h, w, c)).movedim(-1, 2),), const
        return (pulled.reshape(coef.shape),), const

    def at(self, images: Images) -> Relaxation:
        lower = self.lower.at(images)
        upper = self.upper.at(images)
        return Relaxation(lower, Plane(lower.map, upper.bias) if self.lower.map is self.upper.map else upper)


def sandwich(lower_slope: Tensor, lower_bias: Tensor, upper_slope: Tensor, upper_bias: Tensor) -> Relaxation:
    """The relaxation of an element-wise function of one operand; all four [N, S, *shape]."""
    shapes = (tuple(lower_slope.shape[2:]),)
    lower = Plane(Diagonal((lower_slope,), shapes), lower_bias)
    if lower_slope is upper_slope:
        return Relaxation(lower, Plane(lower.map, upper_bias))
    return Relaxation(lower, Plane(Diagonal((upper_slope,), shapes), upper_bias))
