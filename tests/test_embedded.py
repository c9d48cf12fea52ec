"""The embedded networks and their data: what is shipped is what was trained, and training can be repeated."""

import runpy
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from certnas.data.digits import load_digits_split
from certnas.models.embedded import EMBEDDED
from certnas.models.embedded.digits import CELL

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "train_digits.py"
OPERATORS = {"max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "skip_connect"}


def weights(name: str) -> Path:
    return Path(str(files("certnas.models.embedded"))) / f"{name.replace('-', '_')}.safetensors"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_the_split_is_the_last_third() -> None:
    digits = load_digits()
    x, y = load_digits_split(train=True)
    held_x, held_y = load_digits_split(train=False)
    assert (x.shape, held_x.shape) == ((1198, 1, 8, 8), (599, 1, 8, 8))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert torch.equal(torch.cat([x, held_x]).flatten(1).double() * 16, torch.from_numpy(digits.data))
    assert torch.equal(torch.cat([y, held_y]), torch.from_numpy(digits.target).long())


@pytest.mark.parametrize("name", EMBEDDED)
def test_accuracy_is_the_stored_figure(name: str) -> None:
    x, y = load_digits_split(train=False)
    with torch.no_grad():
        accuracy = (EMBEDDED[name]()(x).argmax(1) == y).double().mean().item()
    assert accuracy == pytest.approx(float(metadata(weights(name))["clean"]), abs=1e-6)
    assert accuracy >= 0.95


@pytest.mark.parametrize("name", EMBEDDED)
def test_loading_leaves_the_random_state_and_gives_evaluation_mode(name: str) -> None:
    before = torch.get_rng_state()
    network = EMBEDDED[name]()
    assert torch.equal(torch.get_rng_state(), before)
    assert not [module for module in network.modules() if module.training]
    assert network is not EMBEDDED[name]()


@pytest.mark.parametrize("name", EMBEDDED)
def test_export_is_the_network(name: str) -> None:
    network, x = EMBEDDED[name](), load_digits_split(train=False)[0][:4]
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (x[:2],), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(x), network(x))


def test_the_files_are_small() -> None:
    assert all(weights(name).stat().st_size < 500_000 for name in EMBEDDED)


def test_the_cell_has_every_kind_of_operator() -> None:
    assert {op for op, _ in CELL.normal + CELL.reduce} == OPERATORS


def train_here(options: list[str]) -> str:
    result = CliRunner().invoke(runpy.run_path(str(SCRIPT))["main"], options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def train_apart(options: list[str]) -> str:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_training_repeats_with_its_seed(name: str, tmp_path: Path) -> None:
    """In another process, too."""
    file = weights(name).name
    outputs = []
    for run, seed, train in (("a", "3", train_apart), ("b", "3", train_here), ("c", "4", train_here)):
        options = ["--model", name, "--epochs", "1", "--seed", seed, "--out", str(tmp_path / run)]
        outputs.append(train(options))
        assert [path.name for path in (tmp_path / run).iterdir()] == [file]
    first, again, other = (load_file(tmp_path / run / file) for run in "abc")
    assert outputs[0] == outputs[1]
    assert metadata(tmp_path / "a" / file)["seed"] == "3"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
