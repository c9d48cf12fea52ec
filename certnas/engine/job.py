"""What any process can be asked to do, and who asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Tell = Callable[[Any], None]


class Job(ABC, Generic[Item, Result]):
    """Work in equal parts of which each result depends on its item alone; a value that can be sent to processes."""

    @abstractmethod
    def open(self, rank: int) -> Callable[[Item, Tell], Result]:
        """What answers one item after another in the process `rank` of its machine; it tells of stages within one."""

    def describe(self, item: Item) -> str:
        """The item in a sentence."""
        return f"{item}"


class Engine(ABC):
    """Where a job's items are worked on: here, in processes of this machine, on a cluster."""

    @abstractmethod
    def run(
        self, job: Job[Item, Result], items: Sequence[Item], tell: Callable[[int, Any], None]
    ) -> Generator[tuple[int, Result], None, None]:
        """(position of the item, its result), each once, as they finish; `tell` also has the position first.

        Results are the same, bit for bit, on every engine.  At most a few wait to be taken, and then work pauses.
        What the job raises is raised, after the results that were under way.  Close the iterator to stop the work.
        Raises UserError where the processes cannot be had, or one item's processes end again and again.
        """
