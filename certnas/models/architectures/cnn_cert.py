"""CNN-Cert's plain convolutional networks (Boopathy et al. 2019), with Keras's axis order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models.architectures.architecture import Architecture


class ChannelsLastFlatten(nn.Module):
    """[N, C, H, W] -> [N, H·W·C] in H, W, C order, which is the order of a Keras Flatten."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def _cnn_cert(
    activation: Callable[[], nn.Module],
    *,
    layers: int = 5,
    filters: int = 5,
    kernel: int = 3,
    channels: int = 1,
    size: int = 28,
    classes: int = 10,
) -> Architecture:
    """CNN-Cert's pure CNN: layers − 1 unpadded convolutions, each with an activation, then a dense layer.

    The layers are called layer0, layer1, …, like the arrays in a CNN-Cert .npz without their suffix.
    """
    final = size - (layers - 1) * (kernel - 1)
    if min(layers, filters, kernel, channels, classes) < 1 or final < 1:
        raise UserError(
            f"no CNN of {layers} layers with {kernel}x{kernel} kernels on {size}x{size} images: "
            f"every option must be at least 1 and {layers - 1}·({kernel} - 1) less than the image size"
        )
    modules: list[tuple[str, nn.Module]] = []
    depth = channels
    for index in range(layers - 1):
        modules += [
            (f"layer{index}", nn.Conv2d(depth, filters, kernel)),
            (f"activation{index}", activation()),
        ]
        depth = filters
    modules += [
        ("flatten", ChannelsLastFlatten()),
        (f"layer{layers - 1}", nn.Linear(final * final * depth, classes)),
    ]
    return Architecture(nn.Sequential(OrderedDict(modules)), (channels, size, size))


cnn_cert_relu = partial(_cnn_cert, nn.ReLU)
cnn_cert_sigmoid = partial(_cnn_cert, nn.Sigmoid)
cnn_cert_tanh = partial(_cnn_cert, nn.Tanh)
