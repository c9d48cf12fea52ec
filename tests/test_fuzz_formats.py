"""A few hundred mutated files of networks and properties: opened or refused on one line, none of their code run."""

from pathlib import Path

import pytest

from benchmarks.fuzz_formats import attempt, fuzz, seeds


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_opened_or_refused(tmp_path: Path) -> None:
    report = fuzz(360, 7, tmp_path)
    assert report["wrong"] == []
    assert report["files"] == 360
    # a test that refuses everything, or nothing, would test little
    outcomes = report["outcomes"]
    assert sum(counts.get("refused", 0) for counts in outcomes.values()) > 100
    assert sum(counts.get("opened", 0) for counts in outcomes.values()) > 20
    assert outcomes["pickle"].get("opened", 0) == outcomes["raw pickle"].get("opened", 0) == 0


@pytest.mark.filterwarnings("ignore")
def test_every_seed_but_the_malicious_ones_opens(tmp_path: Path) -> None:
    for name, (file, data, options) in seeds(tmp_path, tmp_path / "marker").items():
        path = tmp_path / file
        path.write_bytes(data)
        target = tmp_path / "net.safetensors" if name == ".json" else path
        ended, _ = attempt(target, options)
        assert ended == ("refused" if "pickle" in name else "opened"), name
    assert not (tmp_path / "marker").exists()
