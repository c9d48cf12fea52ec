"""Where numbers lie in memory: the order of axes in which convolutions are fastest.  Values never depend on it."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from certnas.bounds.extend import fastest_last

Network = TypeVar("Network", bound=nn.Module)


def laid_out(x: Tensor) -> Tensor:
    """The same numbers as its convolutions are fastest on.  [N,C,H,W]

    On a CPU in float32 that is channels last, of which pointwise and depthwise convolutions take half the time and
    less; in float64, which has no such kernels, and elsewhere it is channels first.
    """
    if not fastest_last(x):
        return x.contiguous()
    return x.to(
        memory_format=torch.channels_last, copy=True
    )  # of one channel too, which looks contiguous either way


def laid_out_network(network: Network) -> Network:
    """The network with the kernels of its convolutions laid out so, in place."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = laid_out(parameter.data)
    return network


def usual(network: Network) -> Network:
    """The network with its parameters laid out as torch and file formats expect them, in place."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network
