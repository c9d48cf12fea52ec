"""Memory formats: coefficients may be stored channels last, and tensors combined with them should be stored alike."""

from __future__ import annotations

import torch
from torch import Tensor


def fastest_last(x: Tensor) -> bool:
    """Return whether torch's convolutions are fastest with the channels of `x` last: on a CPU, in single precision."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def channels_last(rows: Tensor) -> bool:
    """Return whether coefficients [N, S, C, H, W] are stored channels last."""
    return rows.dim() == 5 and rows.shape[2] > 1 and rows.stride(2) == 1 and not rows.is_contiguous()


def like(rows: Tensor, image: Tensor) -> Tensor:
    """Return `image` [N, *, C, H, W] in the memory format of the coefficients `rows`."""
    if not channels_last(rows) or image.dim() != 5 or image.stride(2) == 1:
        return image
    return image.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def flat(tensor: Tensor, lead: int) -> Tensor:
    """Flatten all axes after the first `lead`; a tensor without such axes gets one of size 1."""
    return tensor.flatten(lead) if tensor.dim() > lead else tensor.unsqueeze(lead)


def vectors(rows: Tensor, *images: Tensor) -> list[Tensor]:
    """Return coefficients [N, S, *shape] and images [N, *, *shape] as vectors in the order of their storage."""
    if not channels_last(rows):
        return [flat(tensor, 2) for tensor in (rows, *images)]
    return [tensor.movedim(2, -1).flatten(2) for tensor in (rows, *images)]
