"""Jobs, and the engines that run them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Tell = Callable[[Any], None]
"""Receives the progress within one item."""


class Job(ABC, Generic[Item, Result]):
    """Work on independent items; a job is a value that can be sent to other processes."""

    @abstractmethod
    def open(self, rank: int) -> Callable[[Item, Tell], Result]:
        """Returns a function that maps an item and a progress callback to its result, for process `rank` of its
        machine.
        """

    def describe(self, item: Item) -> str:
        """A short description of the item, for messages."""
        return f"{item}"


class Engine(ABC):
    """Runs the items of a job: in this process, in processes of this machine, or on a cluster."""

    @abstractmethod
    def run(
        self, job: Job[Item, Result], items: Sequence[Item], tell: Callable[[int, Any], None]
    ) -> Generator[tuple[int, Result], None, None]:
        """Yields (position of the item, its result), each once, as they finish.

        job: the work. items: its items. tell: receives the position of an item and its progress.
        Results are identical, bit for bit, on every engine. Only a few results wait to be consumed before the work
        pauses. An error of the job is raised after the results that were under way. Close the iterator to stop the
        work.
        Raises UserError if the processes cannot be started, or if the processes of one item die repeatedly.
        """
