"""Opening networks: accuracies against the manifest's counts, export, wrappings of weights, factories."""

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from shared_data import CHECKPOINTS, COMPLETE, checkpoint, cifar10_test, manifest, mnist_test
from torch import Tensor, nn

from certnas.models import ARCHITECTURES, Architecture, Normalize, open_model
from certnas.models.architectures.residual import ZeroPadShortcut
from certnas.models.architectures.torchvision_models import TORCHVISION
from certnas.models.formats import FORMATS

PARAMETERS = {  # counted by hand from the layers; the residual ones as published with their weights
    "mnist-fc-3layer": 109_386,
    "mnist-cnn-a": 166_406,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_689_512,
    "densenet121": 7_978_856,
    "resnet4b": 448 + (4_640 + 9_248 + 544) + 2 * 18_496 + (18_496 + 1_056) + 51_300 + 1_010,
}


def correct(id: str, images: int) -> int:
    """How many of the first test images the third-party network classifies correctly."""
    file, arch = CHECKPOINTS[id]
    module = open_model(str(checkpoint(file)), arch=arch).module
    x, y = mnist_test(images) if manifest()[id]["dataset"] == "MNIST" else cifar10_test(images)
    with torch.no_grad():
        return sum(
            int((module(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True)
        )


def weights(seed: int = 0) -> dict[str, Tensor]:
    """A state dict of mnist-fc-3layer."""
    torch.manual_seed(seed)
    return ARCHITECTURES["mnist-fc-3layer"]().module.state_dict()


@pytest.mark.parametrize("id", CHECKPOINTS)
def test_accuracy_on_the_first_thousand_images_agrees_with_the_manifest(id: str) -> None:
    share = manifest()[id]["clean_correct_of_10000"] / 10_000
    deviation = math.sqrt(share * (1 - share) * 1000)
    assert abs(correct(id, 1000) - 1000 * share) < 4 * deviation


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=[pytest.mark.slow] if id == "resnet20" else []) for id in CHECKPOINTS]
)
def test_ten_thousand_images_give_the_manifests_count(id: str) -> None:
    expected = manifest()[id]
    # MNIST is exact; a CIFAR-10 image within float32 rounding of a boundary may fall to either side
    tolerance = 0 if expected["dataset"] == "MNIST" else 2
    assert abs(correct(id, 10_000) - expected["clean_correct_of_10000"]) <= tolerance


def test_every_readable_checkpoint_is_tested() -> None:
    found = {path.name for path in checkpoint("index.json").parent.iterdir() if path.suffix in FORMATS}
    assert found == {file for file, _ in [*CHECKPOINTS.values(), *COMPLETE.values()]}


@pytest.mark.parametrize(("arch", "count"), PARAMETERS.items())
def test_architectures_have_the_published_number_of_parameters(arch: str, count: int) -> None:
    assert sum(p.numel() for p in ARCHITECTURES[arch]().module.parameters()) == count


def test_the_zero_padded_shortcut_takes_even_pixels_and_adds_channels_on_both_sides() -> None:
    x = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    expected = torch.zeros(1, 4, 2, 2)
    expected[0, 1] = torch.tensor([[1.0, 3.0], [9.0, 11.0]])
    expected[0, 2] = torch.tensor([[17.0, 19.0], [25.0, 27.0]])
    assert torch.equal(ZeroPadShortcut(2, 4)(x), expected)


SMALLER: dict[str, dict[str, object]] = {  # of the large ones, these, at a size that a test can afford
    "darts": {"channels": 4, "layers": 3},
    "resnet18": {"size": 32, "classes": 7},
    "densenet121": {"size": 32, "classes": 7},
}


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param(arch, marks=[pytest.mark.slow] if arch == "densenet121" else [])
        for arch in ARCHITECTURES
        if arch not in TORCHVISION or arch in SMALLER
    ],
)
def test_every_architecture_exports_with_a_free_batch(arch: str, tmp_path: Path) -> None:
    options = SMALLER.get(arch, {})
    architecture = ARCHITECTURES[arch](**options)
    save_file(architecture.module.state_dict(), tmp_path / "net.safetensors")
    module = open_model(str(tmp_path / "net.safetensors"), arch=arch, arch_options=options).module
    x = torch.rand(3, *architecture.input_shape)
    exported = torch.export.export(module, (x[:2],), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.testing.assert_close(exported.module()(x), module(x), rtol=0, atol=1e-6)


WRAPPINGS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.5},
    "model": lambda s: {"model": s, "ema": {name: value + 1 for name, value in s.items()}},
    "net": lambda s: {"net": s, "acc": 90.0},
    "ema": lambda s: {"ema": s},
    "list": lambda s: [s, {name: value + 1 for name, value in s.items()}],
    "nested": lambda s: {"state_dict": [s]},
    "module.": lambda s: {"module." + name: value for name, value in s.items()},
    "module._orig_mod.": lambda s: {"module._orig_mod." + name: value for name, value in s.items()},
    "numbers beside": lambda s: {**s, "epoch": 3},
    "double": lambda s: {name: value.double() for name, value in s.items()},
    "parameters": lambda s: OrderedDict((name, nn.Parameter(value)) for name, value in s.items()),
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_every_wrapping(wrapping: str, suffix: str, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[wrapping](weights()), tmp_path / f"net{suffix}")
    opened = open_model(str(tmp_path / f"net{suffix}"), arch="mnist-fc-3layer")
    for name, value in opened.module.state_dict().items():
        assert torch.equal(value, weights()[name])
    assert not opened.module.training
    assert {p.dtype for p in opened.module.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in opened.module.parameters())


def test_an_opened_model_says_what_it_is(tmp_path: Path) -> None:
    torch.save({"state_dict": [weights()]}, tmp_path / "net.pth")
    opened = open_model(str(tmp_path / "net.pth"), arch="mnist-fc-3layer")
    assert (opened.name, opened.input_shape, opened.classes) == ("net", (1, 28, 28), 10)
    assert opened.origin == f"file {tmp_path}/net.pth['state_dict'][0], architecture mnist-fc-3layer"


def test_the_digest_is_of_the_values_wherever_they_are_stored(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pth")
    save_file(weights(), tmp_path / "b.safetensors")
    changed = weights()
    changed["fc3.bias"][7] += 1e-6
    save_file(changed, tmp_path / "c.safetensors")
    a, b, c = (
        open_model(str(tmp_path / file), arch="mnist-fc-3layer").sha256
        for file in ("a.pth", "b.safetensors", "c.safetensors")
    )
    assert a == b != c
    assert len(a) == 64


def test_a_keras_archive_is_evaluated_as_keras_evaluates_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(2, 2, 3, 4)), rng.normal(size=4)
    dense, shift = rng.normal(size=(3 * 3 * 4, 5)), rng.normal(size=5)
    np.savez(
        tmp_path / "k.npz", layer0_kernel=kernel, layer0_bias=bias, layer1_kernel=dense, layer1_bias=shift
    )
    options = {"layers": 2, "filters": 4, "kernel": 2, "channels": 3, "size": 4, "classes": 5}
    module = open_model(str(tmp_path / "k.npz"), arch="cnn-cert-tanh", arch_options=options).module
    x = rng.random((2, 4, 4, 3))  # N, H, W, C
    hidden = np.zeros((2, 3, 3, 4))
    for i, j in np.ndindex(3, 3):
        hidden[:, i, j] = np.tanh(np.einsum("nabc,abcd->nd", x[:, i : i + 2, j : j + 2], kernel) + bias)
    logits = hidden.reshape(2, -1) @ dense + shift
    got = module(torch.from_numpy(x.transpose(0, 3, 1, 2)).float())
    np.testing.assert_allclose(got.numpy(), logits, rtol=1e-4, atol=1e-5)


def test_normalisation_comes_first_and_can_be_replaced(tmp_path: Path) -> None:
    bare = ARCHITECTURES["kw-cifar-small"]()
    torch.save(bare.module.state_dict(), tmp_path / "net.pth")
    x = torch.rand(4, 3, 32, 32)
    default = open_model(str(tmp_path / "net.pth"), arch="kw-cifar-small").module
    shift = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    torch.testing.assert_close(default(x), bare.module((x - shift) / 0.225))
    assert isinstance(next(default.children()), Normalize)
    other = open_model(str(tmp_path / "net.pth"), arch="kw-cifar-small", mean=(0, 0.5, 1), std=(1, 0.5, 0.25))
    torch.testing.assert_close(
        other.module(x), bare.module(torch.stack([x[:, 0], x[:, 1] * 2 - 1, x[:, 2] * 4 - 4], 1))
    )


FACTORIES = """
import torch
from certnas.models import Architecture

def plain(width=3, *, depth=1):
    torch.rand(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, depth), torch.nn.Linear(depth, width))

def complete():
    return Architecture(plain(), (3, 2, 2), mean=(0.0, 0.0, 0.0), std=(0.5, 0.5, 0.5))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of factories in the working folder."""
    name = f"networks_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_is_a_source_or_the_architecture_of_a_checkpoint(factories: str, tmp_path: Path) -> None:
    opened = open_model(f"{factories}:plain", arch_options={"width": 4}, input_shape=(3, 2, 2))
    assert (opened.classes, opened.origin) == (4, f"factory {factories}:plain")
    torch.save(opened.module.state_dict(), tmp_path / "net.pth")
    again = open_model("net.pth", arch=f"{factories}:plain", arch_options={"width": 4}, input_shape=(3, 2, 2))
    assert again.sha256 == opened.sha256
    complete = open_model(f"{factories}:complete")
    assert complete.input_shape == (3, 2, 2)
    assert isinstance(next(complete.module.children()), Normalize)


def test_torchvisions_networks_are_factories() -> None:
    opened = open_model(
        "torchvision.models:resnet18", arch_options={"num_classes": 7}, input_shape=(3, 32, 32)
    )
    assert opened.classes == 7


@pytest.mark.parametrize("source", ["factory", "checkpoint"])
def test_the_random_state_stays_as_it_was(source: str, factories: str, tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "net.pth")
    before = torch.get_rng_state()
    if source == "factory":
        open_model(f"{factories}:plain", input_shape=(3, 2, 2))
    else:
        open_model("net.pth", arch="mnist-fc-3layer")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["digits-cnn", "digits-cell"])
def test_embedded_networks_open_by_name(name: str) -> None:
    opened = open_model(name)
    assert (opened.name, opened.input_shape, opened.classes) == (name, (1, 8, 8), 10)
    assert open_model(name).sha256 == opened.sha256


def test_a_format_with_its_own_structure_needs_no_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Architecture:
        return Architecture(nn.Sequential(nn.Flatten(), nn.Linear(4, int(path.read_text()))), (1, 2, 2))

    monkeypatch.setitem(FORMATS, ".classes", read)
    (tmp_path / "net.classes").write_text("6")
    assert open_model(str(tmp_path / "net.classes")).classes == 6
