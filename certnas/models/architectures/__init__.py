"""The architectures that a checkpoint can name; each is a factory with keyword options."""

from collections.abc import Callable

from certnas.models.architectures.architecture import Architecture
from certnas.models.architectures.cnn_cert import cnn_cert_relu, cnn_cert_sigmoid, cnn_cert_tanh
from certnas.models.architectures.darts import darts
from certnas.models.architectures.feedforward import (
    cifar_2c2f,
    cifar_conv_small_sigmoid,
    kw_cifar_small,
    mnist_cnn_a,
    mnist_cnn_small,
    mnist_fc_3layer,
)
from certnas.models.architectures.residual import (
    resnet2b,
    resnet4b,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
)
from certnas.models.architectures.torchvision_models import TORCHVISION

__all__ = ["ARCHITECTURES", "Architecture"]

ARCHITECTURES: dict[str, Callable[..., Architecture]] = {
    "cifar-2c2f": cifar_2c2f,
    "cifar-conv-small-sigmoid": cifar_conv_small_sigmoid,
    "cnn-cert-relu": cnn_cert_relu,
    "cnn-cert-sigmoid": cnn_cert_sigmoid,
    "cnn-cert-tanh": cnn_cert_tanh,
    "darts": darts,
    "kw-cifar-small": kw_cifar_small,
    "kw-mnist": mnist_cnn_a,
    "mnist-cnn-a": mnist_cnn_a,
    "mnist-cnn-small": mnist_cnn_small,
    "mnist-fc-3layer": mnist_fc_3layer,
    "resnet2b": resnet2b,
    "resnet4b": resnet4b,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    **TORCHVISION,
}
