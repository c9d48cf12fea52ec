"""What the benchmarks stand on: records that resume, radii that are put together again in order."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import bounds
from certnas.data import load
from certnas.errors import UserError
from certnas.models import open_model

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.certified import Question, batches, certify_batch, collect
from benchmarks.record import Record, measured


def forbidden() -> dict[str, Any]:
    raise AssertionError("an entry that is there was made again")


def test_a_finished_entry_is_not_made_again(tmp_path: Path) -> None:
    Record.open(tmp_path, "a", {"images": 2}).once(
        "key", lambda: {"ratio": 1.5, "radii": [float("inf"), 1.0]}
    )
    again = Record.open(tmp_path, "a", {"images": 2})
    entry = again.once("key", forbidden)
    assert entry["ratio"] == 1.5
    assert entry["radii"] == [None, 1.0]


def test_work_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    record = Record.open(tmp_path, "a", {})
    record.once("first", lambda: {"ratio": 1.0})
    before = record.path.read_bytes()
    with pytest.raises(AssertionError):
        record.once("second", forbidden)
    assert record.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_record_of_other_settings_is_refused(tmp_path: Path) -> None:
    Record.open(tmp_path, "a", {"eps": 1e-3}).once("key", lambda: {})
    with pytest.raises(UserError, match=r"'eps': 0\.001"):
        Record.open(tmp_path, "a", {"eps": 1e-4})


def test_measured_sees_time_and_memory() -> None:
    with measured() as small:
        pass
    with measured() as large:
        held = bytearray(b"x") * (1 << 28)
    assert len(held) == 1 << 28
    assert 0 <= small.seconds < large.seconds
    if sys.platform == "linux":
        assert large.peak_gib > small.peak_gib + 0.2


def test_radii_are_kept_batch_by_batch_in_the_images_order(tmp_path: Path) -> None:
    digits, model = load("digits", count=5), open_model("digits-cnn").module
    question = Question("digits-cnn", "linf", "crown", bounds.Crown())
    record = Record.open(tmp_path, "radii", {})
    assert collect(record, question) is None
    for batch in reversed(list(batches(2, 5))):
        certify_batch(record, question, model, digits.x, digits.y, batch)
    whole = Record.open(tmp_path, "whole", {})
    certify_batch(whole, question, model, digits.x, digits.y, (0, 5))
    parts, at_once = collect(record, question), collect(whole, question)
    assert parts is not None and at_once is not None
    assert parts.radius.tolist() == pytest.approx(at_once.radius.tolist(), rel=2e-3)
    assert parts.first(2).mean() == pytest.approx(parts.radius[:2][parts.correct[:2]].mean())
    stored = json.loads(record.path.read_text())["entries"]
    assert sorted(stored) == [f"{question.key} | {start}" for start in (0, 2, 4)]
