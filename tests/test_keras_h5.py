"""Keras .h5 files: the structure that they describe, checked against a network made by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared_data import checkpoint
from torch import Tensor

from certnas.errors import UserError
from certnas.models import open_model


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}


ARRAYS = {
    "conv": {"kernel": weights(3, 3, 2, 4), "bias": weights(4, seed=1)},
    "dense": {"kernel": weights(3 * 3 * 4, 5, seed=2), "bias": weights(5, seed=3)},
}
LAYERS = [
    layer("Conv2D", "conv", batch_input_shape=[None, 7, 6, 2], filters=4, kernel_size=[3, 3], strides=[2, 2],
          padding="same", activation="relu", use_bias=True),
    layer("MaxPooling2D", "pool", pool_size=[2, 1], strides=[1, 1]),
    layer("Activation", "act", activation="tanh"),
    layer("Dropout", "drop", rate=0.5),
    layer("Flatten", "flatten"),
    layer("Dense", "dense", units=5, activation="softmax", use_bias=True),
]  # fmt: skip


def write(
    path: Path,
    layers: list[dict[str, Any]] | None = None,
    arrays: dict[str, dict[str, np.ndarray]] | None = None,
    *,
    kind: str = "Sequential",
) -> Path:
    with h5py.File(path, "w") as file:
        if layers is not None:
            file.attrs["model_config"] = json.dumps({"class_name": kind, "config": {"layers": layers}})
        group = file.create_group("model_weights") if layers is not None else file
        held = ARRAYS if arrays is None else arrays
        group.attrs["layer_names"] = [name.encode() for name in held]
        for name, own in held.items():
            part = group.create_group(name)
            part.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in own]
            for key, value in own.items():
                part.create_dataset(f"{name}/{key}:0", data=value)
    return path


def by_hand(x: Tensor) -> Tensor:
    """The same network, channels last, in the order of Keras."""
    conv, dense = ARRAYS["conv"], ARRAYS["dense"]
    kernel = torch.from_numpy(conv["kernel"].transpose(3, 2, 0, 1).copy())
    padded = F.pad(x, (0, 1, 1, 1))  # 6 columns at stride 2 need one pixel, 7 rows need two
    y = F.conv2d(padded, kernel, torch.from_numpy(conv["bias"]), stride=2).relu()
    y = torch.maximum(y[:, :, :-1], y[:, :, 1:]).tanh()
    flat = torch.stack([image.permute(1, 2, 0).flatten() for image in y])
    return flat @ torch.from_numpy(dense["kernel"]) + torch.from_numpy(dense["bias"])


def test_a_network_is_what_keras_describes(tmp_path: Path) -> None:
    opened = open_model(str(write(tmp_path / "net.h5", LAYERS)))
    x = torch.rand(3, 2, 7, 6)
    assert (opened.input_shape, opened.classes) == ((2, 7, 6), 5)
    assert torch.allclose(opened.module(x), by_hand(x), atol=1e-5)


NORMS = {
    name: {"gamma": weights(size, seed=4), "beta": weights(size, seed=5), "moving_mean": weights(size, seed=6),
           "moving_variance": weights(size, seed=7) ** 2}
    for name, size in (("bn", 4), ("flat_bn", 36))
}  # fmt: skip


@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False)])
def test_batch_normalisation_is_along_the_channels(scale: bool, center: bool, tmp_path: Path) -> None:
    layers = [
        {**LAYERS[0], "config": {**LAYERS[0]["config"], "activation": "linear"}},
        layer("BatchNormalization", "bn", axis=[3], epsilon=0.01),
        layer("ReLU", "relu"),
        *LAYERS[1:5],
        layer("BatchNormalization", "flat_bn", axis=-1, scale=scale, center=center),
        LAYERS[5],
    ]
    flat = {k: v for k, v in NORMS["flat_bn"].items() if (scale or k != "gamma") and (center or k != "beta")}
    arrays = {"conv": ARRAYS["conv"], "bn": NORMS["bn"], "flat_bn": flat, "dense": ARRAYS["dense"]}
    opened = open_model(str(write(tmp_path / "net.h5", layers, arrays)))

    def normalised(y: np.ndarray, own: dict[str, np.ndarray], epsilon: float) -> np.ndarray:
        y = (y - own["moving_mean"]) / np.sqrt(own["moving_variance"] + np.float32(epsilon))
        return y * own.get("gamma", 1) + own.get("beta", 0)

    x = torch.rand(3, 2, 7, 6)
    kernel = torch.from_numpy(ARRAYS["conv"]["kernel"].transpose(3, 2, 0, 1).copy())
    y = F.conv2d(F.pad(x, (0, 1, 1, 1)), kernel, torch.from_numpy(ARRAYS["conv"]["bias"]), stride=2)
    z = np.maximum(normalised(y.permute(0, 2, 3, 1).numpy(), NORMS["bn"], 0.01), 0)
    z = np.tanh(np.maximum(z[:, :-1], z[:, 1:])).reshape(3, -1)
    expected = normalised(z, flat, 1e-3) @ ARRAYS["dense"]["kernel"] + ARRAYS["dense"]["bias"]
    assert not opened.module.training
    assert np.allclose(opened.module(x).detach(), expected, rtol=1e-4, atol=1e-4)


def normed(**config: Any) -> list[dict[str, Any]]:
    return [LAYERS[0], layer("BatchNormalization", "bn", **config), *LAYERS[1:]]


@pytest.mark.parametrize(
    ("layers", "missing", "line"),
    [
        (normed(axis=[1]), "", r"BatchNormalization along axis \[1\]; accepted: the last, channels"),
        (normed(), "gamma", "the arrays of layer 'bn' do not fit its configuration"),
        (normed(), "moving_variance", "the arrays of layer 'bn' do not fit its configuration"),
        (normed(scale=False), "", "the arrays of layer 'bn' do not fit its configuration"),
        (normed(epsilon="x"), "", "does not describe a Keras Sequential of images"),
    ],
)
def test_a_batch_normalisation_that_is_not_whole_is_refused(
    layers: list[dict[str, Any]], missing: str, line: str, tmp_path: Path
) -> None:
    own = {key: value for key, value in NORMS["bn"].items() if key != missing}
    path = write(tmp_path / "net.h5", layers, {**ARRAYS, "bn": own})
    with pytest.raises(UserError, match=line):
        open_model(str(path))


def test_arrays_alone_are_weights_of_a_cnn_cert_network(tmp_path: Path) -> None:
    arrays = {
        "a": {"kernel": weights(3, 3, 1, 5), "bias": weights(5)},
        "flatten": {},
        "b": {"kernel": weights(26 * 26 * 5, 10), "bias": weights(10)},
    }
    path = write(tmp_path / "net.h5", None, arrays)
    opened = open_model(str(path), arch="cnn-cert-relu", arch_options={"layers": 2})
    assert torch.equal(
        opened.module.state_dict()["layer1.weight"], torch.from_numpy(arrays["b"]["kernel"].T.copy())
    )


@pytest.mark.parametrize("name", ["mnist_cnn_5layer_5_3", "mnist_cnn_5layer_5_3_tanh"])
def test_the_h5_is_the_npz(name: str) -> None:
    arch = "cnn-cert-tanh" if name.endswith("tanh") else "cnn-cert-sigmoid"
    x = torch.rand(4, 1, 28, 28)
    own = open_model(str(checkpoint(f"{name}.h5"))).module(x)
    assert torch.equal(own, open_model(str(checkpoint(f"{name}.npz")), arch=arch).module(x))


def other(change: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
    layers = json.loads(json.dumps(LAYERS))
    change(layers)
    return layers


REFUSALS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a lambda": (
        other(lambda ls: ls.insert(1, layer("Lambda", "f", function=["4wE="]))),
        "no importer for Keras layer Lambda at position 1; supported: Activation, AveragePooling2D, BatchNormalization",
    ),
    "an activation": (
        other(lambda ls: ls[0]["config"].update(activation="arctan")),
        "no importer for Keras activation 'arctan' at position 2; supported: elu, relu, sigmoid, softplus, tanh",
    ),
    "other sizes": (
        other(lambda ls: ls[0]["config"].update(filters=5)),
        "the arrays of layer 'conv' do not fit its configuration",
    ),
    "absurd sizes": (
        other(lambda ls: ls[-1]["config"].update(units=2**40)),
        "the arrays of layer 'dense' do not fit its configuration",
    ),
    "an absurd image": (
        other(lambda ls: ls[0]["config"].update(batch_input_shape=[None, 2**30, 2**30, 2])),
        "accepted: at most 134217728 elements",
    ),
    "no name": (
        other(lambda ls: ls[0]["config"].pop("name")),
        "does not describe a Keras Sequential of images",
    ),
    "no end": (LAYERS[:4], "ends in [4, 3, 3]"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_followed_is_named(case: str, tmp_path: Path) -> None:
    layers, line = REFUSALS[case]
    with pytest.raises(UserError) as refusal:
        open_model(str(write(tmp_path / "net.h5", layers)))
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_network_that_is_no_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a Keras Functional; accepted: Sequential"):
        open_model(str(write(tmp_path / "net.h5", LAYERS, kind="Functional")))


def test_data_outside_the_file_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "other.h5", LAYERS)
    (tmp_path / "raw").write_bytes(bytes(10_000))
    for make in (
        lambda group: group.__setitem__(
            "kernel:0", h5py.ExternalLink("other.h5", "/model_weights/conv/conv/kernel:0")
        ),
        lambda group: group.__setitem__("kernel:0", h5py.SoftLink("/model_weights/dense/dense/kernel:0")),
        lambda group: group.create_dataset(
            "kernel:0", (3, 3, 2, 4), "f4", external=[(tmp_path / "raw", 0, 288)]
        ),
    ):
        path = write(tmp_path / "net.h5", LAYERS)
        with h5py.File(path, "a") as file:
            del file["model_weights/conv/conv/kernel:0"]
            make(file["model_weights/conv/conv"])
        with pytest.raises(UserError, match=r"of its own|kept outside the file"):
            open_model(str(path))


def test_an_array_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "net.h5", LAYERS)
    with h5py.File(path, "a") as file:
        del file["model_weights/conv/conv/kernel:0"]
        file["model_weights/conv/conv"].create_dataset(
            "kernel:0", (2**7, 2**7, 2**6, 2**6), "f4", chunks=True
        )
    with pytest.raises(UserError, match=r"unpacks to far more than the file holds"):
        open_model(str(path))


def test_a_file_on_which_the_library_never_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free object of size 0 in a heap: HDF5 2.0.0 reads it again and again."""
    path = write(tmp_path / "net.h5", LAYERS)
    good = path.read_bytes()
    at = good.index(b"GCOL\x01") + 16
    while good[at : at + 2] != b"\0\0":
        at += 16 + -(-int.from_bytes(good[at + 8 : at + 16], "little") // 8) * 8
    path.write_bytes(good[: at + 8] + bytes(8) + good[at + 16 :])
    monkeypatch.setattr("certnas.models.formats.hdf5.SECONDS", 3.0)
    with pytest.raises(UserError, match=r"as .h5: (it takes more than 3 s|it is truncated)"):
        open_model(str(path))


def test_a_crash_of_the_library_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crash.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr("certnas.models.formats.hdf5.PROGRAM", tmp_path / "crash.py")
    with pytest.raises(UserError, match=r"as .h5: it is truncated or in another format"):
        open_model(str(write(tmp_path / "net.h5", LAYERS)))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_h5_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(data)
    with pytest.raises(UserError, match=r"is empty|cannot read .* as .h5"):
        open_model(str(tmp_path / "net.h5"))
