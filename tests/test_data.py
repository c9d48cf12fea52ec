"""Data sets by name and image folders, and the one-line errors for wrong requests."""

import gzip
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_dir
from data_checks import well_formed
from PIL import Image

from certnas.data import DATASETS, load, select
from certnas.errors import UserError


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
    assert str(caught.value) == f"data {name}: needs the folder with its files (root)"


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


def png(width: int, height: int, claimed: int) -> bytes:
    """A picture of that size, whose data claims a length."""

    def chunk(name: bytes, content: bytes, length: int) -> bytes:
        return struct.pack(">I", length) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, 13) + chunk(b"IDAT", b"\0" * 9, claimed)


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
    for content in (b"no image", png(2**15, 2**15, 9), png(8, 8, 2**31 - 1)):
        odd.write_bytes(content)
        tracemalloc.start()
        assert message() == f"data {odd}: not a readable image"
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 10_000_000, "what a header claims is not taken"


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
