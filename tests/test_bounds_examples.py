"""The examples in the docstrings of `bounds` run and show what they say."""

import doctest
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bounds
from bounds import methods, operators, region

VERBS: dict[str, Callable[..., Any]] = {
    "trace": bounds.trace,
    "bind": bounds.Graph.bind,
    "lower_bounds": bounds.lower_bounds,
    "output_bounds": bounds.output_bounds,
    "margins": bounds.margins,
    "register_operator": bounds.register_operator,
    "register_norm": bounds.register_norm,
    "register_method": bounds.register_method,
}


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Removes what an example registers."""
    held = [operators.RULES, operators.CHOSEN, region.NORMS, methods.METHODS]
    before = [dict(registry) for registry in held]
    yield
    for registry, entries in zip(held, before, strict=True):
        registry.clear()
        registry.update(entries)


def failures(name: str, function: Callable[..., Any], report: list[str]) -> doctest.TestResults:
    test = doctest.DocTestParser().get_doctest(function.__doc__ or "", {}, name, None, 0)
    return doctest.DocTestRunner(verbose=False).run(test, out=report.append)


@pytest.mark.parametrize("name", VERBS)
def test_the_example_of_a_public_function_runs(name: str) -> None:
    report: list[str] = []
    result = failures(name, VERBS[name], report)
    assert result.attempted > 0, f"{name} has no example"
    assert result.failed == 0, "".join(report)


def test_a_wrong_example_fails() -> None:
    def wrong() -> None:
        """>>> 1 + 1
        3
        """

    report: list[str] = []
    assert failures("wrong", wrong, report).failed == 1 and "3" in "".join(report)
