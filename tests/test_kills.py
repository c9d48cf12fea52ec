"""Commands that are killed and go on; what cannot go on is found."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from benchmarks import kill_jobs, kills
from benchmarks.kill_jobs import Job, contents, run
from benchmarks.kills import differences, disturbed, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


KILLED = """
import json, sys
from pathlib import Path
from random import Random
from benchmarks.kill_jobs import jobs
from benchmarks.kills import disturbed, undisturbed

folder = Path(sys.argv[1])
job = jobs(folder / "inputs")["verify"]
whole, seconds = undisturbed(job, folder / "whole")
found = [disturbed(job, whole, seconds, Random(number), folder / str(number)) for number in range(3)]
print(json.dumps({"whole": sorted(whole), "found": found}))
"""
"""What the next test asks, in a process of its own: one that computed derivatives cannot be forked."""


def test_a_list_of_properties_that_is_killed_comes_to_the_same(tmp_path: Path) -> None:
    asked = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=500)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert "results.csv" in said["whole"] and any(name.startswith("proofs/") for name in said["whole"])
    for found in said["found"]:
        assert found["faults"] == [] and found["kills"]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Job:
    """A command that writes one file in two parts, and takes what stands there for the whole."""

    def command(words: list[str]) -> None:
        import time

        path = Path(words[0]) / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("[1]")
            time.sleep(1.5)
            path.write_text("[1, 2]")
        sys.exit(0)

    monkeypatch.setattr(kill_jobs, "main", command)
    return Job(("{out}",))


def test_a_state_that_cannot_be_continued_is_found(tmp_path: Path, forgetful: Job) -> None:
    whole, seconds = undisturbed(forgetful, tmp_path / "whole")
    faults = [disturbed(forgetful, whole, seconds, Random(n), tmp_path / str(n))["faults"] for n in range(4)]
    assert any("result.json differs" in fault for found in faults for fault in found)


def test_a_traceback_after_a_signal_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(words: list[str]) -> None:
        try:
            signal.pause()
        except KeyboardInterrupt as error:
            raise ValueError("planted") from error

    monkeypatch.setattr(kill_jobs, "main", command)
    ended = run([], tmp_path, after=0.5, by=signal.SIGINT)
    assert len(kills._faults(ended, signal.SIGINT)) == 2
    assert "planted" in ended.err


def test_times_do_not_count_and_all_else_does(tmp_path: Path) -> None:
    for name, seconds, value in (("a", 1.0, 2), ("b", 3.0, 2), ("c", 1.0, 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text(f'{{"seconds": {seconds}, "value": {value}}}')
    seen = {name: contents(tmp_path / name) for name in "abc"}
    assert differences(seen["a"], seen["b"]) == []
    assert differences(seen["a"], seen["c"]) == ["x.json differs"]
    assert differences(seen["a"], {}) == ["x.json is missing or one too many"]
