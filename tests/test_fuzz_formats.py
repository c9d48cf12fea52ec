"""A few hundred malformed files of every format: opened or refused on one line, none of their code run."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from benchmarks import fuzz_formats
from benchmarks.fuzz_formats import attempt, contents, fuzz, outcomes
from benchmarks.fuzz_kinds import Kind, kinds

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def test_malformed_files_are_opened_or_refused(tmp_path: Path) -> None:
    report = fuzz(360, 7, tmp_path)
    assert report["wrong"] == []
    found = report["outcomes"]
    # a test that refuses everything, or nothing, would test little
    assert sum(counts.get("refused", 0) for counts in found.values()) > 150
    assert sum(counts.get("opened", 0) for counts in found.values()) > 30
    assert found["pickle"].get("opened", 0) == found["raw pickle"].get("opened", 0) == 0


def test_every_good_file_but_the_malicious_ones_opens(tmp_path: Path) -> None:
    for name, kind in kinds(tmp_path, tmp_path / "marker").items():
        assert attempt(kind)["ended"] == ("refused" if "pickle" in name else "opened"), name
    assert not (tmp_path / "marker").exists()


def one_kind(tmp_path: Path, opener: Callable[[], object]) -> dict[str, Kind]:
    (tmp_path / "a").write_bytes(b"{}")
    return {"a": Kind("a", b"{}", opener)}


def test_a_traceback_a_hang_and_a_death_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_formats, "SECONDS", 0.2)

    def broken() -> None:
        raise KeyError("planted")

    def hang() -> None:
        while True:
            pass

    for opener, word in ((broken, "KeyError"), (hang, "not done"), (lambda: os._exit(7), "ended with 7")):
        found = list(outcomes(2, 0, one_kind(tmp_path, opener), tmp_path))
        assert len(found) == 2 and all(word in line["ended"] for line in found)


def test_memory_has_a_limit(tmp_path: Path) -> None:
    found = list(outcomes(1, 0, one_kind(tmp_path, lambda: bytearray(1 << 35)), tmp_path))
    assert found[0]["ended"].startswith("MemoryError")


def test_a_number_makes_the_same_file_again(tmp_path: Path) -> None:
    kind = replace(kinds(tmp_path, tmp_path / "marker")[".onnx"])
    assert contents(kind, Random("0 1")) == contents(kind, Random("0 1")) != contents(kind, Random("0 2"))
