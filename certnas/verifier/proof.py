"""The record of a search, from which its proof can be written as a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from certnas.bounds.extend import TargetAlphas
from certnas.verifier.problem import Problem
from certnas.verifier.relaxed import Choice, UnitSplit

Note = Callable[[int, tuple[UnitSplit, ...], Choice | None], None]
"""Receives each proved subproblem: its clause, its splits, and the slopes and multipliers that prove it."""
BYTES_PER_SPLIT = 120
"""The estimated memory of one recorded split."""


@dataclass(frozen=True)
class Leaf:
    """A proved subproblem of a clause."""

    splits: tuple[UnitSplit, ...]
    """The splits that define the subproblem."""
    choice: Choice | None
    """The slopes and multipliers that prove it; None for CROWN's own."""


@dataclass
class Proof:
    """How each clause of a problem was proved: by a method on its whole region, or by the leaves of a split tree."""

    problem: Problem
    """The problem."""
    most: int
    """The budget for leaves, in bytes; if they exceed it, no leaf is kept."""
    methods: dict[int, str] = field(default_factory=dict)
    """The method that proved a clause on its whole region."""
    leaves: dict[int, list[Leaf]] = field(default_factory=dict)
    """The proved subproblems of each clause that was split."""
    slopes: dict[int, TargetAlphas] = field(default_factory=dict)
    """α-CROWN's slopes of the intermediate bounds, for each region on which it ran."""
    size: int = 0
    """The estimated memory of the leaves so far, in bytes."""
    equal: bool = False
    """Whether rational arithmetic alone proved some subproblem, a strict inequality at its exact bound."""

    @property
    def complete(self) -> bool:
        """Whether every proved subproblem was kept."""
        return self.size <= self.most

    def note(self, clause: int, splits: tuple[UnitSplit, ...], choice: Choice | None) -> None:
        """Records a proved subproblem of a clause."""
        tensors = [] if choice is None else list(choice.tensors())
        self.size += sum(t.numel() * t.element_size() for t in tensors) + BYTES_PER_SPLIT * (1 + len(splits))
        if self.complete:
            self.leaves.setdefault(clause, []).append(Leaf(splits, choice))
        else:
            self.leaves.clear()
