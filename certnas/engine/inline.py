"""Runs a job in this process, one item after another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from certnas.engine.job import Engine, Item, Job, Result


@dataclass(frozen=True)
class Inline(Engine):
    """Runs every item in this process."""

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], tell: Callable[[int, Any], None]
    ) -> Generator[tuple[int, Result], None, None]:
        work = job.open(0)
        for position, item in enumerate(items):
            yield position, work(item, partial(tell, position))
