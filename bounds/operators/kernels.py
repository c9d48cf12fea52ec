"""The convolution of stride 1 behind all transposed convolutions, computed in the fastest way on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory_format import fastest_last

BLOCK = 1 << 18
"""Numbers convolved at a time in double precision, so that they stay in the cache.  Chosen by hand."""
TINY = 80
"""Largest image, in numbers, that is convolved as a vector times a matrix if there are many images.  Chosen by hand."""
SMALL = 100
"""Largest padded image, in positions, whose windows are copied in double precision.  Chosen by hand."""


def convolve(x: Tensor, weight: Tensor, padding: list[int], dilation: list[int], groups: int) -> Tensor:
    """Compute `torch.nn.functional.conv2d` of stride 1.  x [B, C, H, W], weight [K, C/groups, kh, kw] -> [B, K, oh, ow]

    On a CPU, very small images are convolved as vectors.  Otherwise torch's single precision is 2 to 30 times faster
    with the channels last.  Its double precision works image by image: for small images one product of all their
    windows takes a third of the time, and for larger ones sums of shifted images take half of it, from five channels
    on.  `peak` in benchmarks/README.md times the convolutions.
    """
    if x.device.type != "cpu":
        return F.conv2d(x, weight, None, 1, padding, dilation, groups)
    if groups == x.shape[1] < weight.shape[0]:  # this is slow, so each filter gets a channel of its own
        groups = weight.shape[0]
        x = x.repeat_interleave(groups // x.shape[1], 1)
    double, spatial = x.dtype == torch.float64, weight[0, 0].numel() > 1
    if groups == 1 and spatial and x.numel():
        height, width = (n + 2 * p for n, p in zip(x.shape[2:], padding, strict=True))
        if x[0].numel() <= min(TINY, len(x) // 2):
            return _product(x, weight, padding, dilation)
        if double and height * width <= SMALL:
            return _columns(x, weight, padding, dilation)
    if not double:
        return F.conv2d(laid_out(x), weight, None, 1, padding, dilation, groups)
    depthwise = groups == x.shape[1] == weight.shape[0]
    if spatial and x.numel() and (depthwise or (groups == 1 and x.shape[1] > 4)):
        return _shifted(x, weight, padding, dilation, depthwise)
    return F.conv2d(x.contiguous(), weight, None, 1, padding, dilation, groups)


def laid_out(x: Tensor) -> Tensor:
    """Return [B, C, H, W] in the memory format in which torch's own convolution is fastest."""
    return x.contiguous(memory_format=torch.channels_last) if fastest_last(x) else x


def _shifted(x: Tensor, weight: Tensor, padding: list[int], dilation: list[int], depthwise: bool) -> Tensor:
    """Sum weight · shifted image over the taps.  In a padded, flattened image a shift is an offset."""
    (ph, pw), (dh, dw), (kh, kw) = padding, dilation, weight.shape[2:]
    height, width = x.shape[2] + 2 * ph, x.shape[3] + 2 * pw
    oh, ow = height - dh * (kh - 1), width - dw * (kw - 1)
    length = oh * width - (width - ow)
    step = max(1, BLOCK // (x.shape[1] * height * width))
    found = []
    for part in x.split(step):
        flat = F.pad(part, (pw, pw, ph, ph)).flatten(2)
        total: Tensor | None = None
        for i in range(kh):
            for j in range(kw):
                start = dh * i * width + dw * j
                moved, tap = flat[:, :, start : start + length], weight[:, :, i, j]
                if depthwise:
                    total = moved * tap if total is None else total.addcmul_(moved, tap)
                else:
                    tap = tap.contiguous().expand(len(part), *tap.shape)
                    total = torch.bmm(tap, moved) if total is None else total.baddbmm_(tap, moved)
        assert total is not None
        found.append(F.pad(total, (0, width - ow)).unflatten(2, (oh, width))[..., :ow])
    return torch.cat(found)


def _columns(x: Tensor, weight: Tensor, padding: list[int], dilation: list[int]) -> Tensor:
    """Multiply a matrix of all windows by the weight."""
    (ph, pw), (dh, dw), (kh, kw) = padding, dilation, weight.shape[2:]
    channels, height, width = x.shape[1], x.shape[2] + 2 * ph, x.shape[3] + 2 * pw
    oh, ow = height - dh * (kh - 1), width - dw * (kw - 1)
    flat = weight.permute(2, 3, 1, 0).flatten(0, 2)
    step = max(1, BLOCK // (len(flat) * oh * ow))
    found = []
    for part in x.permute(0, 2, 3, 1).split(step):
        padded = F.pad(part, (0, 0, pw, pw, ph, ph)).contiguous()
        image, row, place, channel = padded.stride()
        strides = (image, row, place, dh * row, dw * place, channel)
        windows = padded.as_strided((len(part), oh, ow, kh, kw, channels), strides)
        found.append(windows.reshape(-1, len(flat)) @ flat)
    return torch.cat(found).reshape(len(x), oh, ow, -1).permute(0, 3, 1, 2)


def _product(x: Tensor, weight: Tensor, padding: list[int], dilation: list[int]) -> Tensor:
    """Multiply the images as vectors by the matrix of the convolution."""
    channels, height, width = x.shape[1:]
    unit = (
        torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        .reshape(-1, height, width, channels)
        .permute(0, 3, 1, 2)
    )
    images = F.conv2d(unit, weight, None, 1, padding, dilation).permute(0, 2, 3, 1)
    found = x.permute(0, 2, 3, 1).flatten(1) @ images.flatten(1)
    return found.reshape(len(x), *images.shape[1:]).permute(0, 3, 1, 2)
