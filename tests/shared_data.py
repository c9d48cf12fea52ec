"""The third-party test images, exactly encoded; without them a test skips, except where CI=true."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import shared_dir
from PIL import Image
from torch import Tensor

CHECKPOINTS = {  # id in the manifest -> file, architecture
    "mnist_fc_3layer": ("mnist_fc_3layer.pth", "mnist-fc-3layer"),
    "mnist_cnn_small": ("mnist_cnn_small.pth", "mnist-cnn-small"),
    "mnist_a_adv": ("mnist_a_adv.pth", "mnist-cnn-a"),
    "kw_mnist": ("kw_mnist.pth", "kw-mnist"),
    "cifar_2c2f": ("cifar_2c2f.pth", "cifar-2c2f"),
    "cifar_conv_small_sigmoid": ("cifar_conv_small_sigmoid.pth", "cifar-conv-small-sigmoid"),
    "resnet2b": ("resnet2b.pth", "resnet2b"),
    "resnet20": ("resnet20-12fca82f.th", "resnet20"),
    "kw_cifar_small_36px": ("cifar_small_36px.pth", "kw-cifar-small"),
    "mnist_cnn_5layer_5_3": ("mnist_cnn_5layer_5_3.npz", "cnn-cert-sigmoid"),
    "mnist_cnn_5layer_5_3_tanh": ("mnist_cnn_5layer_5_3_tanh.npz", "cnn-cert-tanh"),
}
COMPLETE: dict[str, tuple[str, dict[str, Any]]] = {  # id -> a file that holds its own architecture, options
    "resnet_2b": (
        "resnet_2b.onnx",
        {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)},
    ),
    "mnist-net_256x2": ("mnist-net_256x2.onnx", {"layout": "flat", "input_shape": (1, 28, 28)}),
    "cifar_base_kw": ("cifar_base_kw.onnx", {"mean": (0.485, 0.456, 0.406), "std": (0.225, 0.225, 0.225)}),
    "Convnet_maxpool": ("Convnet_maxpool.onnx", {}),
    "ffnnSIGMOID__Point_6x200": ("ffnnSIGMOID__Point_6x200.onnx", {}),
    "cifar10_small": ("cifar10_small.onnx", {"layout": "NHWC"}),
    "mnist_cnn_5layer_5_3": ("mnist_cnn_5layer_5_3.h5", {}),
    "mnist_cnn_5layer_5_3_tanh": ("mnist_cnn_5layer_5_3_tanh.h5", {}),
    "ACASXU_run2a_1_1": ("ACASXU_run2a_1_1_batch_2000.onnx", {}),
    "ACASXU_run2a_2_2": ("ACASXU_run2a_2_2_batch_2000.onnx", {}),
}


def checkpoint(file: str) -> Path:
    """The path of one of the third-party trained networks."""
    path = shared_dir() / "data" / "checkpoints" / file
    assert path.is_file(), f"{file} is not among the checkpoints"
    return path


def manifest() -> dict[str, dict[str, Any]]:
    """What is known of each network, by its id: files, dataset, input_encoding, clean_correct_of_10000."""
    path = shared_dir() / "data" / "checkpoints" / "index.json"
    return {entry["id"]: entry for entry in json.loads(path.read_text())}


def mnist_test(n: int) -> tuple[Tensor, Tensor]:
    """The first n test images x [n,1,28,28] float32 in [0, 1] and their labels y [n] int64; n ≤ 10000."""
    raw = shared_dir() / "data" / "MNIST" / "raw"
    images = _idx(raw / "t10k-images-idx3-ubyte.gz", header=16).reshape(-1, 1, 28, 28)
    labels = _idx(raw / "t10k-labels-idx1-ubyte.gz", header=8)
    return _encoded(images, labels, n)


def cifar10_test(n: int) -> tuple[Tensor, Tensor]:
    """The first n test images x [n,3,32,32] float32 RGB in [0, 1] and their labels y [n] int64; n ≤ 10000."""
    folder = shared_dir() / "data" / "cifar10"
    sheets = [_sheet(folder / "test" / f"test_{k:02}.webp") for k in range(-(-n // 1000))]
    return _encoded(np.concatenate(sheets), np.load(folder / "test_labels.npy"), n)


def _encoded(images: np.ndarray, labels: np.ndarray, n: int) -> tuple[Tensor, Tensor]:
    assert 0 < n <= len(images), f"{n} images asked for, {len(images)} there"
    return torch.from_numpy(images[:n].astype(np.float32) / 255), torch.from_numpy(
        labels[:n].astype(np.int64)
    )


@cache
def _idx(path: Path, *, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


@cache
def _sheet(path: Path) -> np.ndarray:
    """A contact sheet of 25 x 40 images -> [1000, 3, 32, 32]."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    return pixels.reshape(25, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32)
