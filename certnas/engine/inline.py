"""One item after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from certnas.engine.job import Engine, Item, Job, Result


@dataclass(frozen=True)
class Inline(Engine):
    """No process but this one."""

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], tell: Callable[[int, Any], None]
    ) -> Generator[tuple[int, Result], None, None]:
        work = job.open(0)
        for position, item in enumerate(items):
            yield position, work(item, partial(tell, position))
