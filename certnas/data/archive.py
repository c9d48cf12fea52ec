"""Reader of .npz files with images `x` and labels `y`."""

import zipfile
import zlib
from math import prod
from tokenize import TokenError

import numpy as np
import torch
from numpy.typing import NDArray

from certnas.data.dataset import Dataset, Request, from_bytes
from certnas.errors import UserError

CHANNELS = (1, 3)
LAYOUTS = ("nchw", "nhwc")
LARGEST = 2**32
"""Largest uncompressed size of an array, in bytes."""
DAMAGE = (
    OSError,
    ValueError,
    OverflowError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that a damaged file raises in zipfile and numpy."""


def archive(request: Request) -> Dataset:
    """Read an .npz file with images x and labels y [N], integers from 0.

    x is [N, C, H, W], [N, H, W, C], [N, H, W] or rows [N, K], uint8 or floats in [0, 1]. The axis with 1 or
    3 entries, first or last, is the channel axis. If both axes fit, `layout` is required; if neither fits,
    channels are first unless `layout` says otherwise. Files with Python objects are refused and never
    unpickled. Raises UserError for anything else.
    """
    arrays = read(request.name)
    x, y = arrays["x"], arrays["y"]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"data {request.name}: y is {y.dtype} {list(y.shape)}, expected integers [N]")
    if len(x) == 0 or len(x) != len(y):
        raise UserError(
            f"data {request.name}: x has {len(x)} images and y has {len(y)} labels; expected equal numbers above 0"
        )
    if y.min() < 0:
        raise UserError(f"data {request.name}: y has label {y.min()}, labels start at 0")
    if y.max() > np.iinfo(np.int32).max:
        raise UserError(f"data {request.name}: y has label {y.max()}, too large for a class")
    rows = request.chosen(len(y))
    x = channels_first(request, x)[rows.numpy()]
    labels = torch.from_numpy(y.astype(np.int64))
    pixels = torch.from_numpy(np.ascontiguousarray(x))
    if pixels.dtype == torch.uint8:
        pixels = from_bytes(pixels)
    else:
        checked_range(request.name, pixels)
    return Dataset(request.name, pixels.to(torch.float32), labels[rows], rows, int(y.max()) + 1)


def read(name: str) -> dict[str, NDArray[np.generic]]:
    """The arrays x and y of the file; their headers are checked before anything is decompressed.

    Raises UserError if the file cannot be read, lacks an array, or has one larger than LARGEST bytes.
    """
    try:
        with open(name, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"data {name}: not an .npz file; numpy.savez(FILE, x=..., y=...) writes one")
            with zipfile.ZipFile(file) as members:
                for key in ("x", "y"):
                    _check_header(members, key, name)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {key: np.asarray(stored[key]) for key in ("x", "y")}
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(f"data {name}: cannot be read ({error})") from error


def _check_header(members: zipfile.ZipFile, key: str, name: str) -> None:
    """Raises UserError unless a member is a plain array with the size that its header claims, at most LARGEST bytes."""
    names = members.namelist()
    if f"{key}.npy" not in names:
        if key in names:
            raise UserError(f"data {name}: {key} is not a numpy array; expected a plain array")
        held = ", ".join(one.removesuffix(".npy") for one in names[:10]) or "nothing"
        raise UserError(f"data {name}: no array {key!r}, it has {held}; expected x and y")
    with members.open(f"{key}.npy") as stored:
        try:
            version = np.lib.format.read_magic(stored)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = header(stored)
        except (ValueError, SyntaxError, TokenError) as error:
            raise UserError(
                f"data {name}: {key} is not a numpy array or is damaged; expected a plain array"
            ) from error
        if dtype.hasobject:
            raise UserError(f"data {name}: {key} has Python objects or is damaged; expected a plain array")
        claimed, held_bytes = (
            prod(shape) * dtype.itemsize,
            members.getinfo(f"{key}.npy").file_size - stored.tell(),
        )
    if claimed > LARGEST:
        raise UserError(
            f"data {name}: {key} has shape {list(shape)}, {claimed} bytes; accepted: at most {LARGEST >> 30} GiB, so "
            "split the file"
        )
    if claimed != held_bytes or min(shape, default=0) < 0:
        raise UserError(
            f"data {name}: {key} claims shape {list(shape)}, {claimed} bytes, and has {held_bytes}; save it again"
        )


def channels_first(request: Request, x: NDArray[np.generic]) -> NDArray[np.generic]:
    """x as [N, C, H, W]; rows [N, K] stay as they are. Raises UserError for another shape, or an ambiguous one."""
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"data {request.name}: x is {x.dtype}, accepted: uint8 in 0..255 or floats in [0, 1]")
    if x.ndim == 3 and request.layout is None and x.size:
        return x[:, None]
    if x.ndim == 2 and request.layout is None and x.size:
        return x
    if x.ndim != 4 or not x.size:
        raise UserError(
            f"data {request.name}: x has shape {list(x.shape)}, expected [N, C, H, W] or [N, H, W, C], or "
            "without a layout [N, H, W] or rows [N, K]"
        )
    layout = request.layout
    if layout is None:
        fits = [name for name, axis in zip(LAYOUTS, (1, 3), strict=True) if x.shape[axis] in CHANNELS]
        if len(fits) > 1:
            raise UserError(
                f"data {request.name}: x has shape {list(x.shape)}, channels first or last? "
                f"Say which with the layout {' or '.join(LAYOUTS)} (--data-layout)"
            )
        layout = fits[0] if fits else LAYOUTS[0]
    return x if layout == "nchw" else x.transpose(0, 3, 1, 2)


def checked_range(name: str, x: torch.Tensor) -> None:
    """Raises UserError unless every pixel is in [0, 1]."""
    if not bool(x.isfinite().all()):
        raise UserError(f"data {name}: x has NaN or infinity in image {broken(~x.isfinite())}")
    outside = (x < 0) | (x > 1)
    if bool(outside.any()):
        raise UserError(
            f"data {name}: x spans {float(x.min()):g} to {float(x.max()):g} (image {broken(outside)}), "
            "floats must lie in [0, 1]; divide by 255, and normalise inside the model"
        )


def broken(mask: torch.Tensor) -> int:
    """The index of the first image with a marked pixel."""
    return int(mask.flatten(1).any(1).nonzero()[0])
