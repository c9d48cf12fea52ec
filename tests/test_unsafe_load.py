"""Files that hold code: refused by default, run when asked."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import bounds
from certnas.errors import UserError
from certnas.models import open_model

SHAPE = (1, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
    ).eval()


@pytest.mark.parametrize(
    "wrapped", [lambda m: m, lambda m: {"model": m}, lambda m: {"state_dict": {"net": m}}]
)
def test_a_pickled_module_is_run_when_asked(wrapped: object, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(wrapped(network()), path)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"running code that it names \(torch.nn.*--unsafe-load"):
        open_model(str(path), input_shape=SHAPE)
    opened = open_model(str(path), input_shape=SHAPE, unsafe_load=True)
    x = torch.rand(3, *SHAPE)
    assert torch.equal(opened.module(x), network()(x))
    assert opened.origin == f"file {path}, whose code was run"
    with pytest.raises(UserError, match=r"does not define its input shape; give input_shape"):
        open_model(str(path), unsafe_load=True)


def test_weights_are_still_weights_when_code_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    torch.save({"state_dict": module.state_dict(), "args": Path("x")}, tmp_path / "net.pth")
    make = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))"
    (tmp_path / "maker.py").write_text(make)
    monkeypatch.chdir(tmp_path)
    opened = open_model("net.pth", arch="maker:make", input_shape=SHAPE, unsafe_load=True)
    x = torch.rand(3, *SHAPE)
    assert torch.equal(opened.module(x), module(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("traced", [True, False])
def test_torchscript_is_converted_as_far_as_torch_can(traced: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    script = torch.jit.trace(network(), torch.rand(1, *SHAPE)) if traced else torch.jit.script(network())
    script.save(str(path))
    with pytest.raises(UserError, match=r"is TorchScript, a program: where you trust it, --unsafe-load"):
        open_model(str(path), input_shape=SHAPE)
    with pytest.raises(UserError, match=r"is TorchScript and does not define its input shape"):
        open_model(str(path), unsafe_load=True)
    opened = open_model(str(path), input_shape=SHAPE, unsafe_load=True)
    x = torch.rand(3, *SHAPE)
    assert torch.allclose(opened.module(x), network()(x), atol=1e-6)
    bounds.check(bounds.trace(opened.module, x))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_that_cannot_be_converted_says_so(tmp_path: Path) -> None:
    class Loop(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while bool(x.sum() > 0):
                x = x - 1
            return x.flatten(1)

    torch.jit.script(Loop()).save(str(tmp_path / "net.pt"))
    with pytest.raises(UserError, match=r"best effort: "):
        open_model(str(tmp_path / "net.pt"), input_shape=SHAPE, unsafe_load=True)


def test_only_files_can_be_loaded_unsafely() -> None:
    with pytest.raises(UserError, match=r"'digits-cnn' is not a file: it takes no unsafe_load"):
        open_model("digits-cnn", unsafe_load=True)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_asks_for_memory_is_refused(archive: bool, tmp_path: Path) -> None:
    """torch.load(weights_only=True) makes bytearrays of any size: here of a hundred gigabytes."""
    path, size = tmp_path / "net.pth", (10**11).to_bytes(5, "little")
    content = b"".join([pickle.PROTO, b"\x02", b"c__builtin__\nbytearray\n", pickle.LONG1, b"\x05", size,
                        pickle.TUPLE1, pickle.REDUCE, pickle.STOP])  # fmt: skip
    if archive:
        with zipfile.ZipFile(path, "w") as members:
            for name, data in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
                members.writestr(f"net/{name}", data)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"asks for a bytearray, which no state dict needs"):
        open_model(str(path), arch="mnist-fc-3layer")


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_absurd_sizes_on_little_storage_are_refused(tmp_path: Path) -> None:
    torch.save({"fc1.weight": torch.zeros(1).expand(2**30, 2**30)}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"does not match architecture"):
        open_model(str(tmp_path / "net.pth"), arch="mnist-fc-3layer")
