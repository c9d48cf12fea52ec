"""VNN-LIB properties: what they say, to the last bit, and what is refused in one line."""

import gzip
import math
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from certnas.errors import UserError
from certnas.verifier import Constraint, Property, parse_vnnlib, read_vnnlib
from certnas.verifier.property import Box, Clause, rounded

DECLARED = (
    "(declare-const X_0 Real)(declare-const X_1 Real)\n(declare-const Y_0 Real) (declare-const Y_1 Real)\n"
)
BOX = "(assert (<= X_0 0.3)) (assert (>= X_0 0.1))\n(assert (<= X_1 2)) (assert (>= X_1 -1.5e-1))\n"
SIDES = ((Fraction(1, 10), Fraction(3, 10)), (Fraction(-15, 100), Fraction(2)))


def linear(bound: str | int, strict: bool = False, **coef: str | int) -> Constraint:
    terms = sorted((int(name[1:]), Fraction(value)) for name, value in coef.items())
    return Constraint(tuple(terms), Fraction(bound), strict)


def read(formulas: str) -> Property:
    return parse_vnnlib(DECLARED + BOX + formulas)


def test_a_property_by_hand() -> None:
    prop = read("; a comment (with (parentheses\n(assert (<= Y_0 Y_1))\n(assert (>= Y_0 3.991)) ; end")
    assert (prop.inputs, prop.outputs) == (2, 2)
    constraints = (linear(0, Y0=1, Y1=-1), linear("-3.991", Y0=-1))
    assert prop.clauses == (Clause(Box(SIDES), constraints),)


@pytest.mark.parametrize(
    ("formula", "clauses"),
    [
        ("(or (and (>= Y_0 Y_1)) (and (<= Y_1 1) (< Y_0 -2)))",
         [[linear(0, Y0=-1, Y1=1)], [linear(1, Y1=1), linear(-2, True, Y0=1)]]),
        ("(and (or (<= Y_0 1) (<= Y_0 2)) (or (<= Y_1 3) (<= Y_1 4)))",
         [[linear(a, Y0=1), linear(b, Y1=1)] for a in (1, 2) for b in (3, 4)]),
        ("(<= (+ (* 2 Y_0) (- Y_1) 1) (- (* Y_1 3 0.5) 4))", [[linear(-5, Y0=2, Y1="-2.5")]]),
        ("(= Y_0 0.5)", [[linear("0.5", Y0=1), linear("-0.5", Y0=-1)]]),
        ("(> (- 1) (* 0 Y_1 Y_1 Y_0))", None),
        ("(or (<= Y_0 1))", [[linear(1, Y0=1)]]),
    ],
)  # fmt: skip
def test_formulas_become_clauses(formula: str, clauses: list[list[Constraint]] | None) -> None:
    if clauses is None:
        with pytest.raises(UserError, match="line 5: "):
            read(f"(assert {formula})")
        return
    assert [list(clause.constraints) for clause in read(f"(assert {formula})").clauses] == clauses


def test_disjunctions_over_inputs_have_boxes_of_their_own() -> None:
    prop = read(
        "(assert (or (and (<= X_0 0.2) (>= Y_0 1)) (and (>= X_0 0.2) (>= Y_1 1)) (and (>= X_0 7) (>= Y_1 2))))"
    )
    sides = [clause.box.sides for clause in prop.clauses]
    assert sides == [
        ((Fraction(1, 10), Fraction(1, 5)), SIDES[1]),
        ((Fraction(1, 5), Fraction(3, 10)), SIDES[1]),
    ], "an empty box is no case"


def test_constraints_between_inputs_and_outputs_are_kept_exactly() -> None:
    prop = read(
        "(assert (< (+ (* 2 X_0) Y_1 -1) (- X_1 Y_0)))(assert (< X_0 0.3))(assert (<= (+ X_0 X_1) 0.5))"
    )
    mixed, single, both = (
        prop.clauses[0].constraints[0],
        prop.clauses[0].constraints[1],
        prop.clauses[0].constraints[2],
    )
    one, half = Fraction(1), Fraction(1, 2)
    assert mixed == Constraint(((0, one), (1, one)), one, True, ((0, 2 * one), (1, -one)))
    assert single == Constraint((), Fraction(3, 10), True, ((0, one),)), (
        "a closed box loses that it is strict"
    )
    assert both == Constraint((), half, False, ((0, one), (1, one)))
    inside = np.array([0.25, 0.0], np.float32)  # 2·0.25 + Y_1 − 1 < 0 − Y_0
    assert prop.violated_by(inside, np.array([0.0, 0.25]))
    assert not prop.violated_by(inside, np.array([0.0, 0.5]))
    assert not prop.violated_by(np.array([0.25, 0.3], np.float32), np.array([-9.0, -9.0])), (
        "X_0 + X_1 is above 0.5"
    )
    assert not read("(assert (<= Y_0 1))").relational and prop.relational


def test_constraints_on_several_inputs_narrow_the_box() -> None:
    prop = read("(assert (<= (+ X_0 (* 2 X_1)) 1.1))(assert (>= (- X_0 X_1) 0))(assert (<= Y_0 0))")
    # X_1 ≤ X_0 ≤ 0.3, and X_1 ≤ (1.1 − 0.1) / 2
    assert prop.clauses[0].box.sides == (SIDES[0], (Fraction(-15, 100), Fraction(3, 10)))
    implied = parse_vnnlib(
        DECLARED
        + "(assert (>= X_0 0))(assert (>= X_1 0))(assert (<= (+ X_0 (* 2 X_1)) 4))(assert (<= Y_0 0))"
    )
    assert implied.clauses[0].box.sides == ((Fraction(0), Fraction(4)), (Fraction(0), Fraction(2)))


def test_a_box_without_inputs_leaves_nothing_to_meet() -> None:
    for formulas in ("(assert (<= X_0 0))", "(assert (>= (+ X_0 X_1) 2.4))"):
        assert read(f"{formulas} (assert (<= Y_0 0))").clauses == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (DECLARED + BOX + "(assert (<= Y_0 Y_9))", "line 5: Y_9 is not declared"),
        (DECLARED + BOX + "(assert (<= Y_0 0x1))", "line 5: '0x1' is neither"),
        (DECLARED + BOX + "(assert (<= Y_0 nan))", "line 5: 'nan' is neither"),
        (DECLARED + BOX + "(assert (<= Y_0 1e9999))", "line 5: '1e9999' is neither"),
        (DECLARED + BOX + "(assert (<= Y_0 ٣))", "line 5: .* is neither"),
        (DECLARED + BOX + "(assert (<= Y_0 1 2))", "line 5: <= compares two"),
        (DECLARED + BOX + "(assert (<= Y_0 1)", r"line 5: a '\(' that is never closed"),
        (DECLARED + BOX + "(assert (<= Y_0 1)))", r"line 5: a '\)' without"),
        (DECLARED + BOX + "assert", "line 5: 'assert' outside of parentheses"),
        (DECLARED + BOX + "(check-sat)", "line 5: 'check-sat' is not accepted"),
        (DECLARED + BOX + "(assert)", "line 5: assert takes one formula"),
        (DECLARED + BOX + "(assert Y_0)", "line 5: 'Y_0' is not a formula"),
        (DECLARED + BOX + "(assert (not (<= Y_0 1)))", "line 5: 'not' is not a formula"),
        (DECLARED + BOX + "(assert (and))", "line 5: and without operands"),
        (DECLARED + BOX + "(assert (<= 1 2))", "line 5: a comparison without a variable"),
        (DECLARED + BOX + "(assert (<= (* Y_0 Y_1) 2))", "line 5: a product of variables"),
        (DECLARED + BOX + "(assert (<= (/ Y_0 2) 2))", "line 5: '/' is not a linear expression"),
        (DECLARED + BOX + "(assert (< X_0 2))", "a case without a constraint on any output"),
        (DECLARED + "(assert (<= (+ X_0 X_1) 1)) (assert (<= Y_0 0))", "line 1: X_0 has no lower bound"),
        (DECLARED + BOX + "(assert (<= (* X_0 Y_0) 2))", "line 5: a product of variables"),
        (DECLARED + BOX, "a case without a constraint on any output"),
        (DECLARED + "(assert (<= X_0 0)) (assert (<= Y_0 0))", "line 1: X_0 has no lower bound"),
        ("(declare-const X_0 Int)", "line 1: expected"),
        ("(declare-const X_00 Real)", "line 1: expected"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", "line 2: X_0 is declared twice, first on line 1"),
        ("(declare-const Y_0 Real)", "no variable X_0"),
        ("(declare-const Y_0 Real)\n(declare-const X_1 Real)", "line 2: X_1 is declared, X_0 is not"),
        ("(" * 65, "line 1: more than 64 parentheses deep"),
        ("(" + "x" * 257 + ")", "line 1: a word of more than 256"),
        ("\n()", r"line 2: '\(\)' is not accepted"),
        ("", "no variable X_0"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        parse_vnnlib(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "formula",
    [
        "(assert (and" + " (or (<= Y_0 1) (<= Y_0 2))" * 20 + "))",
        "(assert (or (<= Y_0 1) (<= Y_0 2)))" * 20,
        "(assert (<= Y_0 (*" + " 1e999" * 10_000 + ")))",
        "(assert (or" + " (<= Y_0 1)" * 10_001 + "))",
        "(assert (and (or" + " (<= Y_0 1)" * 10_000 + ")" + " (<= Y_0 1)" * 10_000 + "))",
    ],
    ids=["and of ors", "many ors", "huge number", "many cases", "long cases"],
)
def test_what_would_take_for_ever_is_refused(formula: str) -> None:
    with pytest.raises(UserError, match="more than"):
        read(formula)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    good = DECLARED + BOX + "(assert (<= Y_0 0))"
    packed = tmp_path / "a.vnnlib.gz"
    packed.write_bytes(gzip.compress(good.encode()))
    assert read_vnnlib(packed) == parse_vnnlib(good)
    for name, data in {
        "cut.vnnlib.gz": gzip.compress(good.encode())[:-9],
        "no.vnnlib.gz": good.encode(),
        "latin.vnnlib": b"; caf\xe9\n",
        "bomb.vnnlib.gz": gzip.compress(b" " * (2**26 + 1)),
        "empty.vnnlib": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name) as refused:
            read_vnnlib(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="No such file"):
        read_vnnlib(tmp_path / "absent.vnnlib")


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6).filter(
    lambda d: abs(d.as_tuple().exponent) < 500
)


@given(DECIMALS, st.sampled_from([np.float32, np.float64]))
def test_rounding_is_outward_and_no_further(decimal, dtype) -> None:
    value = Fraction(decimal)
    low, high = rounded(value, -math.inf, dtype), rounded(value, math.inf, dtype)
    assert Fraction(low) <= value <= Fraction(high)
    if Fraction(low) != value:
        assert dtype(high) == np.nextafter(dtype(low), dtype(math.inf))
    else:
        assert low == high


@given(st.lists(st.tuples(DECIMALS, DECIMALS), min_size=1, max_size=4),
       st.lists(st.lists(st.tuples(DECIMALS, st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=3),
                min_size=1, max_size=3))  # fmt: skip
@settings(max_examples=60)
def test_what_is_written_is_read_back(sides, cases) -> None:
    boxes = tuple((Fraction(min(pair)), Fraction(max(pair))) for pair in sides)
    lines = [f"(declare-const X_{i} Real)" for i in range(len(sides))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(3)]
    for i, pair in enumerate(sides):
        lines += [f"(assert (>= X_{i} {min(pair):E}))", f"(assert (<= X_{i} {max(pair):E}))"]
    formula = " ".join(
        "(and " + " ".join(f"(<= (+ Y_{a} (* 2 Y_{b})) {bound:E})" for bound, a, b in case) + ")"
        for case in cases
    )
    prop = parse_vnnlib("\n".join([*lines, f"(assert (or {formula}))"]))
    assert [clause.box.sides for clause in prop.clauses] == [boxes] * len(cases)
    rng = np.random.default_rng(0)
    for clause, case in zip(prop.clauses, cases, strict=True):
        for y in [[Fraction(int(v)) for v in rng.integers(-1000, 1000, 3)] for _ in range(5)]:
            expected = all(y[a] + 2 * y[b] <= Fraction(bound) for bound, a, b in case)
            assert all(constraint.holds(y) for constraint in clause.constraints) == expected


def test_float_boxes_hold_the_decimal_box_and_lie_in_it() -> None:
    box = read("(assert (<= Y_0 0))").clauses[0].box
    for i, (low, high) in enumerate(box.sides):
        assert Fraction(float(box.outward[0][i])) <= low < high <= Fraction(float(box.outward[1][i]))
        assert low <= Fraction(float(box.inside[0][i])) < Fraction(float(box.inside[1][i])) <= high
    point = Box(((Fraction(1, 10), Fraction(1, 10)),))
    assert point.inside[0] == point.inside[1] == np.float32(0.1)
    assert point.outward[0] < point.outward[1]


def test_a_counterexample_lies_in_the_box_and_meets_every_constraint() -> None:
    prop = read("(assert (or (and (<= Y_0 1) (< Y_1 0)) (>= Y_0 5)))")
    inside, outside = np.array([0.2, 0], np.float32), np.array([0.4, 0], np.float32)
    assert prop.violated_by(inside, np.array([1.0, -1e-30]))
    assert prop.violated_by(inside, np.array([5.0, 9.0]))
    assert not prop.violated_by(outside, np.array([5.0, 9.0]))
    for outputs in ([1.0, 0.0], [np.nextafter(1.0, 2), -1.0], [math.nan, math.nan], [math.inf, -1.0]):
        assert not prop.violated_by(inside, np.array(outputs))


def test_mutated_text_is_read_or_refused_in_one_line_and_at_once() -> None:
    good = DECLARED + BOX + "(assert (or (and (<= Y_0 1.5e-3) (>= Y_1 (+ 1 (* 2 Y_0)))) (and (<= Y_1 -2))))\n"
    rng = np.random.default_rng(0)
    pieces = [
        "(",
        ")",
        " ",
        "\n",
        ";",
        "or",
        "and",
        "X_1",
        "Y_0",
        "Y_99",
        "1e999",
        "-",
        "*",
        "é",
        "\x00",
        "9" * 300,
    ]
    began, read, refused = time.monotonic(), 0, 0
    for _ in range(2000):
        text = good
        for _ in range(rng.integers(1, 4)):
            a, b = sorted(rng.integers(0, len(text) + 1, 2))
            change = ["", rng.choice(pieces), text[a:b] * 3, str(rng.integers(10))][rng.integers(4)]
            text = text[:a] + change + text[a + int(rng.integers(0, 3)) :]
        try:
            prop = parse_vnnlib(text)
            assert all(c.constraints and len(c.box.sides) == prop.inputs for c in prop.clauses)
            read += 1
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert read > 20 and refused > 500
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("inputs", [5, 784, 3072])
def test_properties_of_the_corpus_open(inputs: int) -> None:
    """The smallest file of each benchmark is read, since the largest take half a second each."""
    folders = {5: ["acasxu"], 784: ["mnist_fc", "verivital", "eran"],
               3072: ["cifar10_resnet", "oval21", "marabou-cifar10"]}  # fmt: skip
    for folder in folders[inputs]:
        files = list((shared_dir() / "data" / "vnnlib" / folder).glob("*.vnnlib.gz"))
        prop = read_vnnlib(min(files, key=lambda file: file.stat().st_size))
        assert prop.inputs == inputs
        assert prop.outputs == (5 if folder == "acasxu" else 10)
        assert len(prop.clauses) == (1 if folder in ("acasxu", "marabou-cifar10") else 9)
