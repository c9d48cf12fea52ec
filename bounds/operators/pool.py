"""Max pooling with any kernel, stride, padding and dilation, overlapping windows included.

Padding is −∞ and never selected.  For a window with inputs xᵢ ∈ [lᵢ, uᵢ]:

lower   any convex combination of the inputs; by default the input with the greatest centre.
upper   the family of CNN-Cert (Boopathy et al. 2019, max pooling), with its γ free:
            Σ wᵢ(xᵢ − lᵢ) + γ,  wᵢ = max(0, uᵢ − γ) / (uᵢ − lᵢ),  max l ≤ γ ≤ max u,
        whose area is least for γ between the third and the second greatest u; or the tree max(a, b) = a + relu(b − a)
        with the chord of each relu on [l_b − u_a, u_b − l_a]; whichever is lower at the centre of the box.
An input whose l is at least every other u dominates: then the output is that input, exactly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidInput
from ..graph import Call
from ..interval import Interval
from ..patch import PatchRule, ReceptiveField
from ..relaxation import Plane, Relaxation, Slope, Window, Windowed
from .rule import Alphas, Nonlinear, Rule

aten = torch.ops.aten
INF = float("inf")


def window_of(call: Call) -> Window:
    """Return the window's geometry.  A one-dimensional pool has height 1, and ceil_mode pads on the far side.

    Raises InvalidInput if a window holds nothing but padding.
    """
    flat = call.node.target is aten.max_pool1d.default
    shape, output = call.shapes[0], call.shape

    def pair(name: str) -> tuple[int, int]:
        value = call[name]
        values = [value] if isinstance(value, int) else list(value)
        if flat:
            return (0 if name == "padding" else 1, values[0])
        return (values[0], values[-1])

    kernel, padding, dilation = pair("kernel_size"), pair("padding"), pair("dilation")
    stride = pair("stride") if call["stride"] else kernel
    size = (1, shape[-1]) if flat else (shape[-2], shape[-1])
    out = (1, output[-1]) if flat else (output[-2], output[-1])
    far = [
        max(p, (o - 1) * s + d * (k - 1) + 1 - n - p)
        for p, o, s, d, k, n in zip(padding, out, stride, dilation, kernel, size, strict=True)
    ]
    for p, o, s, d, k, n in zip(padding, out, stride, dilation, kernel, size, strict=True):
        if any(all(not 0 <= first - p + d * i < n for i in range(k)) for first in range(0, o * s, s)):
            raise InvalidInput(
                f"{call.node.where()}: a window holds nothing but padding, so its output is −∞"
            )
    return Window(kernel, stride, (padding[0], far[0], padding[1], far[1]), dilation, size, out)


def _columns(call: Call, x: Interval) -> tuple[Window, Tensor, Tensor]:
    """Return l and u of every window, [N, *, C, k, L]; padding is (−∞, −∞)."""
    window = window_of(call)
    channels = call.shapes[0][0]
    lead = x.lower.shape[: x.lower.dim() - len(call.shapes[0])]
    low = window.gather(x.lower.reshape(*lead, channels, *window.size), -INF)
    high = window.gather(x.upper.reshape(*lead, channels, *window.size), -INF)
    return window, low, high


def _interval(call: Call, x: Interval) -> Interval:
    """Return [max l, max u], with the radius computed from the two inputs that attain these."""
    window_of(call)  # raises InvalidInput for a window of nothing but padding
    if not x.is_ball:
        return Interval(call.apply(x.lower), call.apply(x.upper))
    ends = (x.center - x.radius, x.center + x.radius)
    (low, low_radius), (high, high_radius) = (_winners(call, end, x) for end in ends)
    grown = torch.relu((high - low) + (high_radius - low_radius)) / 2
    return Interval.around(low + grown, low_radius + grown)


def _winners(call: Call, by: Tensor, x: Interval) -> tuple[Tensor, Tensor]:
    """Return centre and radius of the input with the greatest value in each window."""
    with torch.no_grad():
        arguments = [call[name] for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")]
        pool = F.max_pool1d if call.node.target is aten.max_pool1d.default else F.max_pool2d
        _, index = pool(by, *arguments, return_indices=True)

    def picked(value: Tensor) -> Tensor:
        found = value.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
        last = by.dim() == 4 and by.is_contiguous(memory_format=torch.channels_last)
        return found.contiguous(memory_format=torch.channels_last) if last else found

    return picked(x.center), picked(x.radius)


def _dominating(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return (the input with the greatest l as one-hot, whether it dominates the window)."""
    best = low.argmax(-2, keepdim=True)
    one = torch.zeros_like(low).scatter_(-2, best, 1.0)
    others = high.masked_fill(one > 0, -INF).amax(-2, keepdim=True)
    return one, low.gather(-2, best) >= others


def _unstable(call: Call, x: Interval) -> tuple[Tensor, ...]:
    """Return the mask of the inputs that may be the maximum of a window which no input dominates."""
    window, low, high = _columns(call, x)
    _, dominated = _dominating(low, high)
    contenders = (high > low.amax(-2, keepdim=True)) & ~dominated
    mask = window.scatter(contenders.to(x.lower.dtype)) > 0
    return (mask.reshape(x.lower.shape),)


def _family(low: Tensor, high: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Return CNN-Cert's upper plane for a γ: (weights [*, k, L], bias [*, L])."""
    width = high - low
    active = (high > gamma) & (width > 0)
    weights = torch.where(active, (high - gamma) / torch.where(active, width, 1), 0.0)
    offset = torch.where(active, weights * torch.where(active, low, 0), 0.0)
    return weights, (gamma - offset.sum(-2, keepdim=True)).squeeze(-2)


def _cnn_cert_gamma(low: Tensor, high: Tensor) -> Tensor:
    """Return the γ for which the weights sum to 1, so that both planes share one slope; clamped as in CNN-Cert."""
    best = low.amax(-2, keepdim=True)
    active = high > best
    inverse = torch.where(active, 1 / torch.where(active, high - low, 1), 0.0)
    total = inverse.sum(-2, keepdim=True)
    gamma = ((torch.where(active, high, 0) * inverse).sum(-2, keepdim=True) - 1) / torch.where(
        total > 0, total, 1
    )
    ceiling = torch.where(active, high, INF).amin(-2, keepdim=True)
    gamma = torch.maximum(torch.minimum(gamma, ceiling), best)
    return torch.where(total > 0, gamma, best)


def _tree(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper plane of the tree, folded input by input: max(a, b) ≤ a + λ(b − a − l), λ = u / (u − l)."""
    size = low.shape[-2]
    weights = torch.zeros_like(low)
    weights[..., 0, :] = 1
    bias = torch.zeros_like(low[..., 0, :])
    top_low, top_high = low[..., 0, :], high[..., 0, :]
    for i in range(1, size):
        l, u = low[..., i, :] - top_high, high[..., i, :] - top_low  # noqa: E741
        never, always = ~(u > 0), l >= 0  # −∞ − −∞ is NaN: two paddings, of which the first stays
        between = ~never & ~always
        slope = torch.where(between, u / torch.where(between, u - l, 1), torch.where(always, 1.0, 0.0))
        lift = torch.where(between, -slope * torch.where(between, l, 0), 0.0)
        new = weights * (1 - slope).unsqueeze(-2)
        weights = torch.cat([new[..., :i, :], slope.unsqueeze(-2), new[..., i + 1 :, :]], -2)
        bias = bias * (1 - slope) + lift
        top_low, top_high = torch.maximum(top_low, low[..., i, :]), torch.maximum(top_high, high[..., i, :])
    return weights, bias


def _finite(columns: Tensor) -> Tensor:
    return torch.where(torch.isinf(columns), 0.0, columns)


def _relax(call: Call, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
    window, low, high = _columns(call, x)
    greatest, dominated = _dominating(low, high)
    center = (_finite(low) + _finite(high)) / 2
    lead = low.shape[:2]

    def plane(weights: Tensor, bias: Tensor) -> Plane:
        weights = torch.where(dominated, greatest, weights)
        bias = torch.where(dominated.squeeze(-2), 0.0, bias)
        return Plane(
            Windowed(weights, window, call.shapes[0], call.shape), bias.reshape(*bias.shape[:2], *call.shape)
        )

    if slope is Slope.PARALLEL:
        weights, bias = _family(low, high, _cnn_cert_gamma(low, high))
        total = weights.sum(-2)
        # max − Σwx ≥ (1 − Σw)·max, and max lies in [max l, max u]: CNN-Cert's lower intercept
        rest = 1 - total
        floor = torch.where(rest >= 0, low.amax(-2), high.amax(-2)) * rest
        upper = plane(weights, bias)
        return Relaxation(
            Plane(upper.map, torch.where(dominated.squeeze(-2), 0.0, floor).reshape(*lead, *call.shape)),
            upper,
        )
    upper_weights, upper_bias = _upper(low, high, center, alphas)
    chosen = _simplex(alphas[0], high) if alphas else _greatest_center(high, center)
    return Relaxation(plane(chosen, torch.zeros_like(upper_bias)), plane(upper_weights, upper_bias))


def _greatest_center(high: Tensor, center: Tensor) -> Tensor:
    """Return the input with the greatest centre as one-hot; padding, whose upper bound is −∞, is never chosen."""
    best = torch.where(high == -INF, -INF, center).argmax(-2, keepdim=True)
    return torch.zeros_like(high).scatter(-2, best, 1.0)


def _simplex(weights: Tensor, high: Tensor) -> Tensor:
    """Turn non-negative numbers into a convex combination of the inputs that are not padding."""
    padding = high == -INF
    real = torch.where(padding, 0.0, weights.clamp(min=0))
    total = real.sum(-2, keepdim=True)
    count = (~padding).sum(-2, keepdim=True)
    return torch.where(
        total > 0,
        real / torch.where(total > 0, total, 1),
        torch.where(padding, 0.0, 1 / count.to(high.dtype)),
    )


def _gammas(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return max l, max u, and a γ of least area: the mean of the second and third greatest u, neither below max l.

    Any γ between the two has the same area.  At the two ends the plane has a kink, where rounding would choose a side.
    """
    floor, ceiling = low.amax(-2, keepdim=True), high.amax(-2, keepdim=True)
    top = high.topk(min(3, high.shape[-2]), dim=-2).values
    second, third = (top[..., i : i + 1, :] if top.shape[-2] > i else floor for i in (1, 2))
    return floor, ceiling, (torch.maximum(second, floor) + torch.maximum(third, floor)) / 2


def _upper(low: Tensor, high: Tensor, center: Tensor, alphas: Alphas) -> tuple[Tensor, Tensor]:
    floor, ceiling, gamma = _gammas(low, high)
    if alphas:
        gamma = floor + (ceiling - floor) * alphas[1]
        family, tree = _family(low, high, gamma), _tree(low, high)
        tree_share = alphas[2]
        weights = family[0] * (1 - tree_share) + tree[0] * tree_share
        tree_share = tree_share.squeeze(-2)
        return weights, family[1] * (1 - tree_share) + tree[1] * tree_share
    planes = [_family(low, high, gamma), _tree(low, high)]
    heights = [(weights * center).sum(-2) + bias for weights, bias in planes]
    tree_wins = _tree_wins(heights, floor, ceiling)
    return (
        torch.where(tree_wins.unsqueeze(-2), planes[1][0], planes[0][0]),
        torch.where(tree_wins, planes[1][1], planes[0][1]),
    )


def _tree_wins(heights: list[Tensor], floor: Tensor, ceiling: Tensor) -> Tensor:
    """Return whether the tree's plane is used.

    With two contenders the heights are equal, and rounding must not decide.
    """
    return heights[1] <= heights[0] + 1e-5 * (ceiling - floor).squeeze(-2)


def _alphas(call: Call, x: Interval) -> Alphas:
    """Return (weights of the lower combination, γ between max l and max u, weight of the tree)."""
    _, low, high = _columns(call, x)
    center = (_finite(low) + _finite(high)) / 2
    floor, ceiling, gamma = _gammas(low, high)
    span = torch.where(ceiling > floor, ceiling - floor, 1)
    position = ((gamma - floor) / span).clamp(0, 1)
    planes = [_family(low, high, gamma), _tree(low, high)]
    heights = [(weights * center).sum(-2) + bias for weights, bias in planes]
    tree_share = _tree_wins(heights, floor, ceiling).to(low.dtype).unsqueeze(-2)
    return _greatest_center(high, center), position, tree_share


def _receptive_field(call: Call) -> ReceptiveField:
    window = window_of(call)
    (kh, kw), (dh, dw) = window.kernel, window.dilation
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    return ReceptiveField(window.stride, (-window.padding[0], -window.padding[2]), span, any(window.padding))


_MAX_POOL = Nonlinear(
    _interval, _relax, _alphas, _unstable, elementwise=False, patches=PatchRule(_receptive_field)
)

RULES: dict[Any, Rule] = {
    aten.max_pool1d.default: _MAX_POOL,
    aten.max_pool2d.default: _MAX_POOL,
}
