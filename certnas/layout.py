"""The memory layout in which convolutions are fastest; values never depend on it."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from certnas.bounds.extend import fastest_last

Network = TypeVar("Network", bound=nn.Module)


def laid_out(x: Tensor) -> Tensor:
    """The same tensor in the layout in which its convolutions are fastest.  [N, C, H, W]

    On a CPU in float32 that is channels last, in which pointwise and depthwise convolutions take at most half the
    time. Float64 has no such kernels, so there, and on other devices, it is channels first.
    """
    if not fastest_last(x):
        return x.contiguous()
    return x.to(
        memory_format=torch.channels_last, copy=True
    )  # also for one channel, which is contiguous in either layout


def laid_out_network(network: Network) -> Network:
    """Sets the convolution kernels of a network to this layout, in place; returns the network."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = laid_out(parameter.data)
    return network


def usual(network: Network) -> Network:
    """Sets the parameters of a network to the contiguous layout of torch and file formats, in place; returns the
    network.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network
