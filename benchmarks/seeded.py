"""Networks of standard shapes for 32×32 images with torch's default initialisation, for measurements of cost only."""

from collections.abc import Callable

import torch
from torch import nn

from certnas.models import Normalize
from certnas.models.architectures import ARCHITECTURES

SEED = 0
Layer = tuple[int, int, int]
"""A convolution with padding 1 and a ReLU: channels, kernel, stride."""


def convolutions(*layers: Layer, hidden: int = 100, classes: int = 10) -> nn.Sequential:
    """The convolutions, then hidden units and classes, in evaluation mode. [N, 3, 32, 32] -> [N, classes]"""
    torch.manual_seed(SEED)
    modules: list[nn.Module] = []
    channels, side = 3, 32
    for out, kernel, stride in layers:
        modules += [nn.Conv2d(channels, out, kernel, stride, padding=1), nn.ReLU()]
        channels, side = out, (side + 2 - kernel) // stride + 1
    units = channels * side * side
    modules += [nn.Flatten(), nn.Linear(units, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*modules).eval()


def resnet4b() -> nn.Module:
    """VNN-COMP 2021's resnet_4b with its normalisation, in evaluation mode, with random weights."""
    torch.manual_seed(SEED)
    found = ARCHITECTURES["resnet4b"]()
    assert found.mean is not None and found.std is not None
    return nn.Sequential(Normalize(found.mean, found.std), found.module).eval()


SEEDED: dict[str, Callable[[], nn.Module]] = {
    "resnet4b, seeded": resnet4b,
    "conv2, seeded": lambda: convolutions((16, 4, 2), (32, 4, 2)),
    "conv4, seeded": lambda: convolutions((16, 3, 1), (16, 4, 2), (32, 3, 1), (32, 4, 2)),
    "conv6, seeded": lambda: convolutions(
        (16, 3, 1), (16, 4, 2), (32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)
    ),
    "strided6, seeded": lambda: convolutions(
        (16, 4, 2), (16, 3, 1), (32, 4, 2), (32, 3, 1), (64, 4, 2), (64, 3, 1)
    ),
}
"""Name -> network: Wong & Kolter 2018's "small" (conv2) and their "large" at half width (conv4), one more
pair of convolutions (conv6), and six convolutions of which the first halves the image (strided6).
"""
