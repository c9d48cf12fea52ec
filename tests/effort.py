"""How much a test run tries: a share of the cases in CI, chosen in turn, and all of them with CERTNAS_NIGHTLY=1."""

import os
from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")
NIGHTLY = os.environ.get("CERTNAS_NIGHTLY") == "1"


def examples(few: int, many: int) -> int:
    """How many random examples a test draws."""
    return many if NIGHTLY else few


def in_turn(cases: Sequence[T], name: str, turn: int = 0, count: int = 2) -> list[T]:
    """`count` of the cases, as far apart as they can be, from a place that name and turn decide; all at night.

    Different names begin at different places, and the next turn begins one place further on.
    """
    if NIGHTLY:
        return list(cases)
    first, step = crc32(name.encode()) + turn, len(cases) // count
    return [cases[(first + i * step) % len(cases)] for i in range(count)]
