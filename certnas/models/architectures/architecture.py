"""The result of an architecture factory: a network without trained weights, and its input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """A network and the input that it expects."""

    module: nn.Module
    """The network of normalised inputs. [N, *input_shape] -> [N, K]"""
    input_shape: tuple[int, ...]
    """Shape of an input, usually (C, H, W)."""
    mean: tuple[float, ...] | None = None
    """Mean per channel of the normalisation in training, in [0, 1] pixels; None: pixels / 255 without
    normalisation.
    """
    std: tuple[float, ...] | None = None
    """Standard deviation per channel of the normalisation in training, in [0, 1] pixels."""
    note: str = ""
    """Parts of a file that were left out, for the line about the network's origin."""
