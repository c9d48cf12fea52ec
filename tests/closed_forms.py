"""The closed form, block by block, of the linear bounds of the DARTS operators.

DSRNA (Hosseini, Yang and Xie 2021, section 3.1.1) bounds each building block of a cell linearly in the block's input,
equations (3)–(11), scales the bounds by the architecture variables and composes them.  This module is that, written
out; the passes of the engine give the same bounds without ever forming these matrices.  The paper's equations hold
only after three corrections, made here:

(4), (5)   take A_bn·L ≥ …, true for γ_bn ≥ 0 alone: a negative coefficient turns a lower bound into an upper one.
           Everywhere below a positive coefficient takes the lower plane of what it multiplies, a negative the upper.
(9), (10)  drop the ReLU of (8) before the first convolution.  It is here.
(4), (9)   bound operator after operator.  Here the affine operators between two ReLUs are multiplied first, as in
           CROWN, and the signs of the product are split: as sound, and tighter.

Units are flat: a block maps x [N, I] to [N, O]; an interval of any shape [N, *shape] is flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.errors import InvalidInput
from bounds.interval import Interval

Planes = tuple[Tensor, Tensor]
"""(A [N or 1, O, I], B [N or 1, O]): the affine functions A·x + B."""


@dataclass(frozen=True)
class BlockBounds:
    """A_L·x + B_L ≤ block(x) ≤ A_U·x + B_U, and box.lower ≤ block(x) ≤ box.upper, on the interval it was made for.

    lower, upper: (A, B) of each side.  box [N, O]: the range by interval arithmetic.  shape: of the output, [C, H, W].
    """

    lower: Planes
    upper: Planes
    box: Interval
    shape: tuple[int, ...]

    def concretise(self, x: Interval) -> Interval:
        """The range of both planes over an input box, met with interval arithmetic's.  x [N, *in] -> [N, *shape]"""
        low, high = _range(self.lower, x).lower, _range(self.upper, x).upper
        met = Interval(low, high).intersect(self.box)
        return Interval(met.lower.reshape(-1, *self.shape), met.upper.reshape(-1, *self.shape))

    def scaled(self, alpha: float | Tensor) -> BlockBounds:
        """The bounds of α·block: α·L ≤ α·block ≤ α·U.  Raises InvalidInput for α < 0, where the sides would swap."""
        if not bool(torch.as_tensor(alpha).detach() >= 0):
            raise InvalidInput(f"blocks: an architecture variable must be ≥ 0, got {float(alpha):g}")
        (a, b), (c, d) = self.lower, self.upper
        box = Interval(alpha * self.box.lower, alpha * self.box.upper)
        return BlockBounds((alpha * a, alpha * b), (alpha * c, alpha * d), box, self.shape)

    def __add__(self, other: BlockBounds) -> BlockBounds:
        """The sum of two blocks that read the same input: a mixed edge is Σ αₒ·blockₒ."""
        box = Interval(self.box.lower + other.box.lower, self.box.upper + other.box.upper)
        (a, b), (c, d), (e, f), (g, h) = self.lower, other.lower, self.upper, other.upper
        return BlockBounds((a + c, b + d), (e + g, f + h), box, self.shape)

    def after(self, inner: BlockBounds) -> BlockBounds:
        """This block on the output of another: the recursion over the DAG.  Signs split, as (4) and (5) forget."""
        lower = _through(self.lower, inner.lower, inner.upper)
        upper = _through(self.upper, inner.upper, inner.lower)
        return BlockBounds(lower, upper, self.box, self.shape)


def edges(blocks: Sequence[BlockBounds]) -> BlockBounds:
    """The sum of blocks with inputs of their own, as a function of those inputs side by side: a node of a cell."""
    n = max(len(block.box.lower) for block in blocks)

    def beside(sides: list[Planes]) -> Planes:
        slopes = torch.cat([a.expand(n, -1, -1) for a, _ in sides], 2)
        return slopes, torch.stack([b.expand(n, -1) for _, b in sides]).sum(0)

    low, high = (torch.stack(side).sum(0) for side in zip(*(block.box for block in blocks), strict=True))
    lower, upper = beside([block.lower for block in blocks]), beside([block.upper for block in blocks])
    return BlockBounds(lower, upper, Interval(low, high), blocks[0].shape)


def _through(outer: Planes, below: Planes, above: Planes) -> Planes:
    """outer's A·y + B for `below` ≤ y ≤ `above`, bounded on the side of `below`."""
    positive, negative = outer[0].clamp(min=0), outer[0].clamp(max=0)
    slope = positive @ below[0] + negative @ above[0]
    const = (positive @ below[1].unsqueeze(2) + negative @ above[1].unsqueeze(2)).squeeze(2)
    return slope, const + outer[1]


@dataclass(frozen=True)
class BatchNorm:
    """γ(Φ − μ)/√(σ² + ε) + β in evaluation mode, equation (2).  mean, var, gamma, beta [C]; None for affine=False."""

    mean: Tensor
    var: Tensor
    gamma: Tensor | None = None
    beta: Tensor | None = None
    eps: float = 1e-5

    def __call__(self, x: Tensor) -> Tensor:
        """A·Φ + B with A = γ/√(σ² + ε), B = β − A·μ: equations (6), (7).  [B, C, H, W]"""
        scale = (self.var + self.eps).rsqrt() * (1 if self.gamma is None else self.gamma)
        shift = -scale * self.mean + (0 if self.beta is None else self.beta)
        return scale[:, None, None] * x + shift[:, None, None]


def _unrolled(function: Callable[[Tensor], Tensor], x: Interval) -> tuple[Planes, tuple[int, ...]]:
    """An affine function of [B, C, H, W] as a matrix and a constant, and the shape of its output."""
    shape = x.lower.shape[1:]
    basis = torch.cat([torch.eye(prod(shape)), torch.zeros(1, prod(shape))]).to(x.lower).reshape(-1, *shape)
    images = function(basis)
    flat = images.flatten(1)
    return ((flat[:-1] - flat[-1]).T[None], flat[-1:]), tuple(images.shape[1:])


def _range(plane: Planes, x: Interval) -> Interval:
    """The exact range of A·x + B over a box.  [N, O]"""
    middle = (plane[0] @ x.center.flatten(1).unsqueeze(2)).squeeze(2) + plane[1]
    spread = (plane[0].abs() @ x.radius.flatten(1).unsqueeze(2)).squeeze(2)
    return Interval(middle - spread, middle + spread)


def _active(x: Interval) -> Interval:
    return Interval(x.lower.clamp(min=0), x.upper.clamp(min=0))


def _on_relu(lower: Planes, upper: Planes, x: Interval) -> tuple[Planes, Planes]:
    """Planes on σ(x) made planes on x ∈ [l, u]: s·x ≤ σ(x) ≤ d·x + t (Zhang et al. 2018, section 3.3).

    For l < 0 < u: d = u/(u − l), t = −d·l, s = 1 where u ≥ −l, else 0.  Elsewhere σ is linear and the two agree.
    """
    low, high = x.lower.flatten(1), x.upper.flatten(1)
    unstable = (low < 0) & (high > 0)
    chord = torch.where(unstable, high / torch.where(unstable, high - low, 1), (high > 0).to(low))
    slope = torch.where(unstable, (high >= -low).to(low), chord)
    lift = torch.where(unstable, -chord * low, torch.zeros_like(low))
    below, above = (torch.diag_embed(slope), torch.zeros_like(low)), (torch.diag_embed(chord), lift)
    return _through(lower, below, above), _through(upper, above, below)


def _affine(function: Callable[[Tensor], Tensor], x: Interval) -> BlockBounds:
    """A block that is affine is its own lower and upper bound."""
    plane, shape = _unrolled(function, x)
    return BlockBounds(plane, plane, _range(plane, x), shape)


def _after_relu(function: Callable[[Tensor], Tensor], x: Interval) -> BlockBounds:
    """function(σ(x)) for an affine function with matrix M: A_L = M⁺·diag(s) + M⁻·diag(d), B_L = M⁻·t + c."""
    plane, shape = _unrolled(function, x)
    lower, upper = _on_relu(plane, plane, x)
    return BlockBounds(lower, upper, _range(plane, _active(x)), shape)


@dataclass(frozen=True)
class Convolution:
    """BN(W·x) without bias: of ReLU-Conv-BN.  weight [C', C/groups, k, k]; pointwise [C'', C', 1, 1] or None.

    With a pointwise kernel it is BN(W_pw·(W_dw·x)), equation (8) after its ReLU: of the separable convolutions.
    """

    weight: Tensor
    norm: BatchNorm
    pointwise: Tensor | None = None
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        groups = x.shape[1] // self.weight.shape[1]
        y = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, groups)
        return self.norm(y if self.pointwise is None else F.conv2d(y, self.pointwise))


def relu_conv_bn(x: Interval, convolution: Convolution) -> BlockBounds:
    """ReLU, convolution, BN: equations (1)–(7), signs split.  x [N, C, H, W]; `dil_conv`, (8)–(10), is the same."""
    return _after_relu(convolution, x)


dil_conv = relu_conv_bn


def sep_conv(x: Interval, first: Convolution, second: Convolution) -> BlockBounds:
    """Two stages of (8): ReLU, depthwise, pointwise, BN, twice.  x [N, C, H, W]

    The planes of the second ReLU stand on the first stage's concretised bounds; what they leave is multiplied with the
    first stage's matrix before signs are split at the first ReLU.
    """
    middle = _after_relu(first, x).concretise(x)
    inner, _ = _unrolled(first, x)
    outer, shape = _unrolled(second, middle)
    lower, upper = _on_relu(outer, outer, middle)
    lower, upper = _on_relu(_through(lower, inner, inner), _through(upper, inner, inner), x)
    return BlockBounds(lower, upper, _range(outer, _active(middle)), shape)


def factorised_reduce(x: Interval, even: Tensor, odd: Tensor, norm: BatchNorm) -> BlockBounds:
    """ReLU, two 1×1 convolutions of stride 2, the second on x shifted by one pixel, BN.  Not in the paper.

    even, odd [C'/2, C, 1, 1].  Odd sides get a row or column of zeros at the end before the shift.
    """

    def reduced(z: Tensor) -> Tensor:
        shifted = F.pad(z, (0, z.shape[3] % 2, 0, z.shape[2] % 2))[:, :, 1:, 1:]
        return norm(torch.cat([F.conv2d(z, even, stride=2), F.conv2d(shifted, odd, stride=2)], 1))

    return _after_relu(reduced, x)


def skip(x: Interval) -> BlockBounds:
    """The identity, of stride 1; of stride 2 it is `factorised_reduce`."""
    return _affine(lambda z: z, x)


def zero(x: Interval, stride: int = 1) -> BlockBounds:
    """The operator `none`: 0, at the stride's size.  Not in the paper."""
    return _affine(lambda z: torch.zeros_like(z[:, :, ::stride, ::stride]), x)


def avg_pool(x: Interval, kernel: int = 3, stride: int = 1, padding: int = 1) -> BlockBounds:
    """Equation (11) for the average of the pixels in a window, padding not counted: affine, so A_L = A_U."""
    return _affine(lambda z: F.avg_pool2d(z, kernel, stride, padding, count_include_pad=False), x)


def max_pool(x: Interval, kernel: int = 3, stride: int = 1, padding: int = 1) -> BlockBounds:
    """Equation (11) for the maximum.  Padding is −∞.  x [N, C, H, W]

    Lower: the input with the greatest centre.  Upper: of CNN-Cert's plane Σ wᵢ(xᵢ − lᵢ) + γ with
    wᵢ = max(0, uᵢ − γ)/(uᵢ − lᵢ), γ in the middle of the second and third greatest u, neither below max l, and of the
    tree max(a, b) = a + σ(b − a) over the window, the lower at the centre.
    Where one input's l is above every other u, both are that input.
    """
    n, size = len(x.lower), prod(x.lower.shape[1:])
    numbers = torch.arange(1, size + 1, dtype=torch.float64).reshape(1, *x.lower.shape[1:])
    windows = F.unfold(numbers.transpose(0, 1), kernel, padding=padding, stride=stride).long() - 1
    members = windows.transpose(1, 2).flatten(0, 1).to(x.lower.device)  # [O, k], −1 for padding
    low, high = (side.flatten(1)[:, members].where(members >= 0, -torch.inf) for side in x)
    center = torch.where(members >= 0, (low + high) / 2, -torch.inf)
    greatest = F.one_hot(center.argmax(2), members.shape[1]).to(low)
    above = [_cnn_cert(low, high), _tree(low, high)]
    heights = [(w * center.where(members >= 0, 0)).sum(2) + b for w, b in above]
    # equal for two contenders: the tree
    tree = heights[1] <= heights[0] + 1e-5 * (high.amax(2) - low.amax(2))
    weights = torch.where(tree.unsqueeze(2), above[1][0], above[0][0])
    lift = torch.where(tree, above[1][1], above[0][1])
    first = F.one_hot(low.argmax(2), members.shape[1]).to(low)
    settled = low.amax(2) >= high.where(first == 0, -torch.inf).amax(2)
    lower, upper = (torch.where(settled.unsqueeze(2), first, w) for w in (greatest, weights))
    columns = members.clamp(min=0).expand(n, -1, -1)
    empty = low.new_zeros(n, len(members), size)
    shape = F.max_pool2d(x.lower, kernel, stride, padding).shape[1:]
    return BlockBounds(
        (empty.scatter_add(2, columns, lower), torch.zeros_like(lift)),
        (empty.scatter_add(2, columns, upper), torch.where(settled, 0, lift)),
        Interval(low.amax(2), high.amax(2)), tuple(shape),
    )  # fmt: skip


def _cnn_cert(low: Tensor, high: Tensor) -> Planes:
    """CNN-Cert's upper plane of the maximum over the last dimension (Boopathy et al. 2019): (w [N, O, k], constant)."""
    floor, top = low.amax(2, keepdim=True), high.topk(min(3, high.shape[2]), 2).values
    second, third = (top[..., i : i + 1].maximum(floor) if top.shape[2] > i else floor for i in (1, 2))
    gamma = (second + third) / 2
    live = (high > gamma) & (high > low)
    weights = torch.where(live, (high - gamma) / torch.where(live, high - low, 1), 0)
    return weights, gamma.squeeze(2) - (weights * low.where(live, 0)).sum(2)


def _tree(low: Tensor, high: Tensor) -> Planes:
    """max(a, b) ≤ a + d·(b − a) + t, the chord of σ(b − a), input after input: (w [N, O, k], constant)."""
    weights = F.one_hot(low.new_zeros(low.shape[:2]).long(), low.shape[2]).to(low)
    const, top_low, top_high = torch.zeros_like(low[..., 0]), low[..., 0], high[..., 0]
    for i in range(1, low.shape[2]):
        below, above = low[..., i] - top_high, high[..., i] - top_low
        between = (below < 0) & (above > 0)  # so both are finite: padding is never in between
        chord = torch.where(between, above / torch.where(between, above - below, 1), (below >= 0).to(low))
        one = F.one_hot(torch.full_like(weights[..., 0], i).long(), low.shape[2])
        weights = weights * (1 - chord).unsqueeze(2) + chord.unsqueeze(2) * one
        const = const * (1 - chord) + torch.where(between, -chord * below, 0)
        top_low, top_high = torch.maximum(top_low, low[..., i]), torch.maximum(top_high, high[..., i])
    return weights, const
