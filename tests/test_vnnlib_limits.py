"""Cases of a property at the limit of what is read, and in which order their comparisons stand."""

import pytest
from test_vnnlib import linear, read

from certnas.errors import UserError
from certnas.verifier import vnnlib

CASES = "(assert (or (and (<= X_0 0.2) (>= Y_0 1)) (and (<= X_0 0.25) (>= Y_1 1))))"


def test_as_many_sides_as_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boxes of two inputs; and two cases of two comparisons."""
    monkeypatch.setattr(vnnlib, "MOST_ATOMS", 4)
    assert len(read(CASES).clauses) == 2
    monkeypatch.setattr(vnnlib, "MOST_ATOMS", 3)
    with pytest.raises(UserError, match=r"more than 3|at most 3"):
        read(CASES)


def test_what_all_cases_share_stands_behind_their_own() -> None:
    found = read("(assert (and (<= Y_0 1) (or (<= Y_0 2) (<= Y_1 3)) (<= Y_1 4)))")
    shared = [linear(1, Y0=1), linear(4, Y1=1)]
    own = [linear(2, Y0=1), linear(3, Y1=1)]
    assert [list(clause.constraints) for clause in found.clauses] == [[one, *shared] for one in own]
