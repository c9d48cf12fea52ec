"""The interface of the intermediate bounds that a forward pass reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from ..graph import Network
from ..graph.facts import Facts
from ..interval import Interval
from ..region import Region


class IntervalStore(Protocol):
    """Holds the intermediate bounds of one call; `bounds.intermediate.IntermediateBounds` is one."""

    network: Network
    region: Region
    facts: Facts

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """The intervals that are held at present."""

    def interval(self, name: str) -> Interval:
        """Return the interval of a tensor, by interval arithmetic if none is held.  [N, *shape]"""

    def hold(self, new: Mapping[str, Interval]) -> None:
        """Store intervals by tensor name."""

    def naming(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which a BoundsError names the tensor."""
