"""`certnas certify` as a user meets it: what is printed, kept, refused, continued."""

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import bounds
from certnas.certifier import batch
from certnas.certifier.certificates import COLUMNS
from cli.main import main
from cli.values import Bytes, NumberList

ROOT = Path(__file__).parents[1]
QUICK = ("certify", "--images", "5", "--method", "ibp", "--no-attack", "--batch-size", "2")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def rows(folder: Path) -> list[dict[str, str]]:
    """results.csv without what a clock decides."""
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, searches: int) -> None:
    """Ctrl-C in the radius search that follows the first `searches`."""
    honest, seen = batch.search_radii, []

    def pressed(*arguments: Any, **more: Any) -> Any:
        seen.append(1)
        if len(seen) > searches:
            raise KeyboardInterrupt
        return honest(*arguments, **more)

    monkeypatch.setattr(batch, "search_radii", pressed)


@pytest.mark.slow
def test_without_arguments_it_certifies_digits() -> None:
    result = run("certify")
    assert result.exit_code == 0, result.stderr
    assert (
        "l∞ radii, in [0, 1] pixels" in result.stdout
        and "digits-cnn · digits · linf · crown" in result.stdout
    )
    assert result.stdout.count("certified ") + result.stdout.count("misclassified ") >= 20
    for line in (
        "clean accuracy",
        "certified radius, mean",
        "certified / attacked, median",
        "time per image",
    ):
        assert line in result.stdout


def test_a_folder_holds_everything(tmp_path: Path) -> None:
    out = tmp_path / "new" / "results"
    result = run("certify", "--images", 3, "--norm", "l2", "--at", "0.1,1/2", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert f"wrote results.csv, results.json, accuracy.png and radii.png to {out}" in result.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        "accuracy.png",
        "radii.png",
        "results.csv",
        "results.json",
    ]
    assert (out / "results.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert ",".join(COLUMNS) == (
        "index,label,prediction,target,norm,method,radius_lower,radius_upper,status,certificate,seconds"
    )
    record = json.loads((out / "results.json").read_text())
    assert {"python", "torch", "certnas", "numpy"} <= set(record["versions"])
    assert record["config"]["seed"] == 0 and record["config"]["norm"] == "l2" and len(record["images"]) == 3
    assert set(record["summary"]["certified_accuracy"]) == {"0.1", "0.5"}
    for row, image in zip(rows(out), record["images"], strict=True):
        assert float(row["radius_lower"]) == image["radius_lower"] <= image["radius_upper"]
        assert image["radius_lower"] > 0 and row["status"] == "certified" and row["norm"] == "l2"
    for name in ("accuracy.png", "radii.png"):
        picture = np.asarray(Image.open(out / name).convert("L"))
        assert min(picture.shape) > 400 and picture.std() > 10


def test_an_interrupted_run_keeps_shows_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*QUICK, "--out", tmp_path / "whole").exit_code == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        result = run(*QUICK, "--out", tmp_path / "part")
    assert result.exit_code == 130
    assert result.stderr.strip().splitlines()[-1] == (
        "certnas: interrupted: 2 of 5 images are done and kept in "
        f"{tmp_path / 'part'}; continue with --resume"
    )
    assert len(rows(tmp_path / "part")) == 2 and "clean accuracy" in result.stdout
    computed: list[int] = []
    honest = batch.search_radii

    def counted(margin: Any, centre: torch.Tensor, *rest: Any, **more: Any) -> Any:
        computed.append(len(centre))
        return honest(margin, centre, *rest, **more)

    monkeypatch.setattr(batch, "search_radii", counted)
    result = run(*QUICK, "--out", tmp_path / "part", "--resume")
    assert result.exit_code == 0, result.stderr
    assert sum(computed) == 3, "finished images are not computed again"
    assert rows(tmp_path / "part") == rows(tmp_path / "whole")
    assert run(*QUICK, "--out", tmp_path / "part", "--resume").exit_code == 0, (
        "a finished run resumes to itself"
    )
    assert sum(computed) == 3


def test_an_interrupt_without_a_folder_shows_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, 2)
    result = run(*QUICK)
    assert result.exit_code == 130 and "clean accuracy" in result.stdout
    assert result.stderr.strip().splitlines()[-1] == (
        "certnas: interrupted: 4 of 5 images are done and shown; "
        "with --out DIR they are kept and --resume continues"
    )


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_result(tmp_path: Path) -> None:
    """SIGKILL in the middle of the second batch, as a scheduler would."""
    assert run(*QUICK, "--out", tmp_path / "whole").exit_code == 0
    code = (
        "import os, signal, sys\n"
        "from certnas.certifier import batch\n"
        "honest, seen = batch.search_radii, []\n"
        "def killed(*a, **k):\n"
        "    seen.append(1)\n"
        "    return os.kill(os.getpid(), signal.SIGKILL) if len(seen) > 1 else honest(*a, **k)\n"
        "batch.search_radii = killed\n"
        "import torch; torch.set_num_threads(1)\n"
        "from cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, *QUICK, "--out", str(tmp_path / "part")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    assert len(rows(tmp_path / "part")) == 2
    result = run(*QUICK, "--out", tmp_path / "part", "--resume")
    assert result.exit_code == 0, result.stderr
    assert rows(tmp_path / "part") == rows(tmp_path / "whole")


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path) -> None:
    assert run(*QUICK, "--out", tmp_path).exit_code == 0
    before = (tmp_path / "results.json").read_bytes()
    refused = {
        (): f"{tmp_path} already holds results; continue them with --resume or choose another --out",
        ("--resume", "--norm", "l2"): f"cannot resume {tmp_path}: norm was linf, is l2; "
        "repeat the options or choose another --out",
        ("--resume", "--images", "6", "--seed", "1"): f"cannot resume {tmp_path}: images was 5, is 6, "
        "seed was 0, is 1; repeat the options or choose another --out",
    }
    for change, text in refused.items():
        result = run(*QUICK, "--out", tmp_path, *change)
        assert (result.exit_code, result.stderr) == (2, f"certnas: error: {text}\n")
    assert (tmp_path / "results.json").read_bytes() == before


def test_unsound_bounds_stop_the_run_and_leave_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = bounds.lower_bounds

    def unsound(network: Any, region: bounds.Region, *rest: Any, **options: Any) -> torch.Tensor:
        found = honest(network, region, *rest, **options)
        return (
            found.abs() + 1 if float(torch.as_tensor(region.eps).max()) > 0 else found
        )  # right at the images

    monkeypatch.setattr(bounds, "lower_bounds", unsound)
    result = run("certify", "--images", 2, "--out", tmp_path)
    assert result.exit_code == 1
    assert re.fullmatch(
        r"certnas: error: image \d+: the linf radius \S+ certified by crown exceeds an adversarial example "
        rf"at distance \S+; this is a bug in certnas, please report it with the evidence; evidence in "
        rf"{tmp_path}/evidence.npz\n",
        result.stderr,
    )
    with np.load(tmp_path / "evidence.npz", allow_pickle=False) as evidence:
        assert float(evidence["radius"]) > float(evidence["distance"])
        assert evidence["image"].shape == evidence["example"].shape == (1, 8, 8)


def nan_after_grey() -> Any:
    """A network that is finite on a grey image and not on a digit; opened by its name in a test below."""
    return Hole().eval()


class Hole(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = torch.nn.functional.max_pool2d(x, 8).flatten(1) - 0.6
        return x.flatten(1)[:, :10] + (-spread.relu() * 1e30).exp().log() * 1e30 * spread.relu()


def archive(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


REFUSED: dict[str, tuple[str, str]] = {
    "norm": ("--norm l3", "Invalid value for '--norm': 'l3' is not one of 'linf', 'l2', 'l1'."),
    "method": ("--method magic", "Invalid value for '--method': 'magic' is not one of 'ibp', 'crown-ibp', "),
    "slope": ("--slope steep", "Invalid value for '--slope': 'steep' is not one of 'adaptive', "),
    "owner": (
        "--method ibp --slope zero",
        "slope is not a setting of method ibp; it belongs to: crown-ibp, ",
    ),
    "iterations": (
        "--iterations 5",
        "iterations is not a setting of method crown; it belongs to: alpha-crown",
    ),
    "errors": (
        "--errors 5",
        "errors is not a setting of method crown; it belongs to: zonotope, zonotope+crown",
    ),
    "negative": ("--method zonotope --errors -3", "errors is -3; accepted: at least 0 error generators"),
    "step": ("--method alpha-crown --step -1", "alpha-crown: needs "),
    "eps": ("--eps-max -1/255", "eps-max is -0.00392157; accepted: a finite radius above 0, in input units "),
    "eps text": (
        "--eps-max small",
        "Invalid value for '--eps-max': 'small' is no number; accepted: a decimal ",
    ),
    "tol": ("--tol 2", "tol is 2; accepted: a relative tolerance from 1e-05 to 0.5"),
    "at": ("--at 0.1,-1", "--at holds -1; accepted: radii of at least 0"),
    "images": ("--images 0", "--images is 0; accepted: at least 1"),
    "memory": (
        "--memory lots",
        "Invalid value for '--memory': 'lots' is no size; accepted: bytes, or a number ",
    ),
    "device": ("--device abacus", "device 'abacus' cannot be used here ("),
    "data": ("--data imagenet", "data imagenet: unknown; accepted: digits, mnist, fashion-mnist, cifar10, "),
    "data file": ("--data none.npz", "data none.npz: no such file"),
    "model": (
        "no-such-net",
        "cannot open 'no-such-net'; accepted: an embedded network (digits-cnn, digits-cell)",
    ),
    "file": ("none.safetensors --arch resnet20", "cannot read 'none.safetensors': No such file or directory"),
    "resume": ("--resume", "--resume needs the folder to continue: add --out DIR"),
    "option": ("--epsilon 1", "No such option '--epsilon'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_clear_line(name: str) -> None:
    arguments, text = REFUSED[name]
    result = run("certify", "--no-attack", *arguments.split())
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith(f"certnas: error: {text}"), result.stderr
    assert result.stderr.count("\n") == 1


def test_no_command_and_a_wrong_one() -> None:
    result = run("certfy")
    assert result.exit_code == 2 and result.stderr.startswith("certnas: error: No such command 'certfy'.")
    assert run("--help").exit_code == 0 and run("--version").stdout == "certnas, version 0.1.0\n"


def test_images_of_another_shape_or_range(tmp_path: Path) -> None:
    x = np.zeros((4, 1, 9, 9), dtype=np.float32)
    result = run("certify", "--data", archive(tmp_path, x=x, y=np.arange(4)), "--images", 4)
    assert result.exit_code == 2 and result.stderr == (
        "certnas: error: 'digits-cnn' reads images of shape [1, 8, 8] (channels, height, width), "
        "the images have shape [1, 9, 9]\n"
    )
    x = np.full((4, 1, 8, 8), 7.0, dtype=np.float32)
    result = run("certify", "--data", archive(tmp_path, x=x, y=np.arange(4)), "--images", 4)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "[0, 1]" in result.stderr


def test_a_network_of_nan_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("certify", "test_cli:nan_after_grey", "--images", 2, "--no-attack")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert re.search(r"maps image \d+ to NaN or infinity; nothing can be certified for it", result.stderr)


def test_an_unwritable_folder_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 0)
    (tmp_path / "file").write_text("")
    for out, reason in ((tmp_path / "file", "file exists"), (tmp_path / "file" / "below", "not a directory")):
        result = run("certify", "--out", out)
        text = f"certnas: error: cannot write to {out}: {reason}; choose another folder with --out\n"
        assert (result.exit_code, result.stderr) == (2, text)


def test_the_help_names_every_method_and_slope() -> None:
    text = " ".join(run("certify", "--help").stdout.split())
    assert all(name in text for name in [*bounds.METHODS, *bounds.SLOPES, *bounds.NORMS])


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom cli import main\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("2K", 2048), ("1.5M", 3 << 19), ("4G", 4 << 30)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert Bytes().convert(text, None, None) == size


@pytest.mark.parametrize(("text", "value"), [("0.25", 0.25), ("8/255", 8 / 255), ("1e-3", 1e-3)])
def test_radii_are_read(text: str, value: float) -> None:
    assert NumberList().convert(f"{text}, {text}", None, None) == (value, value)
