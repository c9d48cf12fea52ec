"""What stands round the cells of a network: sizes, normalisation, stem."""

from collections.abc import Collection, Sequence

from torch import nn

from certnas.errors import UserError
from certnas.models.normalize import Normalize


def check_sizes(**sizes: int) -> None:
    """Raises UserError, which names it, for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}: got {size}; give 1 or more")


def reduction_cells(layers: int, reductions: Collection[int] | None) -> frozenset[int]:
    """The indices of the reduction cells, by default those at one and two thirds.

    Raises UserError for an index that no cell has.  Liu et al. 2019, section 3.1.
    """
    if reductions is None:
        return frozenset({layers // 3, 2 * layers // 3})
    if not set(reductions) <= set(range(layers)):
        raise UserError(f"reductions: got {sorted(reductions)}; {layers} layers have cells 0 to {layers - 1}")
    return frozenset(reductions)


def normalisation(in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The first layer, (x - mean) / std per channel, or the identity when both are None.

    Raises UserError unless there are one finite mean and one positive std per channel.
    """
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None or len(mean) != in_channels:
        raise UserError(
            f"normalisation: got mean {mean} and std {std} for {in_channels} channels; "
            "give one of each per channel"
        )
    try:
        return Normalize(mean, std)
    except ValueError as error:
        raise UserError(
            f"normalisation: {error}; give one finite mean and one positive std per channel"
        ) from None


def small_stem(in_channels: int, channels: int) -> nn.Sequential:
    """BN(3×3 convolution), for small images.  [N,C,H,W] -> [N,channels,H,W]"""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
