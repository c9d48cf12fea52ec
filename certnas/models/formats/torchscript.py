"""Reading of TorchScript files, as far as torch can convert them to a graph of operators."""

from __future__ import annotations

import logging
import warnings
from io import BytesIO
from pathlib import Path

import torch

from certnas.errors import UserError
from certnas.models.architectures import Architecture
from certnas.models.formats.pt2 import read_program


def run_script(path: Path, shape: tuple[int, ...] | None) -> Architecture:
    """The network of a TorchScript file for images [C, H, W] of this shape. This runs the file's program.

    The converter is private to torch and does not support every file. Raises UserError if it fails.
    """
    if shape is None:
        raise UserError(
            f"'{path}' is TorchScript and does not define its input shape; give input_shape=(C, H, W)"
        )
    exporting = logging.getLogger("torch._export")
    level = exporting.level
    exporting.setLevel(logging.ERROR)
    try:
        from torch._export.converter import TS2EPConverter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script = torch.jit.load(str(path), map_location="cpu").eval()
            program = TS2EPConverter(script, (torch.zeros(2, *shape),)).convert()
            archive = BytesIO()
            torch.export.save(program, archive)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"torch cannot convert the TorchScript in '{path}' (best effort: {type(error).__name__}: {reason}); "
            "where it was made, export it with torch.export.save or torch.onnx.export"
        ) from error
    finally:
        exporting.setLevel(level)
    network = read_program(archive, f"'{path}'", shape)
    return Architecture(network, shape)
