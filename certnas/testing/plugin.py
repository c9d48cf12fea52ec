"""The pytest plugin, active wherever certnas is installed: a fixture `certnas_bounds` of the two assertions."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest


@dataclass(frozen=True)
class Checks:
    """assert_sound(model, x, region) and assert_matches_auto_lirpa(model, x, eps), with the test's own seed."""

    assert_sound: Callable[..., None]
    assert_matches_auto_lirpa: Callable[..., None]


@pytest.fixture
def certnas_bounds(request: pytest.FixtureRequest) -> Checks:
    """The assertions of `certnas.testing`, seeded by the test's name; without auto_LiRPA what needs it skips."""
    from certnas import testing

    seed = zlib.crc32(request.node.nodeid.encode())

    def matches(*args: object, **options: object) -> None:
        if importlib.util.find_spec("auto_LiRPA") is None:
            pytest.skip("auto_LiRPA is not installed")
        testing.assert_matches_auto_lirpa(*args, **{"seed": seed, **options})  # type: ignore[arg-type]

    return Checks(partial(testing.assert_bounds_sound, seed=seed), matches)
