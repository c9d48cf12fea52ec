"""Residual networks for CIFAR-10: He et al. 2016's ResNet-20 to -110, VNN-COMP's resnet2b and resnet4b."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from certnas.models.architectures.architecture import Architecture

CIFAR10 = (3, 32, 32)


class ZeroPadShortcut(nn.Module):
    """Shortcut of option A: every second pixel, with zero channels, half of them before and half behind. [N, C, H, W]

    It has no parameters. He et al. 2016, section 4.2.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.before = (out - channels) // 2
        self.after = out - channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class NormedBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), He et al. 2016's basic block.  [N, C, H, W]"""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 else ZeroPadShortcut(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """He et al. 2016, section 4.2: 6·blocks + 2 layers in three stages of 16, 32 and 64 channels."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(NormedBlock, 16, 16, blocks, stride=1)
        self.layer2 = _stage(NormedBlock, 16, 32, blocks, stride=2)
        self.layer3 = _stage(NormedBlock, 32, 64, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))


class PlainBlock(nn.Module):
    """relu(conv2(relu(conv1(x))) + shortcut(x)), no batch norm; a 1x1 shortcut where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut.append(nn.Conv2d(channels, out, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class VerifierResNet(nn.Module):
    """A stride-2 stem of `width` channels, stages of two blocks of 2·width channels, and 100-K.

    The CIFAR-10 residual networks of VNN-COMP 2021: resnet_2b has one stage, resnet_4b two.
    """

    def __init__(self, width: int, stages: int, classes: int) -> None:
        super().__init__()
        out = 2 * width
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.layer1 = _stage(PlainBlock, width, out, 2, stride=2)
        self.layer2 = _stage(PlainBlock, out, out, 2, stride=2) if stages == 2 else nn.Identity()
        size = 8 // stages
        self.linear1 = nn.Linear(out * size * size, 100)
        self.linear2 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.conv1(x))))
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


def resnet20(*, classes: int = 10) -> Architecture:
    """ResNet-20 with option-A shortcuts and ImageNet's normalisation."""
    return _cifar_resnet(3, classes)


def resnet32(*, classes: int = 10) -> Architecture:
    """ResNet-32 with option-A shortcuts and ImageNet's normalisation."""
    return _cifar_resnet(5, classes)


def resnet44(*, classes: int = 10) -> Architecture:
    """ResNet-44 with option-A shortcuts and ImageNet's normalisation."""
    return _cifar_resnet(7, classes)


def resnet56(*, classes: int = 10) -> Architecture:
    """ResNet-56 with option-A shortcuts and ImageNet's normalisation."""
    return _cifar_resnet(9, classes)


def resnet110(*, classes: int = 10) -> Architecture:
    """ResNet-110 with option-A shortcuts and ImageNet's normalisation."""
    return _cifar_resnet(18, classes)


def resnet2b(*, classes: int = 10) -> Architecture:
    """VNN-COMP 2021's resnet_2b: two residual blocks, 8 and 16 channels, no batch norm."""
    return _verifier_resnet(width=8, stages=1, classes=classes)


def resnet4b(*, classes: int = 10) -> Architecture:
    """VNN-COMP 2021's resnet_4b: four residual blocks, 16 and 32 channels, no batch norm."""
    return _verifier_resnet(width=16, stages=2, classes=classes)


def _cifar_resnet(blocks: int, classes: int) -> Architecture:
    module = CifarResNet(blocks, classes)
    return Architecture(module, CIFAR10, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _verifier_resnet(width: int, stages: int, classes: int) -> Architecture:
    module = VerifierResNet(width, stages, classes)
    return Architecture(module, CIFAR10, mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))


def _stage(
    block: type[NormedBlock] | type[PlainBlock], channels: int, out: int, blocks: int, *, stride: int
) -> nn.Sequential:
    """`blocks` blocks; the first one changes the channels and the resolution."""
    first = block(channels, out, stride)
    return nn.Sequential(first, *(block(out, out, 1) for _ in range(blocks - 1)))
