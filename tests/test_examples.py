"""The examples in the docstrings of the public functions run and print what they say."""

import doctest
import importlib

import pytest

MODULES = (
    "certnas.nas.metrics",
    "certnas.nas.search.searching",
)


@pytest.mark.parametrize("name", MODULES)
def test_an_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, raise_on_error=False)
    assert result.attempted > 0
    assert result.failed == 0
