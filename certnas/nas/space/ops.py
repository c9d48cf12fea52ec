"""The candidate operators of DARTS (Liu et al. 2019, section 3.1), NASNet and AmoebaNet.

Convolutions have no bias. Batch norm has torch's defaults (eps 1e-5, momentum 0.1). In every operator,
stride s maps H×W to ⌈H/s⌉×⌈W/s⌉, so that the edges of a cell have equal shapes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from certnas.errors import UserError


class Zero(nn.Module):
    """The zero map; 0 even if the input is NaN or infinite. [N,C,H,W] -> [N,C,⌈H/s⌉,⌈W/s⌉]"""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Standard normal noise in training; its mean, 0, in evaluation. [N,C,H,W] -> [N,C,⌈H/s⌉,⌈W/s⌉]

    This is the harmful operator of the space S4 (Zela et al. 2020). The published operator draws noise in
    evaluation too; a certificate is about one function, so evaluation is deterministic here.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        strided = x[:, :, :: self.stride, :: self.stride]
        return torch.randn_like(strided) if self.training else torch.zeros_like(strided)


class ReLUConvBN(nn.Sequential):
    """BN(conv(ReLU(x))) with an unpadded square kernel. [N,C,H,W] -> [N,C',H-k+1,W-k+1]"""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, *, affine: bool = True) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, kernel, bias=False),
            nn.BatchNorm2d(channels_out, affine=affine),
        )


class FactorizedReduce(nn.Module):
    """BN(concat[A x₊, B shift(x₊)]), where x₊ = ReLU(x), and A and B are 1×1 convolutions of stride 2.

    [N,C,H,W] -> [N,C',⌈H/2⌉,⌈W/2⌉]. shift(x) = x[:, :, 1:, 1:]. The published operator accepts even sides
    only, and the two agree there. An odd H is first padded with a row of zeros at the bottom, an odd W with
    a column of zeros at the right. Raises UserError for odd C'.
    """

    def __init__(self, channels_in: int, channels_out: int, *, affine: bool = True) -> None:
        super().__init__()
        if channels_out < 2 or channels_out % 2:
            raise UserError(
                f"FactorizedReduce: got {channels_out} output channels; its two branches "
                "need an even number, choose an even number of channels"
            )
        self.conv_1 = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        odd_h, odd_w = x.shape[2] % 2, x.shape[3] % 2
        padded = functional.pad(x, (0, odd_w, 0, odd_h)) if odd_h or odd_w else x
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(padded[:, :, 1:, 1:])], dim=1))


def _separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise k×k, pointwise 1×1, BN; the padding keeps H×W at stride 1."""
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


class SepConv(nn.Sequential):
    """Twice (ReLU, depthwise k×k, pointwise, BN); the first has the stride. [N,C,H,W] -> [N,C,⌈H/s⌉,⌈W/s⌉]"""

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool = True) -> None:
        super().__init__(
            *_separable(channels, kernel, stride, 1, affine), *_separable(channels, kernel, 1, 1, affine)
        )


class DilConv(nn.Sequential):
    """ReLU, depthwise k×k with dilation 2, pointwise, BN. [N,C,H,W] -> [N,C,⌈H/s⌉,⌈W/s⌉]"""

    def __init__(self, channels: int, kernel: int, stride: int, *, affine: bool = True) -> None:
        super().__init__(*_separable(channels, kernel, stride, 2, affine))


class FactorizedConv7(nn.Sequential):
    """AmoebaNet's ReLU, 1×7 convolution, 7×1 convolution, BN. [N,C,H,W] -> [N,C,⌈H/s⌉,⌈W/s⌉]"""

    def __init__(self, channels: int, stride: int, *, affine: bool = True) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)


OPS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "noise": lambda channels, stride, affine: Noise(stride),
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, 1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda channels, stride, affine: SepConv(channels, 3, stride, affine=affine),
    "sep_conv_5x5": lambda channels, stride, affine: SepConv(channels, 5, stride, affine=affine),
    "sep_conv_7x7": lambda channels, stride, affine: SepConv(channels, 7, stride, affine=affine),
    "dil_conv_3x3": lambda channels, stride, affine: DilConv(channels, 3, stride, affine=affine),
    "dil_conv_5x5": lambda channels, stride, affine: DilConv(channels, 5, stride, affine=affine),
    "conv_7x1_1x7": lambda channels, stride, affine: FactorizedConv7(channels, stride, affine=affine),
}
"""Operator name -> factory(channels, stride in {1, 2}, affine), which returns a module [N,C,H,W] ->
[N,C,⌈H/s⌉,⌈W/s⌉].
"""

POOLING = frozenset({"max_pool_3x3", "avg_pool_3x3"})
"""The operators that have a batch norm behind them in a supernet, but not in a discrete network."""
