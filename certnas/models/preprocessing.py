"""Preprocessing from [0, 1] RGB pixels to the network's input, as layers of the model: radii stay in pixels."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import isfinite, prod

from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.normalize import Normalize

LAYOUTS = ("NCHW", "NHWC", "flat")
"""Accepted layouts."""
CHANNELS = ("rgb", "bgr")
"""Accepted channel orders."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image x [C, H, W] in [0, 1] to the network's input. None omits a step.

    The order is: channels, input_range, mean and std, layout.
    """

    mean: tuple[float, ...] | None = None
    """Mean per channel, in units of input_range; x becomes (x − mean)/std. It replaces the architecture's
    own, which is in [0, 1] units.
    """
    std: tuple[float, ...] | None = None
    """Standard deviation per channel, in units of input_range."""
    input_range: tuple[float, float] | None = None
    """(lo, hi): x becomes lo + (hi − lo)·x."""
    layout: str | None = None
    """"NHWC" reorders x to [H, W, C], "flat" to one row in C, H, W order."""
    channels: str | None = None
    """"bgr" reverses the channels."""


class Reversed(nn.Module):
    """RGB to BGR: the channels in reverse order. [N, C, H, W] -> [N, C, H, W]"""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


class ChannelsLast(nn.Module):
    """[N, C, H, W] -> [N, H, W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class Row(nn.Module):
    """[N, C, H, W] -> [N, *shape] with the same number of elements, in C, H, W order."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)


def preprocessed(
    architecture: Architecture, asked: Preprocessing, images: tuple[int, ...] | None, name: str
) -> tuple[nn.Module, tuple[int, ...]]:
    """The module with its preprocessing, and the shape of its images (C, H, W), or of its own input without a layout.

    `images` is the shape of the images to certify, or None. Raises UserError if settings or shapes do not
    fit.
    """
    shape = _image_shape(architecture.input_shape, asked.layout, images, name)
    layers: list[tuple[str, nn.Module]] = []
    if asked.channels not in (None, *CHANNELS):
        raise UserError(f"{name}: channels is {asked.channels!r}; accepted: {', '.join(CHANNELS)}")
    if asked.channels == "bgr":
        layers.append(("channels", Reversed()))
    normalize = _normalize(architecture, asked, shape[0], name)
    if normalize is not None:
        layers.append(("normalize", normalize))
    if asked.layout == "NHWC":
        layers.append(("layout", ChannelsLast()))
    if asked.layout == "flat":
        layers.append(("layout", Row(architecture.input_shape)))
    if not layers:
        return architecture.module, shape
    return nn.Sequential(OrderedDict([*layers, ("network", architecture.module)])), shape


def described(module: nn.Module) -> str:
    """A description of the layers that `preprocessed` put before a network, in order."""
    words = []
    for layer in module.children() if isinstance(module, nn.Sequential) else ():
        if isinstance(layer, Reversed):
            words.append("channels reversed")
        elif isinstance(layer, Normalize):
            mean, std = (", ".join(f"{v:.9g}" for v in b.flatten().tolist()) for b in (layer.mean, layer.std))
            words.append(f"minus ({mean}), divided by ({std})")
        elif isinstance(layer, ChannelsLast):
            words.append("layout NHWC")
        elif isinstance(layer, Row):
            words.append("layout flat")
        else:
            break
    return ", ".join(words) or "none"


def _image_shape(
    own: tuple[int, ...], layout: str | None, images: tuple[int, ...] | None, name: str
) -> tuple[int, ...]:
    if layout not in (None, *LAYOUTS):
        raise UserError(f"{name}: layout is {layout!r}; accepted: {', '.join(LAYOUTS)}")
    if layout == "NHWC":
        if len(own) != 3:
            raise UserError(f"{name} reads {list(own)}, which is not an image in layout NHWC")
        shape: tuple[int, ...] = (own[2], own[0], own[1])
    elif layout == "flat":
        if images is None:
            raise UserError(f"{name} reads {list(own)}; with layout flat, give input_shape=(C, H, W)")
        shape = images if prod(images) == prod(own) else own
    else:
        shape = own
    if images is not None and images != shape:
        raise UserError(
            f"{name!r} reads images of shape {list(shape)} (channels, height, width), "
            f"the images have shape {list(images)}{_hint(own, images)}"
        )
    return shape


def _hint(own: tuple[int, ...], images: tuple[int, ...]) -> str:
    if len(own) == 3 and len(images) == 3 and own == (*images[1:], images[0]):
        return "; with layout NHWC it takes them"
    return "; with layout flat it takes them" if prod(own) == prod(images) and len(own) != 3 else ""


def _normalize(
    architecture: Architecture, asked: Preprocessing, channels: int, name: str
) -> Normalize | None:
    """input_range and (x − mean)/std as one layer: (x − (mean − lo)/(hi − lo)) / (std/(hi − lo))."""
    own = asked.mean is None and asked.std is None
    mean, std = (architecture.mean, architecture.std) if own else (asked.mean, asked.std)
    low, high = (0.0, 1.0) if asked.input_range is None else asked.input_range
    if not (isfinite(low) and isfinite(high) and low < high):
        raise UserError(f"{name}: input_range is {low:g},{high:g}; accepted: two numbers, the lower first")
    if mean is None and std is None:
        if (low, high) == (0.0, 1.0):
            return None
        mean, std = (0.0,) * channels, (1.0,) * channels
    elif own and asked.input_range is not None:
        raise UserError(
            f"{name} has its own mean and std, of [0, 1] pixels: with input_range, give mean and std"
        )
    if mean is None or std is None or not len(mean) == len(std) == channels:
        raise UserError(
            f"{name} takes mean and std together, {channels} long each: one number per channel "
            f"(got mean {_listed(mean)}, std {_listed(std)})"
        )
    span = high - low
    try:
        if span == 1 and low == 0:
            return Normalize(mean, std)
        return Normalize([(m - low) / span for m in mean], [s / span for s in std])
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _listed(values: tuple[float, ...] | None) -> str:
    return "none" if values is None else str(list(values))
