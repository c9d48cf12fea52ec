"""A search as a user meets it: its folder, a kill, Ctrl-C, what is refused, several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from certnas.nas.search import SearchConfig, SearchProgress, open_data, search
from certnas.nas.space import Genotype, read_genotype
from certnas.runs import from_table, merged, read_toml, to_toml
from cli.main import main

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "data": {"images": 48, "crop": 1},
    "supernet": {"channels": 4, "layers": 2, "nodes": 2, "reductions": [1]},
    "alpha": {"lr": 0.1},
    "metric": {"name": "jacobian", "scale_free": True, "options": {"projections": 1}},
}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(to_toml(TINY))
    return tmp_path / "tiny.toml"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["search", *map(str, arguments)])


def log(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock decides."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def refused(result: Result, said: str) -> None:
    assert result.exit_code == 2, result.output
    assert said in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.output


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("tables", "at", "every"),
    [
        ({}, 4, None),
        ({"algorithm": {"name": "pc-darts"}, "metric": {"name": "pgd", "options": {"steps": 2}}}, 5, 2),
        ({"algorithm": {"name": "darts", "options": {"order": 2}}, "metric": {"name": "none"}}, 5, 1),
        pytest.param({"metric": {"name": "cb", "options": {"images": 4}}}, 5, 2, marks=pytest.mark.slow),
    ],
)
def test_a_search_that_was_killed_ends_as_one_that_was_not(
    tmp_path: Path, tables: dict[str, Any], at: int, every: int | None
) -> None:
    """Killed between two states; the log, to the last figure, is that of a search never killed."""
    config = from_table(SearchConfig, merged(TINY, tables))
    data = open_data(config)

    def killed(progress: SearchProgress) -> None:
        if progress.step == at:
            raise Killed

    whole = search(config, data, out=tmp_path / "whole", pictures=False)
    with pytest.raises(Killed):
        search(config, data, out=tmp_path / "parts", progress=killed, checkpoint_every=every, pictures=False)
    seen: list[int] = []
    parts = search(
        config,
        data,
        out=tmp_path / "parts",
        resume=True,
        progress=lambda progress: seen.append(progress.step),
    )
    assert seen[0] == {None: 4, 2: 5, 1: 5}[every] and seen[-1] == 9
    assert parts.genotype == whole.genotype == read_genotype(tmp_path / "parts" / "genotype.json")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")
    again = search(
        config, data, out=tmp_path / "parts", resume=True, pictures=False
    )  # what is finished stays so
    assert again.genotype == whole.genotype and log(tmp_path / "parts") == log(tmp_path / "whole")


def searching(*arguments: object) -> list[str]:
    """The command of a search in a process of its own, without pictures."""
    return [sys.executable, "-m", "cli.main", "search", "--no-pictures", *map(str, arguments)]


@pytest.mark.slow
def test_sigkill_and_resume_give_the_same_genotype(tmp_path: Path, tiny: Path) -> None:
    threads = ("--threads", "1")  # sums of another number of threads are rounded otherwise
    assert run("--config", tiny, "--out", tmp_path / "whole", "--no-pictures", *threads).exit_code == 0
    command = searching("--config", tiny, "--out", tmp_path / "parts", *threads)
    process = subprocess.Popen([*command, "--checkpoint-every", "2"], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "parts" / "last.pt")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "parts" / "genotype.json").exists()
    result = run("--out", tmp_path / "parts", "--resume", "--no-pictures", *threads)
    assert result.exit_code == 0, result.stderr
    assert genotype(tmp_path / "parts") == genotype(tmp_path / "whole")
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_step_it_came_in(tmp_path: Path, tiny: Path, number: int) -> None:
    out = tmp_path / "run"
    command = searching("--config", tiny, "--out", out, "--epochs", "300")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(out / "last.pt")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == (
        f"certnas: interrupted: the state is kept in {out}; continue with --out {out} --resume"
    )
    steps = [line["step"] for line in log(out) if line["kind"] == "step"]
    result = run("--out", out, "--resume", "--epochs", "301")
    refused(
        result, f"cannot resume {out}: epochs was 300, is 301; repeat the options or choose another --out"
    )
    assert [line["step"] for line in log(out) if line["kind"] == "step"] == steps


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name} in two minutes"
        time.sleep(0.02)


def genotype(folder: Path) -> Any:
    return read_genotype(folder / "genotype.json")


def test_the_folder_holds_all_there_is_to_know(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "run"
    options = (
        "--metric",
        "none",
        "--epochs",
        "2",
        "--set",
        "weights.lr=0.05",
        "--channels",
        "6",
        "--seed",
        "3",
    )
    result = run("--config", tiny, "--out", out, *options)
    assert result.exit_code == 0, result.stderr
    assert "epoch 2/2" in result.stderr and f"wrote genotype.json to {out}" in result.stdout
    found = genotype(out)
    assert isinstance(found, Genotype) and f"{found.normal[0][0]} ({found.normal[0][1]})" in result.stdout
    config = read_toml(out / "config.toml")
    assert (config["epochs"], config["seed"], config["weights"]["lr"]) == (2, 3, 0.05)
    assert (config["supernet"]["channels"], config["supernet"]["layers"]) == (6, 2)
    assert config["metric"]["name"] == "none" and config["weights"]["momentum"] == 0.9
    assert len(config["data"]["mean"]) == 1 and config["data"]["crop"] == 1
    lines = log(out)
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert len(epochs) == 2 and epochs[0]["lr"] == 0.05 and epochs[1]["lr"] == pytest.approx(0.0255)
    assert epochs[1]["loss"] == pytest.approx(sum(line["loss"] for line in lines[4:7]) / 3)
    assert epochs[1]["genotype"]["normal"] == [list(edge) for edge in found.normal]
    for name in ("alpha-001.png", "alpha-002.png", "cells-001.png", "cells-002.png"):
        with Image.open(out / "pictures" / name) as picture:
            picture.verify()
    assert list((out / "tensorboard").iterdir())


def test_later_settings_win(tmp_path: Path, tiny: Path) -> None:
    options = (
        "--preset",
        "advrush",
        "--config",
        tiny,
        "--data",
        "digits",
        "--algo",
        "random",
        "--epochs",
        "7",
    )
    result = run("--out", tmp_path / "run", *options, "--set", "epochs=8")
    assert result.exit_code == 0, result.stderr
    config = read_toml(tmp_path / "run" / "config.toml")
    assert (config["epochs"], config["batch_size"], config["metric"]["name"]) == (8, 8, "jacobian")
    assert (config["algorithm"]["name"], config["data"]["name"]) == ("random", "digits")
    assert (
        config["metric"]["options"]["projections"] == 1 and "images" not in config["data"]
    )  # another name, all anew


def test_small_images_get_a_small_supernet_unless_a_preset_asks(tmp_path: Path) -> None:
    plain = ("--algo", "random", "--data", "digits", "--nodes", "2")
    assert run(*plain, "--out", tmp_path / "plain").exit_code == 0
    assert run(*plain, "--preset", "darts", "--out", tmp_path / "paper").exit_code == 0
    sizes = [read_toml(tmp_path / name / "config.toml")["supernet"] for name in ("plain", "paper")]
    assert [tuple(s[k] for k in ("channels", "layers", "nodes")) for s in sizes] == [(8, 3, 2), (16, 8, 2)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "dsrna"), "'dsrna' is not one of 'darts', 'pc-darts', 'dsrna-cb'"),
        (("--algo", "enas"), "'enas' is not one of 'darts', 'pc-darts', 'random'"),
        (("--metric", "lipschitz"), "'lipschitz' is not one of 'none', 'cb'"),
        (("--gamma", "-0.1"), "metric.gamma: got -0.1; give 0 or more"),
        (("--images", "12"), "12 images split into 6 and 6, too few for batches of 8"),
        (("--set", "supernet.reductions=[0,1,2,3]", "--layers", "4"), "can be halved 3 times"),
        (("--set", "epochs"), "setting 'epochs': is not KEY=VALUE"),
        (
            ("--set", "weights.learning_rate=1"),
            "weights.learning_rate: no such setting; accepted: lr, lr_min",
        ),
        (("--config", "nowhere.toml"), "configuration nowhere.toml: cannot be read"),
        (("--data", "nowhere"), "data nowhere: unknown; accepted: digits"),
        (("--preset", "darts", "--data", "cifar10"), "data cifar10: needs the folder with its files"),
        (("--device", "cuda:99"), "device 'cuda:99' cannot be used here"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, tiny: Path, arguments: tuple[str, ...], said: str) -> None:
    base = () if "--config" in arguments or "cifar10" in arguments else ("--config", tiny)
    refused(run(*base, *arguments, "--out", tmp_path / "run"), said)


def test_folders_are_refused(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "run"
    assert run("--config", tiny, "--algo", "random", "--out", out).exit_code == 0
    refused(
        run("--config", tiny, "--algo", "random", "--out", out),
        "already holds a run; continue it with --resume",
    )
    said = f"cannot resume {out}: alpha.lr was 0.1, is 0.2, seed was 0, is 4; repeat the options"
    refused(run("--out", out, "--resume", "--set", "alpha.lr=0.2", "--seed", "4"), said)
    refused(run("--config", tiny), "Missing option '--out'")


def test_a_loss_that_is_not_finite_is_one_line(tmp_path: Path, tiny: Path) -> None:
    options = ("--set", "weights.lr=1e35", "--set", "weights.clip=1e35", "--metric", "none")
    result = run("--config", tiny, "--out", tmp_path / "run", *options, "--checkpoint-every", "1")
    assert result.exit_code == 2 and result.stderr.splitlines()[-1].startswith("certnas: error: ")
    assert "is not finite at epoch 1, step" in result.stderr and "lower weights.lr" in result.stderr


def launch(folder: Path, config: Path, processes: int) -> list[int]:
    """Exit codes of one search over so many processes, started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
    }
    command = searching("--config", config, "--out", folder)
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]  # fmt: skip
    return [process.wait(timeout=300) for process in started]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "metric"),
    [
        ({"name": "darts", "options": {"order": 2}}, {"name": "none"}),
        ({"name": "pc-darts"}, {"name": "curvature", "options": {}}),
    ],
)
def test_two_processes_find_what_one_finds(
    tmp_path: Path, algorithm: dict[str, Any], metric: dict[str, Any]
) -> None:
    """The same global batch, and exact arithmetic up to rounding: figures agree, so do the genotypes."""
    config = tmp_path / "two.toml"
    sizes = {"epochs": 1, "data": {"images": 32}, "supernet": {"nodes": 1}}
    config.write_text(to_toml(merged(TINY, {"algorithm": algorithm, "metric": metric, **sizes})))
    assert run("--config", config, "--out", tmp_path / "one", "--no-pictures").exit_code == 0
    assert launch(tmp_path / "two", config, 2) == [0, 0]
    assert genotype(tmp_path / "one") == genotype(tmp_path / "two")
    steps = [[line for line in log(tmp_path / name) if line["kind"] == "step"] for name in ("one", "two")]
    assert len(steps[0]) == len(steps[1]) == 2
    for one, two in zip(*steps, strict=True):
        del one["kind"], two["kind"]
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
