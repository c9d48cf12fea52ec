"""Conversion of an opened network to another format, verified by reading the result back."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from certnas import bounds
from certnas.errors import UserError
from certnas.models.formats.certnas_json import structure_of
from certnas.models.opened import OpenedModel, first_line
from certnas.models.opening import open_model

TOLERANCE = 1e-5
"""Accepted relative difference between the outputs of the two networks."""
IMAGES = 8
"""Number of random images of the comparison."""


def convert(opened: OpenedModel, out: Path) -> tuple[list[Path], float]:
    """Write the network in another format.

    The suffix of `out` selects the format: .safetensors (with the structure in a .json file), .pt2 or
    .onnx. The preprocessing becomes part of the network, which still reads [0, 1] pixels. Returns the
    files, and max |converted(x) − network(x)| / max(1, max |network(x)|) over 8 random images. Raises
    UserError for another suffix, a network that the format cannot express, or a difference above 10⁻⁵.
    """
    if out.suffix not in WRITERS:
        raise UserError(f"'{out}' has suffix {out.suffix!r}; accepted: {', '.join(WRITERS)}")
    if not out.parent.is_dir():
        raise UserError(f"cannot write '{out}': there is no folder {out.parent}")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        here = Path(folder) / out.name
        written = WRITERS[out.suffix](opened, here)
        difference = _difference(opened, open_model(str(here)))
        if not difference <= TOLERANCE:
            raise UserError(
                f"'{out}' was not written: its outputs would differ by {difference:.1e} of the largest on random images"
            )
        for path in reversed(written):
            os.replace(path, out.parent / path.name)
    return [out.parent / path.name for path in written], difference


def _write_safetensors(opened: OpenedModel, path: Path) -> list[Path]:
    structure, tensors = structure_of(bounds.trace(opened.module, torch.zeros(2, *opened.input_shape)))
    beside = path.with_suffix(".json")
    _kept(path, save(tensors))
    _kept(beside, (json.dumps(structure, indent=1) + "\n").encode())
    return [path, beside]


def _write_pt2(opened: OpenedModel, path: Path) -> list[Path]:
    torch.export.save(_exported(opened), str(path))
    return [path]


def _write_onnx(opened: OpenedModel, path: Path) -> list[Path]:
    exported = _exported(opened)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                exported, opset_version=20, dynamo=True, verbose=False, external_data=False
            )
            assert program is not None
            program.save(str(path))
        except Exception as error:
            raise UserError(f"torch cannot write {opened.name} as ONNX: {first_line(error)}") from error
    return [path]


def _exported(opened: OpenedModel) -> torch.export.ExportedProgram:
    """The exported network with a free batch size."""
    example = torch.zeros(2, *opened.input_shape)
    try:
        return torch.export.export(
            opened.module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
        )
    except Exception as error:
        raise UserError(
            f"torch cannot export {opened.name} with a free batch: {first_line(error)}"
        ) from error


def _kept(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _difference(one: OpenedModel, two: OpenedModel) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((IMAGES, *one.input_shape), generator=generator)
    with torch.no_grad():
        first: Tensor = one.module(x)
        second: Tensor = two.module(x)
    if first.shape != second.shape:
        return float("inf")
    return float((first - second).abs().max() / max(1.0, float(first.abs().max())))


WRITERS: dict[str, Callable[[OpenedModel, Path], list[Path]]] = {
    ".onnx": _write_onnx,
    ".pt2": _write_pt2,
    ".safetensors": _write_safetensors,
}
"""Suffix -> writer. A writer returns its files; the first one is the file to open."""
