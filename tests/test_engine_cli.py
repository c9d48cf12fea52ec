"""`--workers` and `--engine ray` as a user meets them: stopped, killed, continued, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import main

ROOT = Path(__file__).parents[1]
IMAGES = 30
ASKED = ("certify", "--images", str(IMAGES), "--batch-size", "1", "--no-attack", "--threads", "1")
ENGINES = {"processes": ("--workers", "2"), "ray": ("--engine", "ray", "--workers", "2")}


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", *ASKED, "--out", str(out), *more]


def started(out: Path, *more: str) -> subprocess.Popen[str]:
    """The run, once it has kept two batches."""
    process = subprocess.Popen(
        command(out, *more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=_interruptible,
    )  # fmt: skip
    until = time.monotonic() + 120
    while kept(out) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    return process


def _interruptible() -> None:
    """What a shell runs in the background ignores interrupts, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def kept(out: Path) -> int:
    table = out / "results.csv"
    return table.read_text().count("\n") - 1 if table.exists() else 0


def results(out: Path) -> tuple[list[str], dict[str, Any]]:
    """results.csv and results.json but for times."""
    record = json.loads((out / "results.json").read_text())
    for image in record["images"]:
        del image["seconds"]
    del record["summary"]["seconds_per_image"]
    return [line.rpartition(",")[0] for line in (out / "results.csv").read_text().splitlines()], record


def workers_of(pid: int) -> list[int]:
    """The processes that it started and that answer `certnas` jobs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            words = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and b"spawn_main" in words:
            found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def complete(out: Path, *more: str) -> None:
    """The whole run, from this process."""
    result = CliRunner().invoke(main, command(out, *more)[3:], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    complete(out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupt_loses_no_finished_batch(one: Path, tmp_path: Path, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    process = started(tmp_path / "run", *ENGINES[engine])
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "continue with --resume" in told.splitlines()[-1] and "Traceback" not in told
    assert 2 <= kept(tmp_path / "run") < IMAGES
    complete(tmp_path / "run", "--resume", *ENGINES[engine])
    assert results(tmp_path / "run") == results(one)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_a_kill_leaves_no_process_and_what_was_finished(one: Path, tmp_path: Path) -> None:
    process = started(tmp_path / "run", "--workers", "2")
    workers = workers_of(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)  # its shard is worked on again
    before = kept(tmp_path / "run")
    while kept(tmp_path / "run") == before:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    until = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    complete(tmp_path / "run", "--resume")
    assert results(tmp_path / "run") == results(one)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workers", "0"), "workers is 0; accepted: at least 1"),
        (("--address", "head:6379"), "--address head:6379 belongs to a Ray cluster; add --engine ray"),
        (("--engine", "ray", "--address", "127.0.0.1:9"), "no Ray cluster answers at 127.0.0.1:9"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    if "ray" in options:
        pytest.importorskip("ray")
    result = CliRunner().invoke(main, [*ASKED, *options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
