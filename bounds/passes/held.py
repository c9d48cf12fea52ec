"""The intermediate bounds of one call, as far as a forward pass needs them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from ..graph import Network
from ..graph.facts import Facts
from ..interval import Interval
from ..region import Region


class Held(Protocol):
    """Reads intervals, and takes tighter ones; `bounds.intermediate.IntermediateBounds` is one."""

    network: Network
    region: Region
    facts: Facts

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """The intervals that are known so far."""

    def interval(self, name: str) -> Interval:
        """The interval of a tensor, by interval arithmetic where none is held.  [N, *shape]"""

    def hold(self, found: Mapping[str, Interval]) -> None:
        """Take these for the intervals of their tensors."""

    def naming(self, name: str) -> AbstractContextManager[None]:
        """A context in which a BoundsError says of which tensor it is."""
