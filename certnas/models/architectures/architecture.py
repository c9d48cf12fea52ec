"""What an architecture factory returns: a network without weights of its own, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A module [N, *input_shape] -> [N, K] of normalised pixels, and the normalisation it was trained with.

    input_shape is (C, H, W); mean and std (one number per channel, in [0, 1] pixel units) are both None
    for a network that reads pixels / 255 as they are.  note: what of a file was left out, for the line that says where
    the network came from.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    note: str = ""
