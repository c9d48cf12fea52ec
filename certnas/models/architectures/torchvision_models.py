"""torchvision's classifiers, with ImageNet's normalisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from certnas.errors import UserError
from certnas.models.architectures.architecture import Architecture

NAMES = (
    "alexnet", "densenet121", "densenet161", "densenet169", "densenet201", "mobilenet_v2", "resnet18", "resnet34",
    "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "squeezenet1_1", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn",
    "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "wide_resnet50_2",
)  # fmt: skip


def _torchvision(name: str, *, classes: int = 1000, size: int = 224) -> Architecture:
    """The network with this name in torchvision.models, for size × size images in [0, 1] pixels."""
    if min(classes, size) < 1:
        raise UserError(f"{name}: classes is {classes} and size {size}; accepted: at least 1")
    import torchvision.models  # imported here because it loads slowly

    module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return Architecture(module, (3, size, size), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


TORCHVISION: dict[str, Callable[..., Architecture]] = {name: partial(_torchvision, name) for name in NAMES}
"""Name -> factory."""
SMALLEST = 16
"""Number of tensors of the smallest of these networks, alexnet."""
