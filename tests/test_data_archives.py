""".npz files: layouts, and archives that are malformed or hostile."""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_checks import well_formed

from certnas.data import load
from certnas.errors import UserError
from certnas.training import training_images

SHAPES = {
    "channels first": ((5, 3, 8, 6), None, (3, 8, 6)),
    "channels last": ((5, 8, 6, 3), None, (3, 8, 6)),
    "grey": ((5, 8, 6), None, (1, 8, 6)),
    "said first": ((5, 3, 8, 3), "nchw", (3, 8, 3)),
    "said last": ((5, 3, 8, 3), "nhwc", (3, 3, 8)),
    "four channels": ((5, 4, 8, 8), "nchw", (4, 8, 8)),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("case", SHAPES)
def test_archive_layouts(case: str, dtype: Any, tmp_path: Path) -> None:
    shape, layout, expected = SHAPES[case]
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    x = pixels if dtype == np.uint8 else (pixels / 255).astype(dtype)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(5, dtype=np.uint8))
    data = load(str(tmp_path / "a.npz"), layout=layout)
    well_formed(data)
    assert data.x.shape[1:] == expected and data.classes == 5
    last = pixels[..., None] if len(shape) == 3 else pixels
    first = last.transpose(0, 3, 1, 2) if last.shape[1:] != expected else last
    assert np.array_equal((data.x * 255).round().numpy(), first)


X, Y = np.zeros((4, 3, 8, 8)), np.arange(4)
NAN, LARGE = X.copy(), X.copy()
NAN[2, 0, 0, 0], LARGE[1] = np.nan, 255
BAD_ARCHIVES: dict[str, tuple[dict[str, Any], str]] = {
    "no y": ({"x": X}, "no array 'y', it has x; expected x and y"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x has 0 images and y has 0 labels; expected equal numbers above 0"),
    "lengths": ({"x": X, "y": Y[:3]}, "x has 4 images and y has 3 labels; expected equal numbers above 0"),
    "float labels": ({"x": X, "y": Y * 1.0}, "y is float64 [4], expected integers [N]"),
    "one-hot labels": ({"x": X, "y": np.eye(4, dtype=int)}, "y is int64 [4, 4], expected integers [N]"),
    "scalar label": ({"x": X, "y": np.int64(3)}, "y is int64 [], expected integers [N]"),
    "negative label": ({"x": X, "y": Y - 1}, "y has label -1, labels start at 0"),
    "huge label": ({"x": X, "y": Y + 2**40}, f"y has label {2**40 + 3}, too large for a class"),
    "int16 pixels": (
        {"x": X.astype(np.int16), "y": Y},
        "x is int16, accepted: uint8 in 0..255 or floats in [0, 1]",
    ),
    "five dimensions": (
        {"x": X[..., None], "y": Y},
        "x has shape [4, 3, 8, 8, 1], expected [N, C, H, W] or [N, H, W, C], or without a layout "
        "[N, H, W] or rows [N, K]",
    ),
    "both layouts": (
        {"x": np.zeros((4, 3, 8, 3)), "y": Y},
        "x has shape [4, 3, 8, 3], channels first or last? Say which with the layout nchw or nhwc (--data-layout)",
    ),
    "NaN": ({"x": NAN, "y": Y}, "x has NaN or infinity in image 2"),
    "255": (
        {"x": LARGE, "y": Y},
        "x spans 0 to 255 (image 1), floats must lie in [0, 1]; "
        "divide by 255, and normalise inside the model",
    ),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archives(case: str, tmp_path: Path) -> None:
    arrays, message = BAD_ARCHIVES[case]
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert str(caught.value) == f"data {path}: {message}"


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["x", "y"])
def test_pickled_objects_are_refused_and_never_run(key: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "trace"
    arrays = {"x": X, "y": Y, key: np.array([Bomb(trace)] * 4, dtype=object)}
    np.savez(path, **arrays)
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert str(caught.value) == f"data {path}: {key} has Python objects or is damaged; expected a plain array"
    assert not trace.exists()


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert str(caught.value) == f"data {path}: no such file"
    path.write_bytes(b"\x80\x04not a zip")
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert str(caught.value) == f"data {path}: not an .npz file; numpy.savez(FILE, x=..., y=...) writes one"
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:200] + b"\1" * 50 + path.read_bytes()[250:])
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert str(caught.value) == f"data {path}: cannot be read (Bad CRC-32 for file 'x.npy')"


def test_bad_options_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=Y)
    for options, message in (
        ({"train": True}, "does not accept the option 'train'"),
        ({"layout": "chw"}, "unknown layout 'chw'; accepted: nchw, nhwc"),
    ):
        with pytest.raises(UserError) as caught:
            load(str(path), **options)  # type: ignore[arg-type]
        assert str(caught.value) == f"data {path}: {message}"


def test_rows_and_images_of_any_number_of_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=X.reshape(4, -1), y=Y)
    rows = load(str(path), indices=[2, 0])
    assert rows.x.shape == (2, X[0].size) and rows.y.tolist() == Y[[2, 0]].tolist()
    assert np.array_equal(rows.x[0].numpy(), X[2].reshape(-1).astype(np.float32))
    with pytest.raises(UserError, match="networks of cells are trained on"):
        training_images(str(path))
    images = np.random.default_rng(0).random((4, 2, 5, 6)).astype(np.float32)
    np.savez(path, x=images, y=Y)
    assert load(str(path)).x.shape == (4, 2, 5, 6), "channels first where neither fits"
    assert load(str(path), layout="nhwc").x.shape == (4, 6, 2, 5)


def npy(shape: tuple[int, ...], data: bytes, dtype: str = "<f4") -> bytes:
    """A file of an array whose header claims this shape."""
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": dtype, "fortran_order": False, "shape": shape})
    return held.getvalue() + data


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            npy((2**50, 1, 8, 8), b""),
            r"x has shape .1125899906842624, 1, 8, 8., \d+ bytes; accepted: at most 4 GiB",
        ),
        (npy((2**25, 1, 8, 8), b""), "accepted: at most 4 GiB"),
        (npy((4, 1, 8, 8), b"\0" * 100), "x claims shape .4, 1, 8, 8., 1024 bytes, and has 100"),
        (npy((1, 1, 8, 8), b"\0" * 1000), "x claims shape .1, 1, 8, 8., 256 bytes, and has 1000"),
        (npy((-1, -1, 8, 4), b"\0" * 128), "x claims shape .-1, -1, 8, 4., 128 bytes"),
        (npy((2**70, 0, 8, 8), b""), "cannot be read|expected .N, C, H, W.|x holds"),
        (b"\x93NUMPY\1\0\xff\xff{", "x is not a numpy array or is damaged"),
        (b"no array", "x is not a numpy array or is damaged"),
    ],
    ids=range(8),
)
def test_an_archive_is_judged_by_its_headers(x: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", npy((4,), np.arange(4).tobytes(), "<i8"))
    with pytest.raises(UserError, match=message) as refused:
        load(str(path))
    assert "\n" not in str(refused.value)


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["certnas.data.archive"], "LARGEST", 2**20)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((2**13, 1, 8, 8), np.float32), y=np.zeros(2**13, int))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(UserError, match=r"x has shape .* 2097152 bytes; accepted"):
        load(str(path))
