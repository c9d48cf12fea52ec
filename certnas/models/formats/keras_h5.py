"""Reading of sequential networks from Keras .h5 files, structure and arrays, without TensorFlow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.models.architectures import Architecture
from certnas.models.architectures.cnn_cert import ChannelsLastFlatten
from certnas.models.formats.contents import StateDict
from certnas.models.formats.hdf5 import read_hdf5
from certnas.models.formats.keras_npz import keras_tensor
from certnas.models.formats.limits import LARGEST

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
_NORMALISATION = {
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
_LAST = (
    "linear",
    "softmax",
)  # a final softmax is left out, because it does not change the order of the classes


def read_keras_h5(path: Path) -> Architecture | StateDict:
    """A Keras Sequential with convolutions, dense layers, batch norms, pools and activations, for images [N, C, H, W].

    The network follows the structure in the file, without a final softmax. A file without a structure gives
    arrays layer0.weight, … as an .npz does. Raises UserError for another layer, data outside the file, or a
    damaged file.
    """
    stored = read_hdf5(path)
    arrays = {layer: _tensors(path, values) for layer, values in stored.layers.items()}
    if stored.config is None:
        weighted = [values for values in arrays.values() if values]
        return StateDict(
            {f"layer{i}.{key}": value for i, values in enumerate(weighted) for key, value in values.items()}
        )
    try:
        return _Builder(parse_json(stored.config), arrays, path).architecture()
    except UserError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        RuntimeError,
        RecursionError,
    ) as error:
        raise UserError(f"'{path}' does not describe a Keras Sequential of images: {error}") from error


def _tensors(path: Path, values: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Keras's names and arrays of a layer, converted to torch's names and tensors."""
    found = {}
    for name, value in values.items():
        kind = name.rsplit("/", 1)[-1].partition(":")[0]
        like = "bias" if kind in _NORMALISATION else kind  # one number for each channel
        key, tensor = keras_tensor(path, f"layer0_{like}", value)
        found[_NORMALISATION.get(kind, key.removeprefix("layer0."))] = tensor
    return found


class _Builder:
    """Builds the layers of a configuration in order; its shape is [C, H, W], channels first, or [units]."""

    def __init__(self, config: dict[str, Any], arrays: dict[str, dict[str, Tensor]], path: Path) -> None:
        if config["class_name"] != "Sequential":
            raise UserError(f"'{path}' is a Keras {str(config['class_name'])[:40]}; accepted: Sequential")
        layers = config["config"]
        self.layers = layers["layers"] if isinstance(layers, dict) else layers
        self.arrays, self.path = arrays, path
        self.modules: list[tuple[str, nn.Module]] = []
        self.shape: tuple[int, ...] = ()

    def architecture(self) -> Architecture:
        for i, layer in enumerate(self.layers):
            kind, config = layer["class_name"], layer["config"]
            given = config.get("batch_input_shape", config.get("batch_shape"))
            if given is not None and not self.shape:
                height, width, channels = (int(size) for size in given[1:])
                input_shape = self.shape = (channels, height, width)
                if min(self.shape) < 1 or prod(self.shape) > LARGEST:
                    raise UserError(
                        f"'{self.path}' reads {list(self.shape)}; accepted: at most {LARGEST} elements"
                    )
            if kind not in LAYERS:
                raise UserError(
                    f"'{self.path}': no importer for Keras layer {str(kind)[:40]} at position {i}; "
                    f"supported: {', '.join(LAYERS)}"
                )
            LAYERS[kind](self, config)
            self._activation(config.get("activation", "linear"), last=i == len(self.layers) - 1)
        if len(self.shape) != 1:
            raise UserError(f"'{self.path}' ends in {list(self.shape)}; accepted: one row of classes")
        return Architecture(nn.Sequential(OrderedDict(self.modules)), input_shape)

    def add(self, name: str, module: nn.Module) -> None:
        if any(name == other for other, _ in self.modules):
            raise UserError(f"'{self.path}' has two layers called {name!r}")
        self.modules.append((name.replace(".", "_"), module))
        state = {key: value.to("meta") for key, value in module.state_dict().items()}
        output = torch.func.functional_call(module, state, (torch.empty((1, *self.shape), device="meta"),))
        self.shape = tuple(output.shape[1:])

    def linear(self, module: nn.Module, name: str) -> None:
        """A layer on the meta device, with its arrays. Raises UserError if the arrays do not fit."""
        arrays = self.arrays.get(name, {})
        own = {key: value.shape for key, value in module.state_dict().items()}
        if own != {key: value.shape for key, value in arrays.items()}:
            raise self.unfitting(name)
        module.load_state_dict(arrays, assign=True)
        self.add(name, module)

    def unfitting(self, name: str) -> UserError:
        return UserError(f"'{self.path}': the arrays of layer {name[:40]!r} do not fit its configuration")

    def window(
        self, config: dict[str, Any], key: str
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Kernel, strides and dilation. For Keras's padding "same", a padding layer is added first."""
        if config.get("data_format", "channels_last") != "channels_last":
            raise UserError(f"'{self.path}' has channels first; accepted: channels last")
        kernel, dilation = _pair(config[key]), _pair(config.get("dilation_rate", 1))
        strides = _pair(config.get("strides") or (kernel if key == "pool_size" else 1))
        if min(*kernel, *strides, *dilation) < 1:
            raise UserError(f"'{self.path}': kernel {kernel}, strides {strides}, dilation {dilation}")
        if config.get("padding", "valid") == "same":
            if key == "pool_size":
                raise UserError(f"'{self.path}': pools with padding 'same' are not supported")
            pads: list[int] = []
            for size, k, s, d in zip(self.shape[1:], kernel, strides, dilation, strict=True):
                total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
                pads = [total // 2, total - total // 2, *pads]  # torch lists the last dimension first
            if any(pads):
                self.add(f"pad{len(self.modules)}", nn.ZeroPad2d(tuple(pads)))  # type: ignore[arg-type]
        return kernel, strides, dilation

    def _activation(self, name: Any, *, last: bool) -> None:
        if name == "linear" or (last and name in _LAST):
            return
        if name not in ACTIVATIONS:
            raise UserError(
                f"'{self.path}': no importer for Keras activation {str(name)[:40]!r} at position "
                f"{len(self.modules)}; supported: {', '.join(ACTIVATIONS)}"
            )
        self.add(f"activation{len(self.modules)}", ACTIVATIONS[name]())


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _conv(builder: _Builder, config: dict[str, Any]) -> None:
    kernel, strides, dilation = builder.window(config, "kernel_size")
    bias = bool(config.get("use_bias", True))
    module = nn.Conv2d(
        builder.shape[0], int(config["filters"]), kernel, stride=strides, dilation=dilation, bias=bias,
        device="meta",
    )  # fmt: skip
    if config.get("groups", 1) != 1:
        raise UserError(f"'{builder.path}': grouped convolutions are not supported")
    builder.linear(module, config["name"])


def _batch_norm(builder: _Builder, config: dict[str, Any]) -> None:
    axes = config.get("axis", -1)
    axis = axes[0] if isinstance(axes, list) and len(axes) == 1 else axes
    if axis not in (-1, len(builder.shape)):
        raise UserError(
            f"'{builder.path}': BatchNormalization along axis {axes}; accepted: the last, channels"
        )
    channels = builder.shape[0]
    arrays = builder.arrays.setdefault(config["name"], {})
    for used, key, neutral in (("scale", "weight", torch.ones), ("center", "bias", torch.zeros)):
        if not config.get(used, True):
            if key in arrays:
                raise builder.unfitting(config["name"])
            arrays[key] = neutral(channels)
    arrays["num_batches_tracked"] = torch.tensor(0)
    kind = nn.BatchNorm2d if len(builder.shape) == 3 else nn.BatchNorm1d
    module = kind(channels, float(config.get("epsilon", 1e-3)), device="meta").eval()
    builder.linear(module, config["name"])


def _dense(builder: _Builder, config: dict[str, Any]) -> None:
    if len(builder.shape) != 1:
        raise UserError(
            f"'{builder.path}': Dense reads {list(builder.shape)}; accepted: one row, as Flatten gives"
        )
    bias = bool(config.get("use_bias", True))
    builder.linear(
        nn.Linear(builder.shape[0], int(config["units"]), bias=bias, device="meta"), config["name"]
    )


def _flatten(builder: _Builder, config: dict[str, Any]) -> None:
    builder.add(config["name"], ChannelsLastFlatten() if len(builder.shape) == 3 else nn.Flatten())


def _max_pool(builder: _Builder, config: dict[str, Any]) -> None:
    kernel, strides, _ = builder.window(config, "pool_size")
    builder.add(config["name"], nn.MaxPool2d(kernel, strides))


def _average_pool(builder: _Builder, config: dict[str, Any]) -> None:
    kernel, strides, _ = builder.window(config, "pool_size")
    builder.add(config["name"], nn.AvgPool2d(kernel, strides))


def _leaky(builder: _Builder, config: dict[str, Any]) -> None:
    builder.add(config["name"], nn.LeakyReLU(float(config.get("alpha", config.get("negative_slope", 0.3)))))


def _relu(builder: _Builder, config: dict[str, Any]) -> None:
    if config.get("max_value") is not None or config.get("negative_slope") or config.get("threshold"):
        raise UserError(f"'{builder.path}': only the plain ReLU layer is supported")
    builder.add(config["name"], nn.ReLU())


def _nothing(builder: _Builder, config: dict[str, Any]) -> None:
    """No layer: an input, a dropout, or an activation that its layer already includes."""


LAYERS: dict[str, Callable[[_Builder, dict[str, Any]], None]] = {
    "Activation": _nothing,
    "AveragePooling2D": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv2D": _conv,
    "Dense": _dense,
    "Dropout": _nothing,
    "Flatten": _flatten,
    "InputLayer": _nothing,
    "LeakyReLU": _leaky,
    "MaxPooling2D": _max_pool,
    "ReLU": _relu,
}
"""Keras layer -> function that adds it to the network."""
