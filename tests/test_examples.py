"""The examples in the docstrings of the public functions run and print what they say."""

import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest

MODULES = (
    "certnas.crosscheck.comparison",
    "certnas.data",
    "certnas.models.opening",
    "certnas.nas.metrics",
    "certnas.nas.search.searching",
    "certnas.nas.space.files",
    "certnas.testing.assertions",
    "certnas.training.recipe",
    "certnas.training.training",
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name.startswith("certnas.crosscheck") and importlib.util.find_spec("auto_LiRPA") is None:
        pytest.skip("auto_LiRPA is not installed")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
