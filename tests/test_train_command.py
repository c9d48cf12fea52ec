"""`certnas train` as a user meets it: what is kept, opened by certify, killed and continued, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from certnas.data import load
from certnas.runs import read_toml
from certnas.training import training_images
from cli.main import main

ROOT = Path(__file__).parents[1]
QUICK = ("--channels", "2", "--layers", "2", "--batch-size", "20", "--threads", "1")
PLAIN = (
    "--set",
    "drop_path=0",
    "--set",
    "auxiliary=0",
    "--set",
    "augmentation.crop=0",
    "--set",
    "augmentation.cutout=0",
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    """Images of a bright bar, by its row a class of three, in noise; and a genotype of cheap cells."""
    random = np.random.default_rng(5)
    y = np.arange(60) % 3
    x = 0.3 * random.random((60, 1, 6, 6))
    x[np.arange(60), :, 1 + y] += 0.6
    np.savez(tmp_path / "bars.npz", x=x, y=y)
    cell = [["max_pool_3x3", 0], ["skip_connect", 1]]
    genotype = {"normal": cell, "normal_concat": [2], "reduce": cell, "reduce_concat": [2]}
    (tmp_path / "genotype.json").write_text(json.dumps(genotype))
    return tmp_path / "bars.npz"


def command(bars: Path, out: Path, *more: str) -> list[str]:
    """A training of a few seconds at most; the genotype is named by its folder, as that of a search is."""
    named = ["train", str(bars.parent), "--data", str(bars), "--epochs", "4", "--out", str(out)]
    return [*named, *QUICK, *PLAIN, *more]


def test_a_trained_network_is_all_that_certify_needs(bars: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(*command(bars, out, "--epochs", "12", "--seed", "3"))
    assert result.exit_code == 0, result.stderr
    assert "on held-out training images" in result.stdout
    assert f"certify it with: certnas certify {out / 'best'} --data {bars}" in result.stdout
    assert result.stderr.count("epoch ") == 12 and "held-out accuracy" in result.stderr
    kept = {path.name for path in out.iterdir()}
    assert kept >= {
        "config.toml",
        "environment.json",
        "log.jsonl",
        "tensorboard",
        "curves.png",
        "best",
        "last",
    }
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    for network in ("best", "last"):
        found = run("certify", out / network, "--data", bars, "--images", 3, "--method", "ibp", "--no-attack")
        assert found.exit_code == 0, found.stderr
        assert "clean accuracy" in found.stdout


def test_a_configuration_gives_the_same_network_again(bars: Path, tmp_path: Path) -> None:
    first = run(
        *command(bars, tmp_path / "a", "--recipe", "pgd-at", "--eps", "8/255", "--set", "objective.steps=2")
    )
    assert first.exit_code == 0, first.stderr
    used = read_toml(tmp_path / "a" / "config.toml")["recipe"]
    assert used["objective"] == {
        "name": "pgd-at",
        "eps": 8 / 255,
        "step": 0.01,
        "steps": 2,
        "start": 0.001,
        "warmup": 0.0,
    }
    again = ("--config", str(tmp_path / "a" / "config.toml"), "--out", str(tmp_path / "b"))
    second = run("train", bars.parent, "--data", bars, "--threads", 1, *again)
    assert second.exit_code == 0, second.stderr
    left, right = (load_file(tmp_path / name / "last" / "weights.safetensors") for name in "ab")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_images_of_the_test_part_are_not_trained_on() -> None:
    assert torch.equal(training_images("digits").x, load("digits", train=True).x)
    assert len(training_images("digits", count=50, seed=1).y) == 50


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(bars: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as an epoch is kept, twice."""
    more = ("--recipe", "pgd-at", "--set", "objective.steps=2", "--set", "drop_path=0.2", "--epochs", "12")
    whole = run(*command(bars, tmp_path / "whole", *more))
    assert whole.exit_code == 0, whole.stderr
    cut = tmp_path / "cut"
    for kills in range(2):
        line = [sys.executable, "-m", "cli.main", *command(bars, cut, *more, *["--resume"][:kills])]
        before = kept_at(cut)
        with subprocess.Popen(
            line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            until = time.monotonic() + 120
            while kept_at(cut) == before and process.poll() is None and time.monotonic() < until:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL and kept_at(cut) > before
    done = run(*command(bars, cut, *more, "--resume"))
    assert done.exit_code == 0, done.stderr
    for network in ("best", "last"):
        left, right = (
            load_file(tmp_path / name / network / "weights.safetensors") for name in ("whole", "cut")
        )
        assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert epochs(cut) == 12


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["standard", "crown-ibp"])
def test_two_processes_train_what_one_trains(bars: Path, tmp_path: Path, recipe: str) -> None:
    """Batches of 13 and 14 images, so that shares differ in size; equal up to the rounding of sums in float32."""
    more = ("--recipe", recipe, "--batch-size", "16", "--epochs", "3")
    assert run(*command(bars, tmp_path / "one", *more)).exit_code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*launcher, "-m", "cli.main", *command(bars, tmp_path / "two", *more)]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("certify it with") == 1
    left, right = (load_file(tmp_path / name / "last" / "weights.safetensors") for name in ("one", "two"))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.allclose(right[name], value, rtol=1e-4, atol=1e-6), name
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    one, two = ([json.loads(line) for line in lines] for lines in logs)
    for before, after in zip(one, two, strict=True):
        assert (
            after["accuracy"] == before["accuracy"]
            and after["validation_accuracy"] == before["validation_accuracy"]
        )
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-4)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2


def kept_at(folder: Path) -> int:
    """When the folder's state was last replaced, 0 before the first."""
    return (folder / "last.pt").stat().st_mtime_ns if (folder / "last.pt").exists() else 0


def epochs(folder: Path) -> int:
    """How many epochs the folder's log has in whole lines."""
    log = folder / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def test_an_interrupt_keeps_whole_epochs(bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from certnas.training import loop

    honest, seen = loop._Training.epoch, []

    def pressed(*arguments: object) -> object:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop._Training, "epoch", pressed)
    out = tmp_path / "run"
    result = run(*command(bars, out))
    assert result.exit_code == 130
    assert result.stderr.endswith(
        f"certnas: interrupted: whole epochs are kept in {out}; continue with --resume\n"
    )
    assert epochs(out) == 2
    assert run(*command(bars, out, "--resume")).exit_code == 0
    assert epochs(out) == 4


REFUSALS = {
    "recipe": (
        ("--recipe", "fast"),
        "'fast' is not one of 'standard', 'darts', 'pc-darts', 'pgd-at'",
    ),
    "setting": (("--set", "speed=1"), "speed: no such setting; accepted: objective, epochs, batch"),
    "no setting": (("--set", "speed"), "setting 'speed': is not KEY=VALUE"),
    "eps": (("--eps", "0.1"), "objective.eps: no such setting; accepted: none"),
    "epochs": (("--epochs", "0"), "epochs: got 0; give more than 0"),
    "data": (("--data", "cifar11"), "data cifar11: unknown; accepted: digits"),
    "images": (("--images", "100"), "100 images asked for, it has 60"),
    "validation": (("--validation", "0"), "validation: got 0; give a share"),
    "config": (("--config", "none.toml"), "configuration none.toml: cannot be read"),
    "auxiliary": (("--set", "auxiliary=0.4"), "auxiliary head: its input is 2×2, but it needs 8×8 or more"),
    "layers": (("--layers", "0"), "layers: got 0; give more than 0"),
    "device": (("--device", "tpu"), "tpu"),
    "seed": (("--seed", "-1"), "-1 is not in the range x>=0"),
    "not finite": (("--lr", "1e38", "--set", "clip=1e30"), "training: the loss is "),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_wrong_request_is_refused_in_one_line(what: str, bars: Path, tmp_path: Path) -> None:
    more, message = REFUSALS[what]
    result = run(*command(bars, tmp_path / "run", *more))
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("certnas: error: ") and message in last
    assert what == "not finite" or len(result.stderr.splitlines()) == 1


def test_an_unknown_genotype_is_refused(tmp_path: Path) -> None:
    result = run("train", "DARTS_V3", "--out", tmp_path / "run")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "genotype: unknown name 'DARTS_V3'" in result.stderr
    result = run("train", tmp_path, "--out", tmp_path / "run")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "genotype.json" in result.stderr


def test_a_folder_of_another_training_is_left_alone(bars: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(*command(bars, out)).exit_code == 0
    kept = (out / "last.pt").read_bytes()
    for more, message in (
        ((), "already holds a run; continue it with --resume"),
        (("--resume", "--lr", "0.1"), "cannot resume"),
    ):
        result = run(*command(bars, out, *more))
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert message in result.stderr
    assert (out / "last.pt").read_bytes() == kept
