"""Claims of certificates, and results held against them, at the very edges: a claim too wide is no proof."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from certnas.certifier.certificates import COLUMNS
from certnas.checker import Certificate, Rejected
from certnas.data import Dataset
from certnas.errors import UserError
from certnas.proofs import claims, pairing
from certnas.proofs.claims import Claim, claim, claim_of_property, covers, digest
from certnas.proofs.pairing import ResultRow, held_image, held_rows, read_rows
from certnas.verifier import Box, Clause, Constraint, Property

X = np.array([0.5, 0.25])
EYE = np.eye(3)


def kept(**changes: Any) -> Certificate:
    """Class 1 beats 0 and 2 within 1/8 of X, met with [0, 1]."""
    given: dict[str, Any] = {
        "network": "n", "norm": "linf", "x": X, "eps": 0.125, "box": (X - 0.125, X + 0.125),
        "rows": np.stack([EYE[1] - EYE[0], EYE[1] - EYE[2]])[:, None], "offsets": np.zeros((2, 1)),
        "parts": (), "planes": {}, "about": {},
    }  # fmt: skip
    return Certificate(**given | changes)


def test_a_claim_in_words() -> None:
    found = claim(kept())
    assert found == Claim(1, (0, 2), 3, "linf", 0.125, False, digest(X))
    assert str(found) == f"class 1 beats 0, 2 within l∞ distance 0.125 of image {digest(X)[:16]}"
    assert " distance 0.125 in [0, 1] of" in str(replace(found, clipped=True, norm="l2"))
    assert claims._ranges((0, 1, 2, 5, 7, 8)) == "0 to 2, 5, 7 to 8" and claims._ranges((3,)) == "3"
    assert digest(X) == digest(X.astype(np.float32)) != digest(X.reshape(1, 2))
    one, more = kept(), kept(rows=EYE[:1][:, None], offsets=np.zeros((1, 1)))
    assert claim_of_property([more]) == "no input of the box meets the conjunction"
    assert claim_of_property([one]) == "no input of the box meets any of 2 conjunctions"
    assert claim_of_property([more, one]) == "no input of 2 boxes meets any of 3 conjunctions"


ROWS = kept().rows
BAD_ROWS = {
    "two rows of a clause": np.concatenate([ROWS, ROWS], 1),
    "a class twice": ROWS[[0, 0]],
    "another best class": np.stack([EYE[1] - EYE[0], EYE[2] - EYE[0]])[:, None],
    "a class against itself": np.zeros((1, 1, 3)),
    "half": ROWS / 2,
    "no clause": ROWS[:0],
    "more than two classes": ROWS + np.array([0, 0, 1.0]),
    "two axes": ROWS.reshape(2, 1, 3, 1),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_compare_no_classes_are_rejected(name: str) -> None:
    rows = BAD_ROWS[name]
    with pytest.raises(Rejected, match="do not state that one class beats others"):
        claim(kept(rows=rows, offsets=np.zeros(rows.shape[:2])))


def test_offsets_are_zero() -> None:
    with pytest.raises(Rejected, match="do not state"):
        claim(kept(offsets=np.array([[0.0], [1e-300]])))
    assert claim(kept(rows=ROWS[:1], offsets=np.zeros((1, 1)))).beaten == (0,)


def up(value: np.ndarray) -> np.ndarray:
    return np.nextafter(value, np.inf)


def down(value: np.ndarray) -> np.ndarray:
    return np.nextafter(value, -np.inf)


LOW, HIGH = X - 0.125, X + 0.125


def test_areas_are_balls_or_what_of_them_lies_in_the_unit_box() -> None:
    for box in ((LOW, HIGH), (down(LOW), up(HIGH)), (LOW - 9, HIGH + 9)):
        assert claim(kept(box=box)).clipped is False
    for box in ((up(LOW), HIGH), (LOW, down(HIGH)), (LOW, np.array([HIGH[0], 0.3]))):
        with pytest.raises(Rejected, match="is neither the ball of its radius"):
            claim(kept(box=box))
    low, high = np.array([0.0, 0.0]), np.array([1.0, 0.875])
    for box in ((low, high), (low - 0.1, high), (low, up(high)), (low, np.array([1.0, 1.0]))):
        assert claim(kept(eps=0.625, box=box)).clipped is True
    for box in (
        (np.array([1e-300, 0.0]), high),
        (low, np.array([down(np.array(1.0)), 0.875])),
        (low, down(high)),
    ):
        with pytest.raises(Rejected, match="nor the part of that ball"):
            claim(kept(eps=0.625, box=box))
    side = (np.array([-0.125, 0.0]), np.array([1.125, 0.875]))
    assert claim(kept(eps=0.625, box=side)).clipped is True, "one side of the ball and one of the box"


# Whether a property follows.


def fractions(*sides: tuple[float, float]) -> Box:
    return Box(tuple((Fraction(low), Fraction(high)) for low, high in sides))


def below(bound: float, *coef: float, inputs: tuple[float, ...] = ()) -> Constraint:
    given = tuple((j, Fraction(a)) for j, a in enumerate(coef))
    return Constraint(given, Fraction(bound), False, tuple((i, Fraction(a)) for i, a in enumerate(inputs)))


BALL = fractions((0.375, 0.625), (0.125, 0.375))
FIRST, SECOND = below(0, -1, 1, 0), below(0, 0, 1, -1)


def prop(*clauses: Clause) -> Property:
    return Property(2, 3, clauses)


def test_what_a_certificate_refutes_is_covered() -> None:
    assert covers([kept()], prop(Clause(BALL, (FIRST,)), Clause(BALL, (SECOND,))))
    assert covers([kept()], prop(Clause(BALL, (SECOND, below(5, 1, 1, 1)))))
    assert covers([kept()], prop(Clause(fractions((0.5, 0.5), (0.25, 0.375)), (FIRST,))))
    assert covers([kept()], prop())
    assert not covers([], prop(Clause(BALL, (FIRST,))))
    assert not covers([kept()], prop(Clause(BALL, (FIRST,)), Clause(BALL, (below(0, 1, 1, 1),))))


def test_bounds_that_ask_for_less_follow_and_no_others() -> None:
    tiny = 2.0**-1074
    for bound, follows in ((-1, True), (-tiny, True), (0, True), (tiny, False)):
        assert covers([kept()], prop(Clause(BALL, (below(bound, -1, 1, 0),)))) == follows
    assert covers([kept(offsets=np.array([[0.5], [0.0]]))], prop(Clause(BALL, (below(0.5, -1, 1),))))
    for other in (below(0, -1, 1, tiny), below(0, -2, 2), below(0, 1, -1), below(0, -1, 1, inputs=(1.0,))):
        assert not covers([kept()], prop(Clause(BALL, (other,))))


def test_boxes_within_the_area_are_covered_and_no_others() -> None:
    tiny = Fraction(1, 2**60)
    for sides in (
        ((Fraction(3, 8) - tiny, 0.625), (0.125, 0.375)), ((0.375, Fraction(5, 8) + tiny), (0.125, 0.375)),
        ((0.375, 0.625), (Fraction(1, 8) - tiny, 0.375)), ((0.375, 0.625), (0.125, Fraction(3, 8) + tiny)),
        ((0.375, 0.625),), ((0.375, 0.625), (0.125, 0.375), (0, 0)),
    ):  # fmt: skip
        assert not covers([kept()], prop(Clause(fractions(*sides), (FIRST,))))
    narrow = kept(box=(LOW, np.array([0.6, 0.375])))
    wide = kept(eps=1.0)
    for one in (narrow, kept(eps=0.1), kept(norm="l2")):
        assert not covers([one], prop(Clause(BALL, (FIRST,))))
    assert covers([narrow, wide], prop(Clause(BALL, (FIRST,))))
    assert not covers([kept(box=(np.array([0.4, 0.125]), HIGH))], prop(Clause(BALL, (FIRST,))))


def test_a_clause_of_several_rows_needs_each_of_them() -> None:
    both = kept(rows=ROWS.reshape(1, 2, 3), offsets=np.zeros((1, 2)))
    assert covers([both], prop(Clause(BALL, (FIRST, SECOND))))
    assert covers([both], prop(Clause(BALL, (SECOND, below(-1, -1, 1)))))
    for one in (FIRST, SECOND):
        assert not covers([both], prop(Clause(BALL, (one,))))


# Results held against certificates.

DATA = Dataset("two", torch.tensor([[0.5, 0.25], [0.75, 0.5]]), torch.tensor([1, 2]), torch.tensor([7, 3]), 3)
OWN = claim(kept())
ROW = ResultRow(7, 1, 1, None, "linf", 0.125, "certified", "a.npz")


def held(
    row: ResultRow, *more: ResultRow, files: dict[str, Claim | None] | None = None
) -> list[tuple[int, str]]:
    return list(held_rows([row, *more], {"a.npz": OWN} if files is None else files, DATA))


def test_a_line_is_what_its_certificate_proves() -> None:
    assert held(ROW) == []
    other = ResultRow(3, 2, 0, None, "linf", 0.0, "misclassified", "")
    assert held(ROW, other) == []
    one = replace(OWN, beaten=(2,))
    assert held(replace(ROW, target=2), files={"a.npz": one}) == []
    forged = {
        "image 7 occurs twice": [ROW, ROW],
        "two has no image 8": [replace(ROW, index=8)],
        "image 7 is labelled 1, not 2": [replace(ROW, label=2)],
        "its radius 1e-09 has no certificate": [ROW, replace(other, radius=1e-9)],
        "its certificate b.npz is missing": [ROW, replace(other, certificate="b.npz")],
        "its certificate a.npz is about another image than 3": [ROW, replace(other, certificate="a.npz")],
        "its prediction: 2; a.npz proves 1": [replace(ROW, prediction=2)],
        "its norm: l2; a.npz proves linf": [replace(ROW, norm="l2")],
        "its radius: 0.126; a.npz proves 0.125": [replace(ROW, radius=0.126)],
        "its classes that cannot win: (0,); a.npz proves (0, 2)": [replace(ROW, target=0)],
    }
    for said, rows in forged.items():
        assert held(*rows) == [(len(rows) + 1, said)], said
    assert held(ROW, files={"a.npz": None}) == [(2, "its certificate a.npz is rejected")]
    assert held(ROW, files={"a.npz": one}) == [(2, "its classes that cannot win: (0, 2); a.npz proves (2,)")]
    lies = replace(OWN, label=2)
    assert held(ROW, files={"a.npz": lies}) == [(2, "its label: 1; a.npz proves 2")]
    files = {"a.npz": OWN, "c.npz": OWN, "b.npz": None}
    assert held(ROW, files=files) == [(0, f"no line names the certificate {n}.npz") for n in "bc"]


def test_an_image_is_that_of_the_data() -> None:
    held_image(7, OWN, DATA)
    for index, said in ((5, "two does not have"), (True, "two does not have"), ("7", "two does not have")):
        with pytest.raises(Rejected, match=said):
            held_image(index, OWN, DATA)
    with pytest.raises(Rejected, match="its image is not image 3 of two"):
        held_image(3, OWN, DATA)
    with pytest.raises(Rejected, match="it proves class 2, and image 7 is labelled 1"):
        held_image(7, replace(OWN, label=2), DATA)


LINE = "7,1,1,,linf,crown,0.125,inf,certified,a.npz,0.1"


def test_lines_are_read_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, head = tmp_path / "results.csv", ",".join(COLUMNS) + "\n"
    path.write_text(head + LINE + "\n" + LINE.replace(",,linf", ",2,linf").replace("0.125", "0") + "\n")
    assert read_rows(path) == [ROW, replace(ROW, target=2, radius=0.0)]
    for line, said in (
        (LINE.replace("0.125", "inf"), "the radius is inf"), (LINE.replace("0.125", "-1"), "the radius is -1"),
        (LINE.replace("0.125", "nan"), "the radius is nan"), (LINE.replace("7,1", "x,1"), "line 3 cannot be read"),
        ("7,1", "line 3 cannot be read"),
    ):  # fmt: skip
        path.write_text(head + LINE + "\n" + line + "\n")
        with pytest.raises(Rejected, match=said):
            read_rows(path)
    path.write_text("index,label\n1,2\n")
    with pytest.raises(UserError, match=r"is not a results\.csv"):
        read_rows(path)
    path.write_text("")
    with pytest.raises(UserError, match=r"is not a results\.csv"):
        read_rows(path)
    path.write_text(head)
    monkeypatch.setattr(pairing, "MOST_BYTES", len(head.encode()))
    assert read_rows(path) == []
    monkeypatch.setattr(pairing, "MOST_BYTES", len(head.encode()) - 1)
    with pytest.raises(UserError, match="it is larger than"):
        read_rows(path)
    with pytest.raises(UserError, match="cannot read"):
        read_rows(tmp_path / "none.csv")
