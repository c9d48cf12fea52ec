"""Checkpoints that cannot be opened: the whole line a user reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models import ARCHITECTURES, open_model


def fc(**changes: Tensor | None) -> dict[str, Tensor]:
    """A state dict of mnist-fc-3layer, entries (fc1_weight for fc1.weight) replaced or, None, taken out."""
    state = ARCHITECTURES["mnist-fc-3layer"]().module.state_dict() | {
        name.replace("_", "."): value for name, value in changes.items() if value is not None
    }
    return {
        name: value for name, value in state.items() if changes.get(name.replace(".", "_"), 0) is not None
    }


def saved(contents: Callable[[], object], **options: Any) -> Callable[[], None]:
    return lambda: torch.save(contents(), "net.pth", **options)


def half(name: str) -> None:
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: len(data) // 2])


def truncated_torch() -> None:
    torch.save(fc(), "net.pth")
    half("net.pth")


def truncated_safetensors() -> None:
    save_file({"a": torch.ones(2)}, "net.safetensors")
    Path("net.safetensors").write_bytes(Path("net.safetensors").read_bytes()[:-4])


def truncated_npz() -> None:
    np.savez("net.npz", layer0_kernel=np.ones((2, 2)))
    half("net.npz")


def damaged_npz() -> None:
    np.savez_compressed("net.npz", layer0_kernel=np.ones((200, 200)))
    data = bytearray(Path("net.npz").read_bytes())
    data[80:90] = bytes(10)
    Path("net.npz").write_bytes(bytes(data))


def nothing() -> None:
    """No file is needed."""


FC = {"arch": "mnist-fc-3layer"}
TAIL = "accepted: tensors by name, alone or under state_dict, model_state_dict, model, net, ema"
TORCH = "save its weights again: torch.save(model.state_dict(), 'weights.pth')"
NPZ = "it is truncated, in another format, or has Python objects; save plain arrays with numpy.savez"
FC_MISMATCH = "'net.pth' does not match architecture 'mnist-fc-3layer':"
MATCH = "name the architecture, and the options, it was trained with"
CODE = (
    "where you trust it, --unsafe-load (unsafe_load=True) runs it; or where it was made, save its weights only: "
    "torch.save(model.state_dict(), 'weights.pth')"
)
SUFFIXES = ".h5, .npz, .onnx, .onnx.gz, .pt, .pt2, .pth, .safetensors, .th"

REFUSALS: dict[str, tuple[Callable[[], object], str, dict[str, Any], str]] = {
    "neither name nor file nor factory": (
        nothing,
        "digits",
        {},
        f"cannot open 'digits'; accepted: an embedded network (digits-cnn, digits-cell), a file ({SUFFIXES}) or a "
        "factory package.module:function",
    ),
    "missing file": (nothing, "net.pth", FC, "cannot read 'net.pth': No such file or directory"),
    "empty file": (
        lambda: Path("net.pth").touch(),
        "net.pth",
        FC,
        "'net.pth' is empty; save the network again",
    ),
    "folder": (
        lambda: Path("net.pth").mkdir(),
        "net.pth",
        FC,
        "'net.pth' is a folder; give a file, or one that certnas train wrote, such as RUN/best",
    ),
    "unknown suffix": (
        lambda: Path("net.txt").write_text("x"),
        "net.txt",
        {},
        f"'net.txt' has suffix '.txt'; accepted: {SUFFIXES}",
    ),
    "truncated torch": (
        truncated_torch,
        "net.pth",
        FC,
        f"cannot read 'net.pth' as a torch checkpoint: it is truncated or in another format; {TORCH}",
    ),
    "text as torch": (
        lambda: Path("net.th").write_text("hello"),
        "net.th",
        FC,
        f"cannot read 'net.th' as a torch checkpoint: it is truncated or in another format; {TORCH}",
    ),
    "truncated safetensors": (
        truncated_safetensors,
        "net.safetensors",
        FC,
        "cannot read 'net.safetensors' as safetensors: it is truncated or in another format; save it again",
    ),
    "truncated npz": (
        truncated_npz,
        "net.npz",
        {"arch": "cnn-cert-relu"},
        f"cannot read 'net.npz' as .npz: {NPZ}",
    ),
    "damaged npz": (
        damaged_npz,
        "net.npz",
        {"arch": "cnn-cert-relu"},
        f"cannot read 'net.npz' as .npz: {NPZ}",
    ),
    "objects in npz": (
        lambda: np.savez("net.npz", layer0_kernel=np.array([{}], dtype=object)),
        "net.npz",
        {"arch": "cnn-cert-relu"},
        f"cannot read 'net.npz' as .npz: {NPZ}",
    ),
    "other names in npz": (
        lambda: np.savez("net.npz", w=np.ones(3)),
        "net.npz",
        {"arch": "cnn-cert-relu"},
        "'net.npz' has an array 'w' of shape [3] and type float64; accepted: floating layer0_kernel "
        "[kh, kw, in, out] or [in, out], layer0_bias [out], layer1_kernel, …",
    ),
    "a kernel of rank 3": (
        lambda: np.savez("net.npz", layer0_kernel=np.ones((2, 2, 2), dtype=np.float32)),
        "net.npz",
        {"arch": "cnn-cert-relu"},
        "'net.npz' has an array 'layer0_kernel' of shape [2, 2, 2] and type float32; accepted: floating "
        "layer0_kernel [kh, kw, in, out] or [in, out], layer0_bias [out], layer1_kernel, …",
    ),
    "no weights": (
        saved(lambda: {"epoch": 3}),
        "net.pth",
        FC,
        f"no state dict in 'net.pth' (found type dict with keys 'epoch'); {TAIL}",
    ),
    "empty list": (
        saved(lambda: {"state_dict": []}),
        "net.pth",
        FC,
        f"no state dict in 'net.pth' at ['state_dict'] (found type list); {TAIL}",
    ),
    "a tensor": (
        saved(lambda: torch.ones(2)),
        "net.pth",
        FC,
        f"no state dict in 'net.pth' (found type Tensor); {TAIL}",
    ),
    "a whole module": (
        saved(lambda: nn.Sequential(nn.Linear(2, 2))),
        "net.pth",
        FC,
        "'net.pth' can only be read by running code that it names (torch.nn.modules.container.Sequential, "
        f"torch.nn.modules.linear.Linear): {CODE}",
    ),
    "a whole module in the old format": (
        saved(lambda: nn.Linear(2, 2), _use_new_zipfile_serialization=False),
        "net.pth",
        FC,
        f"'net.pth' can only be read by running code that it names (torch.nn.modules.linear.Linear): {CODE}",
    ),
    "no architecture": (
        saved(fc),
        "net.pth",
        {},
        "'net.pth' has weights only; name the network they belong to with arch: they fit mnist-fc-3layer",
    ),
    "unknown architecture": (
        saved(fc),
        "net.pth",
        {"arch": "resnet21"},
        "unknown architecture 'resnet21'; accepted: cifar-2c2f, cifar-conv-small-sigmoid, cnn-cert-relu, "
        "cnn-cert-sigmoid, cnn-cert-tanh, darts, kw-cifar-small, kw-mnist, mnist-cnn-a, mnist-cnn-small, "
        "mnist-fc-3layer, resnet2b, resnet4b, resnet20, resnet32, resnet44, resnet56, resnet110, alexnet, "
        "densenet121, densenet161, densenet169, densenet201, mobilenet_v2, resnet18, resnet34, resnet50, resnet101, "
        "resnet152, resnext50_32x4d, squeezenet1_1, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, "
        "vgg19_bn, wide_resnet50_2, or a factory package.module:function",
    ),
    "unknown option": (
        saved(fc),
        "net.pth",
        {**FC, "arch_options": {"width": 3}},
        "architecture 'mnist-fc-3layer': got an unexpected keyword argument 'width'; its options: classes=10",
    ),
    "impossible option": (
        saved(fc),
        "net.pth",
        {"arch": "cnn-cert-relu", "arch_options": {"layers": 20}},
        "no CNN of 20 layers with 3x3 kernels on 28x28 images: every option must be at least 1 and 19·(3 "
        "- 1) less than the image size",
    ),
    "option of another type": (
        saved(fc),
        "net.pth",
        {**FC, "arch_options": {"classes": "ten"}},
        "'mnist-fc-3layer' with options {'classes': 'ten'} failed: TypeError: ",
    ),
    "a missing weight": (
        saved(lambda: fc(fc2_bias=None)),
        "net.pth",
        FC,
        f"{FC_MISMATCH} missing fc2.bias; {MATCH}",
    ),
    "an unexpected weight": (
        saved(lambda: fc(fc4_bias=torch.ones(1))),
        "net.pth",
        FC,
        f"{FC_MISMATCH} unexpected fc4.bias; {MATCH}",
    ),
    "another architecture": (
        saved(fc),
        "net.pth",
        {"arch": "kw-mnist"},
        "'net.pth' does not match architecture 'kw-mnist': missing 0.weight, 0.bias, 2.weight and 5 more; "
        f"unexpected fc1.weight, fc1.bias, fc2.weight and 3 more; {MATCH}",
    ),
    "another shape": (
        saved(lambda: fc(fc1_weight=torch.ones(128, 3), fc3_bias=torch.ones(7))),
        "net.pth",
        FC,
        f"{FC_MISMATCH} fc1.weight is [128, 3] in the file and "
        f"[128, 784] in the architecture (and 1 more); {MATCH}",
    ),
    "another number of classes": (
        saved(fc),
        "net.pth",
        {**FC, "arch_options": {"classes": 100}},
        f"{FC_MISMATCH} fc3.weight is [10, 64] in the file and "
        f"[100, 64] in the architecture (and 1 more); {MATCH}",
    ),
    "NaN weights": (
        saved(lambda: fc(fc3_bias=torch.tensor([1.0, float("nan")] * 5))),
        "net.pth",
        FC,
        "5 of 10 values of fc3.bias in net are NaN or infinite; every weight must be finite in float32: "
        "open another checkpoint",
    ),
    "weights beyond float32": (
        saved(lambda: fc(fc3_bias=torch.full((10,), 1e300, dtype=torch.float64))),
        "net.pth",
        FC,
        "10 of 10 values of fc3.bias in net are NaN or infinite; every weight must be finite in float32: "
        "open another checkpoint",
    ),
    "mean without std": (
        saved(fc),
        "net.pth",
        {**FC, "mean": (0.5,)},
        "net takes mean and std together, 1 long each: one number per channel (got mean [0.5], std none)",
    ),
    "mean of three channels": (
        saved(fc),
        "net.pth",
        {**FC, "mean": (0, 0, 0), "std": (1, 1, 1)},
        "net takes mean and std together, 1 long each: one number per channel (got mean [0, 0, 0], "
        "std [1, 1, 1])",
    ),
    "std zero": (
        saved(fc),
        "net.pth",
        {**FC, "mean": (0,), "std": (0,)},
        "net: Normalize needs finite means and positive stds, got (0,) and (0,)",
    ),
    "images of another shape": (
        saved(fc),
        "net.pth",
        {**FC, "input_shape": (3, 32, 32)},
        "'net' reads images of shape [1, 28, 28] (channels, height, width), the images have "
        "shape [3, 32, 32]",
    ),
    "arch of an embedded network": (
        nothing,
        "digits-cnn",
        FC,
        "'digits-cnn' is complete: it takes no arch; leave it out",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_exact_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, source, options, line = REFUSALS[case]
    monkeypatch.chdir(tmp_path)
    make()
    with pytest.raises(UserError) as refusal:
        open_model(source, **options)
    got = str(refusal.value)
    assert got.startswith(line) if line.endswith("Error: ") else got == line
    assert "\n" not in got
