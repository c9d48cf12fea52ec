"""The pytest plugin with the fixture `certnas_bounds`; it is active wherever certnas is installed."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest


@dataclass(frozen=True)
class Checks:
    """The assertions of `certnas.testing`, with the seed of the current test."""

    assert_sound: Callable[..., None]
    """`assert_bounds_sound(model, x, region)`."""
    assert_matches_auto_lirpa: Callable[..., None]
    """`assert_matches_auto_lirpa(model, x, eps)`."""


@pytest.fixture
def certnas_bounds(request: pytest.FixtureRequest) -> Checks:
    """The assertions of `certnas.testing`, seeded by the test's name.

    Without auto_LiRPA, a comparison with it skips the test.
    """
    from certnas import testing

    seed = zlib.crc32(request.node.nodeid.encode())

    def matches(*args: object, **options: object) -> None:
        if importlib.util.find_spec("auto_LiRPA") is None:
            pytest.skip("auto_LiRPA is not installed")
        testing.assert_matches_auto_lirpa(*args, **{"seed": seed, **options})  # type: ignore[arg-type]

    return Checks(partial(testing.assert_bounds_sound, seed=seed), matches)
