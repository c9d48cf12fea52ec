"""VNN-LIB 2.0: the same properties as in 1.0, exactly; what only 2.0 can say is refused in one line."""

import re
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import shared_dir
from test_verify_cli import network as onnx_network
from test_verify_cli import prop
from torch import nn

from certnas.errors import UserError
from certnas.verifier import network_of, parse_vnnlib, read_vnnlib, verify
from certnas.verifier.sexpr import read_text
from certnas.verifier.vnnlib2 import is_version_2
from cli.main import main

VERSION = '(vnnlib-version <2.0>) ; a comment (of [parentheses "\n'
BOX = "(assert (and (<= X[0,0] 0.3) (>= X[0,0] 0.1)))\n(assert (<= X[0,1] 2.0)) (assert (>= X[0,1] -0.15))\n"
LAST = "(assert (<= Y[0,0] 0.0))"


def network(inputs: str = "X float32 [1, 2]", outputs: str = "Y float32 [1,2]") -> str:
    return f"(declare-network N (declare-input {inputs})\n (declare-output {outputs}))\n"


GOOD = VERSION + network() + BOX


def second(first: str, element: str = "Real") -> str:
    """A text of version 1.0 as one of 2.0: tensors X and Y of one row, no powers of ten, = doubled."""
    first = re.sub(r";.*", "", first)
    counts = {kind: len(re.findall(rf"declare-const {kind}_", first)) for kind in "XY"}
    body = re.sub(r"\(declare-const \w+ Real\)", "", first)
    body = re.sub(r"\b([XY])_(\d+)", r"\1[0,\2]", body).replace("(= ", "(== ")
    body = re.sub(r"(?<=[\s(])-?[\d.]+[eE][-+]?\d+(?=[\s)])", lambda found: f"{Decimal(found[0]):f}", body)
    tensors = (f"{kind} {element} [1,{counts[kind]}]" for kind in "XY")
    return "(vnnlib-version <2.0>)" + network(*tensors) + body


FIRST = (
    "(declare-const X_0 Real)(declare-const X_1 Real)\n(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
    "(assert (<= X_0 0.3)) (assert (>= X_0 0.1))\n(assert (<= X_1 2)) (assert (>= X_1 -1.5e-1))\n"
)


@pytest.fixture(autouse=True)
def _package(request: pytest.FixtureRequest) -> None:
    if request.node.name != "test_without_the_package":
        pytest.importorskip("vnnlib", minversion="1.0.2")


@pytest.mark.parametrize("element", ["Real", "float32"])
@pytest.mark.parametrize(
    "formula",
    [
        "(<= Y_0 Y_1)",
        "(or (and (>= Y_0 Y_1)) (and (<= Y_1 1) (< Y_0 -2)))",
        "(and (or (<= Y_0 1) (> Y_0 2)) (or (<= Y_1 3) (<= Y_1 4)))",
        "(<= (+ (* 2 Y_0) (- Y_1) 1) (- (* Y_1 3 0.5) 4 Y_0))",
        "(= Y_0 0.1)",
        "(or (and (<= X_0 0.2) (>= Y_0 1)) (and (>= X_0 0.2) (>= Y_1 1)) (and (>= X_0 7) (>= Y_1 2)))",
    ],
)
def test_it_says_what_version_1_says(formula: str, element: str) -> None:
    text = FIRST + f"(assert {formula})"
    first, again = parse_vnnlib(text), parse_vnnlib(second(text, element))
    assert again.clauses == first.clauses
    assert (again.inputs, again.outputs) == (2, 2) and again.input_shape == again.output_shape == (1, 2)
    assert again.clauses[0].box.sides[0][0] == Fraction(1, 10) if "X_0" not in formula else True


def test_unequal_is_one_side_or_the_other() -> None:
    (below,), (above,) = (c.constraints for c in parse_vnnlib(GOOD + "(assert (!= Y[0,1] 0.1))").clauses)
    assert (below.coef, below.bound, below.strict) == (((1, Fraction(1)),), Fraction(1, 10), True)
    assert (above.coef, above.bound, above.strict) == (((1, Fraction(-1)),), Fraction(-1, 10), True)


def test_elements_are_counted_in_row_major_order_whatever_their_names() -> None:
    text = VERSION + network("image Real [2,3]", "X Real []")
    bounds = [
        f"(>= image[{i},{j}] {i}{j}.0) (<= image[{i},{j}] {i}{j}.5)" for j in range(3) for i in range(2)
    ]
    stated = parse_vnnlib(text + f"(assert (and {' '.join(bounds)})) (assert (>= X 1))")
    assert [low for low, _ in stated.clauses[0].box.sides] == [0, 1, 2, 10, 11, 12]
    assert stated.outputs == 1 and stated.clauses[0].constraints[0].coef == ((0, Fraction(-1)),)
    assert (stated.input_shape, stated.output_shape) == ((2, 3), ())


@pytest.mark.parametrize(("shape", "fits"), [
    ([1, 2, 3], True), ([2, 3, 1], True), ([6], True), ([3, 2], False), ([1, 3, 2], False),
])  # fmt: skip
def test_shapes_are_those_of_the_network(shape: list[int], fits: bool) -> None:
    model = network_of(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), (2, 3))
    text = VERSION + network(f"X Real {shape}", "Y Real [2]")
    for index in np.ndindex(*shape):
        at = f"X[{','.join(map(str, index))}]"
        text += f"(assert (<= {at} 1)) (assert (>= {at} 1))"
    stated = parse_vnnlib(text + "(assert (>= Y[0] 1000))")
    if fits:
        assert verify(model, stated).status == "unsat"
    else:
        with pytest.raises(
            UserError, match=rf"inputs of shape {re.escape(str(shape))}, the network has \[2, 3\]"
        ):
            verify(model, stated)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + network().replace("N", "M").replace("X", "Z").replace("Y", "W") + LAST, "line 6: syntax error"),
        (VERSION + network() + network("Z Real [2]", "W Real [2]").replace("N", "M") + BOX + LAST, "2 networks"),
        (VERSION + network("Q Real [2])\n(declare-input X float32 [1,2]") + BOX + LAST, "has 2 inputs; accepted: one"),
        (VERSION + network(outputs="Q Real [2])\n(declare-output Y float32 [1,2]") + BOX + LAST, "has 2 outputs"),
        (VERSION + network('X float32 [1,2])(declare-hidden H Real [3] "h"') + BOX + LAST, "line 2: .*no hidden nodes"),
        (VERSION + network('X float32 [1,2] "in"') + BOX + LAST, "line 2: the name of an ONNX node"),
        (VERSION + network("X float64 [1,2]") + BOX + LAST, "line 2: X is of float64; accepted: Real, float32"),
        (VERSION + network(outputs="Y foo [1,2]") + BOX + "(assert (<= Y[0,0] 0))", "line 3: Y is of foo; accepted"),
        (VERSION + network("X int8 [1,2]") + "(assert (<= X[0,0] 3))", "line 2: X is of int8"),
        (VERSION + network("X Real [9000,9000]") + "(assert (<= X[0,0] 3))", "line 2: X has more than 300000"),
        (VERSION + network("X Real [99999999999999999999]") + "(assert (<= X[0] 3))", "a number that the package"),
        (VERSION + network("X Real [0,2]") + BOX + LAST, "line 2: .*Dimensions must be positive"),
        (VERSION + network("X Real [1.5,2]") + BOX + LAST, "line 2: expected whole numbers in brackets"),
        (GOOD + "(assert (<= X[0,0.5] 1.0))" + LAST, "line 6: expected whole numbers in brackets"),
        (GOOD + "(assert (<= X[0,-1] 1.0))" + LAST, "line 6: expected whole numbers in brackets"),
        (GOOD + "(assert (<= X[0,2] 1.0))" + LAST, "line 6: Index out of bounds.*X.0,2."),
        (GOOD + "(assert (<= X[0] 1.0))" + LAST, "line 6: Not enough indices"),
        (GOOD + "(assert (<= Z[0,0] 1.0))" + LAST, "line 6: Undeclared variable"),
        (GOOD + "(assert (<= (* Y[0,0] Y[0,1]) 1.0))", "line 6: a product of variables"),
        (GOOD + "(assert (<= 1.0 2.0))", "line 6: a comparison without a variable"),
        (GOOD + "(assert (forall (<= Y[0,0] 2.0)))", "line 6: syntax error at 'forall'"),
        (GOOD + "(assert (not (<= Y[0,0] 2.0)))", "line 6: syntax error at 'not'"),
        (GOOD + "(assert (<= Y[0,0] 1e5))", "line 6: syntax error at 'e5'"),
        (GOOD + "(assert (<= Y[0,0] 1.0)", r"line 6: a '\(' that is never closed"),
        (GOOD + "(assert (<= Y[0,0] ٣))", "line 6: '٣' outside of a comment"),
        (GOOD + LAST + "\0(assert (<= Y[0,1] 0.0))", r"line 6: '\\x00' outside of a comment"),
        (GOOD, "a case without a constraint on any output"),
        (VERSION + network() + LAST, r"line 2: X\[0,0\] has no lower bound"),
        (GOOD.replace("2.0>", "2.1>") + LAST, "expected .vnnlib-version <2.0>"),
        (network() + BOX + LAST, "expected .vnnlib-version <2.0>"),
        (VERSION, "syntax error"),
        (GOOD + "(assert " + "(and " * 64 + "(<= Y[0,0] 1.0)" + ")" * 65, "line 6: more than 64 parentheses deep"),
        (GOOD + "(assert " + "(and " * 100_000, "line 6: more than 64 parentheses deep"),
        (GOOD + f"(assert (<= Y[0,0] {'9' * 257}.0))", "line 6: a word of more than 256"),
        (GOOD + LAST + " " * 2**24, "more than 16 MiB"),
    ],
)  # fmt: skip
def test_what_is_malformed_or_beyond_it_is_refused_in_one_line(text: str, line: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=line) as refused:
        parse_vnnlib(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500
    assert time.monotonic() - began < 5


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.vnnlib"
    path.write_text(GOOD + LAST)
    monkeypatch.setitem(sys.modules, "vnnlib", None)
    with pytest.raises(UserError, match=r"a.vnnlib' is VNN-LIB 2.0.*: pip install 'certnas\[vnnlib2\]'"):
        read_vnnlib(path)


def test_only_texts_that_begin_as_version_2_are_taken_for_it() -> None:
    assert is_version_2("; first\n\n ;\n(vnnlib-version <2.0>)") and is_version_2(network())
    for text in ("", FIRST, "; (vnnlib-version <2.0>)\n" + FIRST, "(declare-const vnnlib-version Real)"):
        assert not is_version_2(text)


def test_verify_answers_both_versions_alike(tmp_path: Path) -> None:
    net = onnx_network(tmp_path / "net.onnx")
    for name, bound in (("unsat", -0.76), ("sat", -0.7)):
        first = prop(tmp_path / "first.vnnlib", bound)
        again = tmp_path / "again.vnnlib"
        again.write_text(second(first.read_text()))
        for path in (first, again):
            result = CliRunner().invoke(main, ["verify", str(net), str(path)])
            assert result.exit_code == 0 and result.stdout.startswith(name), result.output


def test_mutated_text_is_read_or_refused_in_one_line_and_at_once() -> None:
    good = (
        GOOD
        + "(assert (or (and (<= Y[0,0] 1.5) (>= Y[0,1] (+ 1.0 (* 2.0 Y[0,0])))) (and (!= Y[0,1] -2.0))))\n"
    )
    pieces = ["(", ")", "[", "]", '"', " ", "\n", ";", "or", "and", "X[0,1]", "Y", "-", "*", "é", "\0", "9" * 300,
              "9" * 30, "int8", "<2.1>", "(declare-input", "(declare-hidden H Real [3] x)", "0.5"]  # fmt: skip
    rng = np.random.default_rng(0)
    began, read, refused = time.monotonic(), 0, 0
    for _ in range(2000):
        text = good
        for _ in range(rng.integers(1, 4)):
            a, b = sorted(rng.integers(len(VERSION), len(text) + 1, 2))
            change = ["", rng.choice(pieces), text[a:b] * 3, str(rng.integers(10))][rng.integers(4)]
            text = text[:a] + change + text[a + int(rng.integers(0, 3)) :]
        try:
            stated = parse_vnnlib(text)
            assert all(c.constraints and len(c.box.sides) == stated.inputs for c in stated.clauses)
            read += 1
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert read > 20 and refused > 500
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("folder", ["acasxu", "mnist_fc", "eran", "cifar10_resnet", "marabou-cifar10"])
def test_properties_of_the_corpus_say_the_same_in_both_versions(folder: str) -> None:
    files = (shared_dir() / "data" / "vnnlib" / folder).glob("*.vnnlib.gz")
    text = read_text(min(files, key=lambda file: file.stat().st_size))
    assert parse_vnnlib(second(text)).clauses == parse_vnnlib(text).clauses
