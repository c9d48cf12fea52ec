"""Assertions about bounds for the test suites of other projects, also as a fixture of the pytest plugin.

    from certnas.testing import assert_bounds_sound, assert_matches_auto_lirpa

torch is imported at the first use of an assertion, not when pytest loads the plugin.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certnas.testing.assertions import assert_bounds_sound, assert_matches_auto_lirpa
    from certnas.testing.points import Reached, reached

_HOME = {
    "Reached": "points",
    "assert_bounds_sound": "assertions",
    "assert_matches_auto_lirpa": "assertions",
    "reached": "points",
}

__all__ = ["Reached", "assert_bounds_sound", "assert_matches_auto_lirpa", "reached"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
