"""Input normalisation as a layer, so that every radius is in units of the input before normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """The layer (x − mean) / std per channel. [N, C, H, W] -> [N, C, H, W]

    mean and std are buffers [C, 1, 1]: they move with the module and are not trained. Raises ValueError if
    mean and std differ in length, or if a std is not positive and finite.
    """

    mean: Tensor
    """Mean per channel, [C, 1, 1]."""
    std: Tensor
    """Standard deviation per channel, [C, 1, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(
                f"Normalize needs one mean and one std per channel, got {len(mean)} and {len(std)}"
            )
        shift, scale = torch.tensor(tuple(mean)).float(), torch.tensor(tuple(std)).float()
        if not (shift.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
            raise ValueError(
                f"Normalize needs finite means and positive stds, got {tuple(mean)} and {tuple(std)}"
            )
        self.register_buffer("mean", shift.view(-1, 1, 1))
        self.register_buffer("std", scale.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
