"""Reader of torchvision's data sets; it downloads only on request."""

from typing import Any
from urllib.error import URLError

import numpy as np
import torch

from certnas.data.dataset import Dataset, Request, from_bytes
from certnas.errors import UserError

FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "svhn": "",
}
"""Name -> the subfolder of the root where torchvision looks for the files."""


def opened(request: Request, root: str) -> Any:
    """torchvision's object for a key of FOLDERS."""
    from torchvision import datasets

    if request.name == "svhn":
        return datasets.SVHN(root, split="train" if request.train else "test", download=request.download)
    classes = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }
    return classes[request.name](root, train=request.train, download=request.download)


def vision(request: Request) -> Dataset:
    """Read a torchvision data set under `root`, [N, 1, 28, 28] or [N, 3, 32, 32].

    Raises UserError, with the folder for the files, if they are missing, damaged or cannot be downloaded.
    """
    if request.root is None:
        raise UserError(f"data {request.name}: needs the folder with its files (root)")
    folder = request.root / FOLDERS[request.name]
    try:
        data = opened(request, str(request.root))
    except (RuntimeError, FileNotFoundError, URLError) as error:
        if request.download:
            reason = " ".join(str(error).split())
            raise UserError(
                f"data {request.name}: could not be downloaded into {folder}: {reason}"
            ) from error
        raise UserError(
            f"data {request.name}: not found or damaged; its files belong in {folder}, or ask for a download"
        ) from error
    pixels = torch.as_tensor(np.asarray(data.data))
    labels = torch.as_tensor(np.asarray(data.labels if request.name == "svhn" else data.targets))
    rows = request.chosen(len(labels))
    x = pixels[rows]
    if x.ndim == 3:
        x = x.unsqueeze(1)
    elif request.name != "svhn":  # torchvision keeps CIFAR channels last and SVHN channels first
        x = x.permute(0, 3, 1, 2)
    classes = 100 if request.name == "cifar100" else 10
    return Dataset(request.name, from_bytes(x).contiguous(), labels[rows].to(torch.int64), rows, classes)
