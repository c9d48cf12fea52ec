"""Images in memory: rows of coefficients may have their channels last, and what meets them should lie the same way."""

from __future__ import annotations

import torch
from torch import Tensor


def fastest_last(x: Tensor) -> bool:
    """Whether torch's convolutions are fastest on `x` with its channels last: on a CPU, in single precision."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def channels_last(rows: Tensor) -> bool:
    """Whether [N, S, C, H, W] has its channels last in memory."""
    return rows.dim() == 5 and rows.shape[2] > 1 and rows.stride(2) == 1 and not rows.is_contiguous()


def like(rows: Tensor, image: Tensor) -> Tensor:
    """`image` [N, *, C, H, W], laid out as the rows are."""
    if not channels_last(rows) or image.dim() != 5 or image.stride(2) == 1:
        return image
    return image.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def flat(tensor: Tensor, lead: int) -> Tensor:
    """All axes after the first `lead` as one, of size 1 where there are none."""
    return tensor.flatten(lead) if tensor.dim() > lead else tensor.unsqueeze(lead)


def vectors(rows: Tensor, *images: Tensor) -> list[Tensor]:
    """Rows [N, S, *shape] and images [N, *, *shape] as vectors, in the order in which the rows lie in memory."""
    if not channels_last(rows):
        return [flat(tensor, 2) for tensor in (rows, *images)]
    return [tensor.movedim(2, -1).flatten(2) for tensor in (rows, *images)]
