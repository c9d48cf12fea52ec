"""The layers around the cells of a network: normalisation, stems, auxiliary heads."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models.normalize import Normalize


def check_sizes(**sizes: int) -> None:
    """Raises UserError, which names the argument, for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}: got {size}; give 1 or more")


def reduction_cells(layers: int, reductions: Collection[int] | None) -> frozenset[int]:
    """The indices of the reduction cells; by default those at one and two thirds of the depth.

    Raises UserError for an index without a cell. Liu et al. 2019, section 3.1.
    """
    if reductions is None:
        return frozenset({layers // 3, 2 * layers // 3})
    if not set(reductions) <= set(range(layers)):
        raise UserError(f"reductions: got {sorted(reductions)}; {layers} layers have cells 0 to {layers - 1}")
    return frozenset(reductions)


def normalisation(in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """The first layer: (x − mean) / std per channel, or the identity if both are None.

    Raises UserError unless there is one finite mean and one positive std per channel.
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


@dataclass(frozen=True)
class Stem:
    """The layers before the cells."""

    first: nn.Module
    """Maps the image to the older input of the first cell."""
    second: nn.Module | None
    """Maps the older input to the newer one, at half the size; None: the newer input equals the older one."""
    channels_out: int
    """The number of channels of both inputs."""


def small_stem(in_channels: int, channels: int) -> Stem:
    """The stem for small images: BN(3×3 convolution). [N,C,H,W] -> [N,3·channels,H,W] Liu et al. 2019."""
    width = 3 * channels
    first = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
    return Stem(first, None, width)


def imagenet_stem(in_channels: int, channels: int) -> Stem:
    """The stem for ImageNet: three 3×3 convolutions of stride 2, from Liu et al. 2019, its code.

    first [N,C,H,W] -> [N,channels,⌈H/4⌉,⌈W/4⌉], second -> [N,channels,⌈H/8⌉,⌈W/8⌉].
    """
    half = max(channels // 2, 1)
    first = nn.Sequential(
        nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        nn.Conv2d(half, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )
    second = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )
    return Stem(first, second, channels)


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier at two thirds of the depth, used in training only. [N,C,H,W], H, W ≥ side -> [N,K]

    On side×side maps it equals the published head; larger maps are averaged before the last layer. forward
    raises UserError for smaller maps.
    """

    def __init__(self, features: Sequence[nn.Module], classes: int, *, side: int) -> None:
        super().__init__()
        self.side = side
        self.features = nn.Sequential(*features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self.side:
            raise UserError(
                f"auxiliary head: its input is {x.shape[2]}×{x.shape[3]}, but it needs {self.side}×{self.side} or "
                "more; use larger images or auxiliary=False"
            )
        return self.classifier(self.features(x))


def _auxiliary_features(channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.AvgPool2d(5, stride, count_include_pad=False),
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),
    ]


def small_auxiliary(channels: int, classes: int) -> AuxiliaryHead:
    """The auxiliary head for small images; its input is 8×8 or larger."""
    return AuxiliaryHead([*_auxiliary_features(channels, 3), nn.BatchNorm2d(768)], classes, side=8)


def imagenet_auxiliary(channels: int, classes: int) -> AuxiliaryHead:
    """The auxiliary head for ImageNet; its input is 7×7 or larger.

    Like the published head, it has no second batch norm.
    """
    return AuxiliaryHead(_auxiliary_features(channels, 2), classes, side=7)


@dataclass(frozen=True)
class Frame:
    """The layers around the cells of a network."""

    stem: Callable[[int, int], Stem]
    """(in_channels, channels) -> stem."""
    auxiliary: Callable[[int, int], AuxiliaryHead]
    """(channels, classes) -> auxiliary head."""


SMALL = Frame(small_stem, small_auxiliary)
"""The frame for small images such as CIFAR's."""
IMAGENET = Frame(imagenet_stem, imagenet_auxiliary)
"""The frame for images of about 224×224."""

FRAMES: dict[str, Frame] = {"small": SMALL, "imagenet": IMAGENET}
"""Name -> frame."""
