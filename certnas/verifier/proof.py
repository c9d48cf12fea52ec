"""What a search leaves behind, so that its proof can be written down and checked by others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from certnas.bounds.extend import TargetAlphas
from certnas.verifier.problem import Problem
from certnas.verifier.relaxed import Choice, UnitSplit

Note = Callable[[int, tuple[UnitSplit, ...], Choice | None], None]
"""Told each subproblem that is proved: its clause, its splits, and the slopes and multipliers that prove it."""
BYTES_PER_SPLIT = 120


@dataclass(frozen=True)
class Leaf:
    """A subproblem of a clause that was proved; choice: by which slopes and multipliers, None for CROWN's own."""

    splits: tuple[UnitSplit, ...]
    choice: Choice | None


@dataclass
class Proof:
    """How each clause of `problem` was proved: by a method on its whole region, or by the leaves of a tree of splits.

    slopes: of each region that alpha-crown was tried on, the slopes of its intermediate bounds.  most: bytes that the
    leaves may take; where they would exceed it none are kept, and `complete` is false.  equal: whether some part was
    proved by rational arithmetic alone, a strict inequality at its exact bound.
    """

    problem: Problem
    most: int
    methods: dict[int, str] = field(default_factory=dict)
    leaves: dict[int, list[Leaf]] = field(default_factory=dict)
    slopes: dict[int, TargetAlphas] = field(default_factory=dict)
    size: int = 0
    equal: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything that was proved was kept."""
        return self.size <= self.most

    def note(self, clause: int, splits: tuple[UnitSplit, ...], choice: Choice | None) -> None:
        """Keeps a leaf of a clause."""
        tensors = [] if choice is None else list(choice.tensors())
        self.size += sum(t.numel() * t.element_size() for t in tensors) + BYTES_PER_SPLIT * (1 + len(splits))
        if self.complete:
            self.leaves.setdefault(clause, []).append(Leaf(splits, choice))
        else:
            self.leaves.clear()
