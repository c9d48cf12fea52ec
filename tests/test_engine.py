"""Engines: the same results as one process, whatever dies; the cluster is a real one, of two nodes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

import certnas
from certnas.certifier import Certificates, SoundnessError
from certnas.certifier.certification import Certification, ImageBatch, batches, certification
from certnas.certifier.results import Folder
from certnas.certifier.soundness import Evidence
from certnas.data import load
from certnas.engine import Engine, Inline, Job, Tell, open_engine, worker_device
from certnas.engine.processes import Processes
from certnas.engine.ray import Ray
from certnas.errors import UserError
from certnas.models import open_model

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Starts a Ray cluster of two nodes, with one worker each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(params=["processes", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "processes":
        return Processes(2)
    return Ray(address=request.getfixturevalue("address"))


@dataclass(frozen=True)
class Square(Job[int, int]):
    """n², leaving a file for each item begun; `dies` kills the process (once only where a life is left)."""

    folder: Path
    dies: int = -1
    lives: int = 1
    fails: int = -1

    def open(self, rank: int) -> Callable[[int, Tell], int]:
        return self.work

    def work(self, item: int, tell: Tell) -> int:
        (self.folder / f"{item}-{time.time_ns()}-{os.getpid()}").touch()
        if item == self.dies and len(list(self.folder.glob(f"{item}-*"))) <= self.lives:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.fails:
            raise SoundnessError(
                Evidence(item, 1, "l2", "crown", np.ones(2), np.zeros(2), 2.0, 1.0, 0.1, -0.1)
            )
        return item**2


def all_of(engine: Engine, job: Job[int, int], items: range) -> dict[int, int]:
    with closing(engine.run(job, items, lambda *_: None)) as results:
        return dict(results)


def began(folder: Path) -> int:
    return len(list(folder.iterdir()))


def test_a_killed_worker_loses_nothing(engine: Engine, tmp_path: Path) -> None:
    got = all_of(engine, Square(tmp_path, dies=3, lives=2), range(6))
    assert got == {n: n**2 for n in range(6)}
    assert len(list(tmp_path.glob("3-*"))) == 3


def test_a_worker_that_dies_again_and_again(engine: Engine, tmp_path: Path) -> None:
    got: dict[int, int] = {}
    with (
        pytest.raises(UserError, match=r"3 workers died on 2\b.*--resume") as told,
        closing(engine.run(Square(tmp_path, dies=2, lives=99), range(4), lambda *_: None)) as results,
    ):
        for position, result in results:
            got[position] = result
    assert "\n" not in str(told.value) and {0, 1} <= set(got) and 2 not in got
    assert len(list(tmp_path.glob("2-*"))) == 3


def test_what_the_job_raises_is_raised_here(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SoundnessError, match="image 1: the l2 radius 2") as told:
        all_of(engine, Square(tmp_path, fails=1), range(3))
    assert told.value.evidence.image.tolist() == [1, 1]


def test_work_pauses_while_nobody_takes_results(engine: Engine, tmp_path: Path) -> None:
    with closing(engine.run(Square(tmp_path), range(40), lambda *_: None)) as results:
        next(results)
        before = began(tmp_path)
        while (now := began(tmp_path)) != before or time.sleep(0.7) or began(tmp_path) != now:
            before = now
        assert now <= 5


def test_closing_ends_the_processes(tmp_path: Path) -> None:
    with closing(Processes(2).run(Square(tmp_path), range(9), lambda *_: None)) as results:
        next(results)
    for pid in {int(path.name.split("-")[2]) for path in tmp_path.iterdir()}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_closing_leaves_tasks_to_the_end_of_the_connection(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled task whose result is under way would end this process; SIGTERM means what it meant before."""
    ray, before = pytest.importorskip("ray"), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "cancel", lambda *_, **__: pytest.fail("a task was cancelled"))
    with closing(Ray(address=address).run(Square(tmp_path), range(40), lambda *_: None)) as results:
        next(results)
        assert signal.getsignal(signal.SIGTERM) is before
    until = time.monotonic() + 60
    left = {int(path.name.split("-")[2]) for path in tmp_path.iterdir()}
    while left := {pid for pid in left if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < until, left
        time.sleep(0.05)
    assert began(tmp_path) < 40


def test_a_cluster_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")

    def init(*_: Any, **__: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Exception("The node timed out\nduring startup.")

    monkeypatch.setattr(ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        UserError, match=r"no Ray cluster on this machine \(The node timed out during startup"
    ):
        all_of(Ray(workers=1), Square(tmp_path), range(2))
    assert signal.getsignal(signal.SIGTERM) is before


@dataclass(frozen=True)
class Deadly(Job[ImageBatch, Certificates]):
    """Certification whose process is killed in the middle of the second batch, once."""

    inner: Certification
    mark: Path

    def open(self, rank: int) -> Callable[[ImageBatch, Tell], Certificates]:
        certify = self.inner.open(rank)

        def work(batch: ImageBatch, tell: Tell) -> Certificates:
            def deadly(stage: Any) -> None:
                if stage.stage == "prove" and batch.index[0] == 2 and not self.mark.exists():
                    self.mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)

            return certify(batch, deadly)

        return work


@pytest.fixture(scope="module")
def certified() -> Certificates:
    """Three digits in batches of two, by one process."""
    data, model = load("digits", count=3, seed=0), open_model("digits-cnn").module
    return certnas.certify(model, data.x, data.y, batch_size=2, method="zonotope")


@pytest.mark.slow
def test_certificates_are_those_of_one_process(
    engine: Engine, certified: Certificates, tmp_path: Path
) -> None:
    data, model = load("digits", count=3, seed=0), open_model("digits-cnn").module
    job = Deadly(certification(model, data.x, data.y, method="zonotope"), tmp_path / "killed")
    parts = batches(data.x, data.y, range(3), 2)
    with closing(engine.run(job, parts, lambda *_: None)) as results:
        got = [part for _, part in sorted(results, key=lambda pair: pair[0])]
    assert (tmp_path / "killed").exists()
    same(Certificates.join(got), certified)


def same(got: Certificates, expected: Certificates) -> None:
    assert (got.norm, got.method, got.status, got.notes) == (
        expected.norm,
        expected.method,
        expected.status,
        expected.notes,
    )
    for name in ("index", "label", "prediction", "radius_lower", "radius_upper", "evaluations"):
        assert getattr(got, name).tobytes() == getattr(expected, name).tobytes(), name


def test_certify_takes_an_engine() -> None:
    data, model = load("digits", count=3, seed=1), open_model("digits-cnn").module
    asked: dict[str, Any] = {"batch_size": 1, "method": "ibp", "attack": False}
    expected = certnas.certify(model, data.x, data.y, **asked)
    same(certnas.certify(model, data.x, data.y, engine=Processes(2), **asked), expected)


def test_a_folder_takes_batches_in_any_order(tmp_path: Path) -> None:
    data, model = load("digits", count=5, seed=0), open_model("digits-cnn").module
    parts: list[Certificates] = []
    index = data.index.tolist()
    asked: dict[str, Any] = {"method": "ibp", "attack": False, "batch_size": 2, "index": index}
    expected = certnas.certify(model, data.x, data.y, on_batch=parts.append, **asked)
    folder = Folder.open(tmp_path, {}, index, resume=False)
    folder.append(parts[2])
    folder.append(parts[0])
    assert folder.left() == [2, 3]
    again = Folder.open(tmp_path, {}, index, resume=True)
    assert again.left() == [2, 3]
    again.append(parts[1])
    assert again.done is not None and again.left() == []
    same(again.done, expected)
    with pytest.raises(UserError, match="other images"):
        Folder.open(tmp_path, {}, index[1:], resume=True)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no worker": ({"workers": 0}, "workers is 0; accepted: at least 1"),
    "unknown": ({"name": "slurm"}, "engine 'slurm' is unknown; accepted: processes, ray"),
    "address of processes": ({"address": "a:1"}, "--address a:1 .* --engine ray"),
    "no address": ({"name": "ray", "address": "nowhere"}, "'nowhere'; accepted: host:port"),
    "port": ({"name": "ray", "address": "localhost:99999"}, "no Ray cluster answers at localhost:99999"),
    "nobody there": ({"name": "ray", "address": "127.0.0.1:9"}, "no Ray cluster answers at 127.0.0.1:9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    if "ray" in REFUSED[case][0].values():
        pytest.importorskip("ray")
    asked, told = REFUSED[case]
    with pytest.raises(UserError, match=told) as error:
        open_engine(**asked)
    assert "\n" not in str(error.value)


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"ray is not installed; .*certnas\[ray\]"):
        open_engine("ray")


def test_a_network_that_cannot_be_sent() -> None:
    @dataclass(frozen=True)
    class Local(Job[int, int]):
        lock: Any

        def open(self, rank: int) -> Callable[[int, Tell], int]:
            raise AssertionError

    with pytest.raises(UserError, match="cannot be sent to other processes"):
        all_of(Processes(2), Local((lambda: (yield))()), range(2))


def test_one_worker_is_this_process(tmp_path: Path) -> None:
    assert isinstance(open_engine(workers=1), Inline) and isinstance(open_engine(), Inline)
    all_of(Inline(), Square(tmp_path), range(2))
    assert {path.name.split("-")[2] for path in tmp_path.iterdir()} == {str(os.getpid())}


def test_workers_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(worker_device(torch.device("cuda"), rank)) for rank in range(3)] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
    ]
    assert (
        str(worker_device(torch.device("cuda:1"), 0)) == "cuda:1"
        and str(worker_device(torch.device("cpu"), 1)) == "cpu"
    )
