"""The third-party networks and images of the benchmarks, in the folder `shared` next to the repository."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from certnas.models import open_model

DATA = Path(__file__).parents[2] / "shared" / "data"
IDX_HEADERS = {"images": 16, "labels": 8}


def mnist(count: int, *, train: bool = False) -> tuple[Tensor, Tensor]:
    """The first images x [count,1,28,28] float32 in [0, 1] and their labels y [count] int64."""
    part = "train" if train else "t10k"
    x = _idx(f"{part}-images-idx3-ubyte.gz", IDX_HEADERS["images"]).reshape(-1, 1, 28, 28)
    y = _idx(f"{part}-labels-idx1-ubyte.gz", IDX_HEADERS["labels"])
    return torch.from_numpy(x[:count].astype(np.float32) / 255), torch.from_numpy(y[:count].astype(np.int64))


def _idx(file: str, header: int) -> np.ndarray:
    content = gzip.decompress((DATA / "MNIST" / "raw" / file).read_bytes())
    return np.frombuffer(content, np.uint8, offset=header)


def cifar10(count: int) -> tuple[Tensor, Tensor]:
    """The first test images x [count,3,32,32] float32 in [0, 1] and their labels y [count] int64."""
    folder = DATA / "cifar10"
    sheets = [_sheet(folder / "test" / f"test_{k:02}.webp") for k in range(-(-count // 1000))]
    y = np.load(folder / "test_labels.npy")[:count].astype(np.int64)
    return torch.from_numpy(np.concatenate(sheets)[:count].astype(np.float32) / 255), torch.from_numpy(y)


def _sheet(path: Path) -> np.ndarray:
    """A sheet of 25 rows of 40 images -> [1000, 3, 32, 32]."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    return pixels.reshape(25, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32)


@dataclass(frozen=True)
class Trained:
    """A trained network: its file, its architecture, and its test images."""

    file: str
    arch: str
    images: Callable[[int], tuple[Tensor, Tensor]]

    def module(self) -> nn.Module:
        """The network with its normalisation, in evaluation mode; it maps [0, 1] pixels to logits."""
        return open_model(str(DATA / "checkpoints" / self.file), arch=self.arch).module


NETWORKS: dict[str, Trained] = {
    "mnist_fc_3layer": Trained("mnist_fc_3layer.pth", "mnist-fc-3layer", mnist),
    "mnist_cnn_small": Trained("mnist_cnn_small.pth", "mnist-cnn-small", mnist),
    "mnist_a_adv": Trained("mnist_a_adv.pth", "mnist-cnn-a", mnist),
    "kw_mnist": Trained("kw_mnist.pth", "kw-mnist", mnist),
    "cifar_2c2f": Trained("cifar_2c2f.pth", "cifar-2c2f", cifar10),
    "cifar_conv_small_sigmoid": Trained("cifar_conv_small_sigmoid.pth", "cifar-conv-small-sigmoid", cifar10),
    "resnet2b": Trained("resnet2b.pth", "resnet2b", cifar10),
    "kw_cifar_small": Trained("cifar_small_36px.pth", "kw-cifar-small", cifar10),
    "resnet20": Trained("resnet20-12fca82f.th", "resnet20", cifar10),
    "mnist_cnn_5layer_5_3": Trained("mnist_cnn_5layer_5_3.npz", "cnn-cert-sigmoid", mnist),
    "mnist_cnn_5layer_5_3_tanh": Trained("mnist_cnn_5layer_5_3_tanh.npz", "cnn-cert-tanh", mnist),
}
