"""The benchmark of the published genotypes: processes that are stopped, refusals tried again, a small entry."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import darts_questions
from benchmarks.darts_nets import Run, picture, tables
from benchmarks.record import Record
from benchmarks.watched import Watched

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the memory of a process")


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched(threads=1, gib=1.0)
    yield made
    made.close()


def held(gib: float) -> dict[str, Any]:
    block = bytearray(b"x") * int(gib * 2**30)
    time.sleep(0.5)
    return {"bytes": len(block)}


def failing() -> dict[str, Any]:
    raise ValueError("two\nlines")


def slept(seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return {"slept": seconds}


def test_a_question_beyond_its_limits_is_stopped_and_the_next_one_answered(watched: Watched) -> None:
    assert watched.ask(60, slept, 0)["slept"] == 0
    assert watched.ask(0.3, slept, 60)["refused"] == "not done after 0.3 s"
    assert watched.ask(60, failing)["refused"] == "ValueError: two lines"
    assert watched.ask(60, os._exit, 3)["refused"] == "its process ended"
    assert watched.ask(60, slept, 0)["slept"] == 0


@linux
def test_memory_is_told_and_limited(watched: Watched) -> None:
    watched.ask(60, slept, 0)
    assert watched.ask(60, held, 0.25)["gib"] == pytest.approx(0.25, abs=0.05)
    assert watched.ask(60, slept, 0)["gib"] == pytest.approx(0, abs=0.05)
    assert watched.ask(60, held, 1.5)["refused"] == "more than 1 GiB"


class Answers:
    """In the place of a watched process: what each question's work is answered with, in turn."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.asked = list(answers), 0

    def ask(self, seconds: float, work: Any, *arguments: Any) -> dict[str, Any]:
        self.asked += 1
        return self.answers.pop(0)


def run(folder: Path, limit: float, *answers: dict[str, Any]) -> tuple[Run, Answers]:
    asked: Any = Answers(*answers)
    return Run(Record.open(folder, "darts_nets", {}), asked, "cpu", limit), asked


COUNTS = {"multiplications": {"crown": 1e9}}


def test_what_was_refused_under_a_lower_limit_is_tried_again(tmp_path: Path) -> None:
    low, _ = run(tmp_path, 10)
    assert low.once("key", lambda: {"refused": "not done after 10 s"})["limit"] == 10
    same, _ = run(tmp_path, 10)
    assert "refused" in same.once("key", lambda: {"seconds": 1.0})
    high, _ = run(tmp_path, 60)
    assert high.once("key", lambda: {"seconds": 12.0})["seconds"] == 12
    kept, _ = run(tmp_path, 600)
    assert kept.once("key", lambda: {"seconds": 13.0})["seconds"] == 12


def test_a_bound_far_beyond_the_limit_is_predicted_and_not_run(tmp_path: Path) -> None:
    """Ten seconds for 10⁹ multiplications: 500 s for 5·10¹⁰, more than twice the limit."""
    one, _ = run(tmp_path, 100, COUNTS, {"seconds": 12.0, "cpu_seconds": 10.0})
    one.once("A | 8,4 | crown | bound", lambda: one.bound("A", "8,4", "crown"))
    large = {"multiplications": {"crown": 5e10}}
    two, asked = run(tmp_path, 100, large)
    assert two.bound("A", "36,20", "crown") == {"refused": "not run: predicted 5e+02 s"}
    assert asked.asked == 1
    three, asked = run(tmp_path, 300, large, {"seconds": 480.0})
    assert three.bound("A", "36,20", "crown") == {"seconds": 480.0, "multiplications": 5e10}


def test_a_radius_waits_for_its_bound(tmp_path: Path) -> None:
    one, asked = run(tmp_path, 100, COUNTS, {"radius": 0.1})
    assert one.radius("A", "8,4", "crown", {"refused": "its process ended"}) == {
        "refused": "its process ended"
    }
    assert one.radius("A", "8,4", "crown", {"seconds": 30.0, "cpu_seconds": 20.0}) == {
        "refused": "not run: predicted 4e+02 s"
    }
    assert asked.asked == 0
    assert one.radius("A", "8,4", "crown", {"seconds": 3.0, "cpu_seconds": 2.0}) == {"radius": 0.1}


def test_a_small_entry_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CROWN's bounds of a real network hold the points and are tighter than intervals, and so is its radius."""
    monkeypatch.setattr(darts_questions, "SIZES", {"8,4": (2, 2)})
    monkeypatch.setattr(darts_questions, "SHAPE", (3, 6, 6))
    darts_questions.subject.cache_clear()
    record = Record.open(tmp_path, "darts_nets", {})
    for method in ("ibp", "crown"):
        asked = ("DARTS_V2", "8,4", "cpu", method)
        for what, work in (("bound", darts_questions.bounded), ("radius", darts_questions.certified)):
            record.once(f"DARTS_V2 | 8,4 | {method} | {what}", lambda work=work, asked=asked: work(*asked))
    counts = darts_questions.opened("DARTS_V2", "8,4", "cpu")["multiplications"]
    darts_questions.subject.cache_clear()
    bound = {method: record.entries[f"DARTS_V2 | 8,4 | {method} | bound"] for method in ("ibp", "crown")}
    radius = {
        method: record.entries[f"DARTS_V2 | 8,4 | {method} | radius"]["radius"] for method in ("ibp", "crown")
    }
    assert all(entry["finite"] and entry["inside"] and entry["runs"] == 5 for entry in bound.values())
    assert bound["crown"]["ratio"] < bound["ibp"]["ratio"]
    assert 0 < radius["ibp"] < radius["crown"]
    assert counts["ibp"] < counts["crown-ibp"] < counts["crown"]
    (table, said) = tables(record, ["DARTS_V2", "RACL"])
    assert table.row_count == 1 and said.row_count == 0
    assert picture(record, ["DARTS_V2"]).startswith(b"\x89PNG")
