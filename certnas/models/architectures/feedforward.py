"""The sequential MNIST and CIFAR-10 networks of the verification literature.

Layer numbers count activations and Flatten, as in the published state dicts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from certnas.models.architectures.architecture import Architecture

MNIST = (1, 28, 28)
CIFAR10 = (3, 32, 32)


def mnist_fc_3layer(*, classes: int = 10) -> Architecture:
    """784-128-64-K with ReLU and layers fc1, fc2, fc3; auto_LiRPA's example network."""
    layers: list[tuple[str, nn.Module]] = [
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(784, 128)),
        ("relu1", nn.ReLU()),
        ("fc2", nn.Linear(128, 64)),
        ("relu2", nn.ReLU()),
        ("fc3", nn.Linear(64, classes)),
    ]
    return Architecture(nn.Sequential(OrderedDict(layers)), MNIST)


def mnist_cnn_small(*, classes: int = 10) -> Architecture:
    """Two 4x4 stride-2 convolutions (8, 16) and 256-K with ReLU and layers conv1, conv2, fc1, fc2;
    auto_LiRPA's example.
    """
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(1, 8, 4, stride=2, padding=1)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(8, 16, 4, stride=2, padding=1)),
        ("relu2", nn.ReLU()),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(16 * 7 * 7, 256)),
        ("relu3", nn.ReLU()),
        ("fc2", nn.Linear(256, classes)),
    ]
    return Architecture(nn.Sequential(OrderedDict(layers)), MNIST)


def mnist_cnn_a(*, classes: int = 10) -> Architecture:
    """CNN-A for MNIST: 4x4 stride-2 convolutions (16, 32) and 100-K with ReLU. Wong & Kolter 2018 ("small")."""
    return Architecture(_two_convolutions(MNIST, (16, 32), 4, 2, 1, 100, classes, nn.ReLU), MNIST)


def kw_cifar_small(*, classes: int = 10) -> Architecture:
    """CNN-A for CIFAR-10, with the normalisation of Wong et al. 2018's loader (std 0.225 everywhere)."""
    module = _two_convolutions(CIFAR10, (16, 32), 4, 2, 1, 100, classes, nn.ReLU)
    return Architecture(module, CIFAR10, mean=(0.485, 0.456, 0.406), std=(0.225, 0.225, 0.225))


def cifar_2c2f(*, classes: int = 10) -> Architecture:
    """Two unpadded 3x3 convolutions (4, 4) and 32-K with ReLU; auto_LiRPA's example network."""
    return Architecture(_two_convolutions(CIFAR10, (4, 4), 3, 1, 0, 32, classes, nn.ReLU), CIFAR10)


def cifar_conv_small_sigmoid(*, classes: int = 10) -> Architecture:
    """Two unpadded 4x4 stride-2 convolutions (16, 32) and 100-K with sigmoid; alpha-beta-CROWN's example."""
    module = _two_convolutions(CIFAR10, (16, 32), 4, 2, 0, 100, classes, nn.Sigmoid)
    return Architecture(module, CIFAR10, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


def _two_convolutions(
    shape: tuple[int, int, int],
    filters: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    hidden: int,
    classes: int,
    activation: Callable[[], nn.Module],
) -> nn.Sequential:
    """Two convolutions, Flatten (C, H, W order) and two linear layers, with activations between them."""
    size = shape[1]
    for _ in filters:
        size = (size + 2 * padding - kernel) // stride + 1
    return nn.Sequential(
        nn.Conv2d(shape[0], filters[0], kernel, stride=stride, padding=padding),
        activation(),
        nn.Conv2d(filters[0], filters[1], kernel, stride=stride, padding=padding),
        activation(),
        nn.Flatten(),
        nn.Linear(filters[1] * size * size, hidden),
        activation(),
        nn.Linear(hidden, classes),
    )
