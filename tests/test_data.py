"""Data sets by name, folders and archives: what they become, and the one line every bad one gets."""

import gzip
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_dir
from PIL import Image

from certnas.data import DATASETS, Dataset, load, select
from certnas.errors import UserError
from certnas.training import training_images


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files as torchvision reads them."""
    folder = tmp_path_factory.mktemp("data") / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for packed in (shared_dir() / "data" / "MNIST" / "raw").glob("t10k*.gz"):
        (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    if not list(folder.iterdir()):
        pytest.skip("no MNIST files among the third-party data")
    for part in ("images-idx3", "labels-idx1"):  # torchvision asks for the training files too
        (folder / f"train-{part}-ubyte").write_bytes(b"")
    return folder.parents[1]


def well_formed(data: Dataset) -> None:
    assert data.x.dtype == torch.float32 and data.x.ndim == 4 and data.x.is_contiguous()
    assert data.y.dtype == data.index.dtype == torch.int64
    assert len(data.x) == len(data.y) == len(data.index)
    assert data.x.min() >= 0 and data.x.max() <= 1
    assert data.y.min() >= 0 and data.y.max() < data.classes


def test_digits() -> None:
    held_out, train = load("digits"), load("digits", train=True)
    for data in (held_out, train):
        well_formed(data)
        assert data.x.shape[1:] == (1, 8, 8) and data.classes == 10
    assert len(held_out.y) + len(train.y) == 1797


def test_mnist(unpacked: Path) -> None:
    data = load("mnist", root=unpacked)
    well_formed(data)
    assert data.x.shape == (10000, 1, 28, 28)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.y.bincount().tolist() == counts
    raw = (unpacked / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert (data.x[7].flatten() * 255).round().to(torch.uint8).numpy().tobytes() == raw[16:][
        7 * 784 : 8 * 784
    ]
    some = load("mnist", root=unpacked, indices=[5, 3])
    assert torch.equal(some.x, data.x[[5, 3]]) and some.index.tolist() == [5, 3]


def test_unpack_script_writes_what_load_reads(tmp_path: Path) -> None:
    script = shared_dir() / "data" / "unpack.py"
    if not script.is_file():
        pytest.skip("no unpack.py among the third-party data")
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    cifar = load(str(tmp_path / "cifar10_test.npz"), count=1000)
    well_formed(cifar)
    assert cifar.x.shape == (1000, 3, 32, 32) and cifar.classes == 10
    with np.load(tmp_path / "cifar10_test.npz") as stored:
        assert np.array_equal((cifar.x[3] * 255).round().numpy(), stored["x"][3].transpose(2, 0, 1))
    assert load("mnist", root=tmp_path, train=True, count=5).y.tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_missing_files_say_where_they_belong(name: str, tmp_path: Path) -> None:
    belongs = {
        "mnist": tmp_path / "MNIST" / "raw",
        "fashion-mnist": tmp_path / "FashionMNIST" / "raw",
        "cifar10": tmp_path / "cifar-10-batches-py",
        "cifar100": tmp_path / "cifar-100-python",
        "svhn": tmp_path,
    }
    with pytest.raises(UserError) as caught:
        load(name, root=tmp_path)
    assert str(caught.value) == (
        f"data {name}: not found or damaged; its files belong in {belongs[name]}, or ask for a download"
    )
    with pytest.raises(UserError) as caught:
        load(name)
    assert str(caught.value) == f"data {name}: needs the folder that holds it (root)"


@pytest.mark.parametrize("error", [RuntimeError, FileNotFoundError])
def test_failed_download_is_one_line(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise error("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", offline)
    with pytest.raises(UserError) as caught:
        load("cifar10", root=tmp_path, download=True)
    folder = tmp_path / "cifar-10-batches-py"
    assert str(caught.value) == f"data cifar10: could not be downloaded into {folder}: no network"


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
    "no y": ({"x": X}, "no array 'y', it holds x; expected x and y"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x holds 0 images, y 0 labels; expected as many, not 0"),
    "lengths": ({"x": X, "y": Y[:3]}, "x holds 4 images, y 3 labels; expected as many, not 0"),
    "float labels": ({"x": X, "y": Y * 1.0}, "y is float64 [4], expected integers [N]"),
    "one-hot labels": ({"x": X, "y": np.eye(4, dtype=int)}, "y is int64 [4, 4], expected integers [N]"),
    "scalar label": ({"x": X, "y": np.int64(3)}, "y is int64 [], expected integers [N]"),
    "negative label": ({"x": X, "y": Y - 1}, "y holds label -1, labels start at 0"),
    "huge label": ({"x": X, "y": Y + 2**40}, f"y holds label {2**40 + 3}, too large for a class"),
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
    "NaN": ({"x": NAN, "y": Y}, "x holds NaN or infinity in image 2"),
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
    assert (
        str(caught.value) == f"data {path}: {key} holds Python objects or is damaged; expected a plain array"
    )
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


def pictures(folder: Path, *, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for i in range(2):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / label / f"{i}.png")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_folder(mode: str, channels: int, tmp_path: Path) -> None:
    pictures(tmp_path, mode=mode)
    data = load(str(tmp_path))
    well_formed(data)
    assert data.x.shape == (4, channels, 4, 6) and data.classes == 2
    assert data.y.tolist() == [0, 0, 1, 1] and data.index.tolist() == [0, 1, 2, 3]
    with Image.open(tmp_path / "dog" / "0.png") as image:
        pixels = np.asarray(image).reshape(4, 6, channels).transpose(2, 0, 1)
    assert np.array_equal((data.x[2] * 255).round().numpy(), pixels)


def test_bad_folders(tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises(UserError) as caught:
            load(str(tmp_path))
        return str(caught.value)

    empty = (
        f"data {tmp_path}: no images found; expected {tmp_path / 'CLASS' / 'IMAGE.png'}, "
        "at least one image in every class folder"
    )
    assert message() == empty
    (tmp_path / "bird").mkdir()
    assert message() == empty
    (tmp_path / "bird").rmdir()
    pictures(tmp_path)
    odd = tmp_path / "dog" / "9.png"
    Image.new("RGB", (5, 4)).save(odd)
    assert message() == (f"data {odd}: 5×4 pixels, the first image has 6×4; all images must have one size")
    Image.new("RGBA", (6, 4)).save(odd)
    assert message() == f"data {odd}: image mode RGBA, accepted: 8-bit grey or RGB"
    odd.write_bytes(b"no image")
    assert message() == f"data {odd}: not a readable image"


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "name": (
        {"name": "imagenet"},
        "data imagenet: unknown; accepted: digits, mnist, fashion-mnist, cifar10, cifar100, svhn, "
        "a folder of class folders, or an .npz file",
    ),
    "root": ({"name": "digits", "root": "."}, "data digits: does not accept the option 'root'"),
    "download": ({"name": "digits", "download": True}, "data digits: does not accept the option 'download'"),
    "layout": (
        {"name": "mnist", "root": ".", "layout": "nchw"},
        "data mnist: does not accept the option 'layout'",
    ),
    "too many": (
        {"name": "digits", "count": 600},
        "data digits: 600 images asked for, it has 599; ask for 1 to 599",
    ),
    "none": ({"name": "digits", "count": 0}, "data digits: 0 images asked for, it has 599; ask for 1 to 599"),
    "index": ({"name": "digits", "indices": [3, 599]}, "data digits: no image 599, it has images 0 to 598"),
    "negative": ({"name": "digits", "indices": [-1]}, "data digits: no image -1, it has images 0 to 598"),
    "both": (
        {"name": "digits", "indices": [1], "count": 1},
        "data digits: got both indices and a count or seed; give one of them",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(case: str) -> None:
    request, message = BAD_REQUESTS[case]
    with pytest.raises(UserError) as caught:
        load(**request)
    assert str(caught.value) == message


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
        (npy((4, 1, 8, 8), b"\0" * 100), "x claims shape .4, 1, 8, 8., 1024 bytes, and holds 100"),
        (npy((1, 1, 8, 8), b"\0" * 1000), "x claims shape .1, 1, 8, 8., 256 bytes, and holds 1000"),
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


def test_select_takes_the_first_or_a_seeded_sample() -> None:
    data = load("digits")
    first = select(data, 7)
    assert first.index.tolist() == list(range(7)) and torch.equal(first.x, data.x[:7])
    before = torch.get_rng_state()
    one, again, other = (select(data, 50, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.index, again.index) and not torch.equal(one.index, other.index)
    assert one.index.tolist() == sorted(set(one.index.tolist())) and len(one.y) == 50
    assert torch.equal(one.x, data.x[one.index]) and torch.equal(one.y, data.y[one.index])
    assert torch.equal(load("digits", count=50, seed=1).x, one.x)
    assert torch.equal(select(data, len(data.y), 3).x, data.x)
    with pytest.raises(UserError) as caught:
        select(data, 600)
    assert str(caught.value) == "data digits: 600 images asked for, it has 599; ask for 1 to 599"
