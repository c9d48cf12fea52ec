"""Files of the user's named bounds.py or cli.py beside his tests change nothing in certnas."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = ("-p", "no:cacheprovider", "-p", "certnas.testing.plugin")
SHADOW = "HERE = 'the user'\n"
SAME = """
import sys
import FIRST
import certnas.bounds.graph.facts, bounds, bounds.graph.facts, bounds.extend, certnas.bounds, certnas.bounds.extend
import cli.values, certnas.cli.values
assert bounds is certnas.bounds and bounds.graph.facts is certnas.bounds.graph.facts
assert bounds.extend.BoundState is certnas.bounds.extend.BoundState
assert cli.values is certnas.cli.values
assert bounds.Linf.__module__ == "certnas.bounds.region"
from bounds.operators.rule import Nonlinear
assert Nonlinear is bounds.Nonlinear and "bounds.operators.rule" in sys.modules
files = {}
for name, module in list(sys.modules.items()):
    if name.split(".")[0] in ("bounds", "cli", "certnas") and getattr(module, "__file__", None):
        files.setdefault(module.__file__, set()).add(id(module))
assert all(len(copies) == 1 for copies in files.values()), [f for f in files if len(files[f]) > 1]
assert sum(m.__name__.endswith("bounds.region") for m in set(sys.modules.values())) == 1
import pickle
assert pickle.loads(pickle.dumps(bounds.Crown())) == bounds.Crown()
"""
TEST = """
import bounds, cli, torch
from certnas.bounds import Linf

def test_the_users_own_files(certnas_bounds):
    assert bounds.HERE == cli.HERE == "the user"
    x = torch.rand(1, 1, 3, 3)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2)).eval()
    certnas_bounds.assert_sound(model, x, Linf(x, 1e-3))
"""


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    for name in ("bounds", "cli"):
        (tmp_path / f"{name}.py").write_text(SHADOW)
    return tmp_path


@pytest.mark.parametrize(
    "first", ["certnas", "bounds", "bounds.graph.facts", "cli.main", "certnas.bounds.extend"]
)
def test_both_names_are_one_package(first: str, tmp_path: Path) -> None:
    done = run(["-c", SAME.replace("FIRST", first)], tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_pytest_plugin_works_beside_such_files(shadowed: Path) -> None:
    (shadowed / "test_mine.py").write_text(TEST)
    done = run(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "certnas.testing.plugin", "test_mine.py"],
        shadowed,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_module_of_cli_runs_by_its_short_name(tmp_path: Path) -> None:
    done = run(["-m", "cli.main", "--help"], tmp_path)
    assert done.returncode == 0 and "certify" in done.stdout, done.stderr


def test_the_command_line_works_beside_such_files(shadowed: Path) -> None:
    done = run(["-m", "certnas", "certify", "--images", "1", "--no-attack"], shadowed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "certified" in done.stdout
