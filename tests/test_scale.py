"""The projection of paper-sized runs: its arithmetic by hand, and the tables that docs/scale.md shows."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scale import Assumed, projected, tables  # noqa: E402

PLAIN = Assumed(single=1e12, double=5e11, evaluations=3, proofs=1, passes=0, start=0, write=0, images=100)


def counts(bound: float, per_unstable: float = 0.0) -> dict[str, Any]:
    method = {"multiplications": bound, "per_unstable": per_unstable}
    return {"network": 1e9, "crown-ibp": method, "crown": method, "alpha-crown": method}


def test_an_image_costs_its_bounds_and_its_attacks() -> None:
    """3 bounds at 10¹² and one at half of that: 2·(3 + 2) s an image; 7 rounds of 16 on one GPU, 2 on four."""
    found = projected(counts(1e12), "crown-ibp", 1, PLAIN)
    assert found.hours * 3600 == pytest.approx(7 * 16 * 10) and found.limit == "bounds"
    assert projected(counts(1e12), "crown-ibp", 4, PLAIN).hours * 3600 == pytest.approx(2 * 16 * 10)
    assert projected(counts(1e12), "crown", 8, PLAIN).hours * 3600 == pytest.approx(13 * 10)
    attacked = projected(counts(1e9), "crown", 1, replace(PLAIN, passes=1000))
    assert attacked.hours * 3600 == pytest.approx(100 * 2 * (0.005 + 1)) and attacked.limit == "attacks"


def test_settled_units_loading_and_writing() -> None:
    fifth = projected(counts(1e12, 1e12), "crown", 1, replace(PLAIN, unstable=0.2))
    assert fifth.hours * 3600 == pytest.approx(200)
    written = projected(counts(1e9), "crown", 64, replace(PLAIN, write=1.0))
    assert written.hours * 3600 == pytest.approx(50) and written.limit == "writing"
    assert projected(counts(1e9), "crown", 64, replace(PLAIN, start=9.0)).limit == "loading"


def test_the_page_shows_what_is_kept() -> None:
    entries = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text())["entries"]
    assert len(entries) == 14
    page = (ROOT / "docs" / "scale.md").read_text()
    for line in tables(entries, Assumed()):
        assert line in page
