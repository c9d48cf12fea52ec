"""torch.export archives for tests: a network of several kinds of operator, and edits of an archive."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Edit = Callable[[dict[str, bytes], Path], None]


WEIGHTS, CONSTANTS, MODEL = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
    "models/model.json",
)


class Malice:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.marker),)


class Mixed(nn.Module):
    """Operators of several outputs, in-place ones, a buffer, a constant, a reshape by literal sizes."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("scale", torch.full((1, 1, 8, 8), 2.0))
        self.linear = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.norm(self.conv(x * self.scale - torch.tensor(0.3))))
        left, right = y.chunk(2, 1)
        y = torch.cat([nn.functional.max_pool2d(left, 2), right[:, :, ::2, 1::2]], 1)
        return self.linear(y.view(y.shape[0], 64))


def exported(path: Path, network: nn.Module, shape: tuple[int, ...], *, batch: int | None = None) -> None:
    free = None if batch else ({0: torch.export.Dim.DYNAMIC},)
    example = torch.rand(batch or 2, *shape)
    torch.export.save(
        torch.export.export(network.eval(), (example,), dynamic_shapes=free, strict=False), str(path)
    )


def changed(path: Path, edit: Edit, marker: Path) -> None:
    """The archive with its members changed; names are those inside its folder."""
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    try:
        edit(members, marker)
    except KeyError as error:
        if torch.__version__ >= "2.9":
            raise
        pytest.skip(f"torch {torch.__version__} writes another layout, without {error}")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{folder}/{name}", data)


def pickled(marker: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(Malice(marker), stream)
    return stream.getvalue()


def in_json(name: str, change: Callable[[Any], object]) -> Edit:
    def edit(members: dict[str, bytes], marker: Path) -> None:
        content = json.loads(members[name])
        change(content)
        members[name] = json.dumps(content).encode()

    return edit
