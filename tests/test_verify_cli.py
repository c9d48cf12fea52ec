"""`certnas verify` as a user meets it: answers, files in the competition's formats, refusals."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from certnas.errors import UserError
from certnas.verifier import Counterexample, Verdict, read_vnnlib
from certnas.verifier.instances import (
    Instance,
    counterexample_text,
    instance_name,
    read_instances,
)
from certnas.verifier.subject import open_onnx
from cli.main import main

WEIGHTS = {
    "w": np.array([[1, 1], [1, -1], [0, 1]], np.float32), "b": np.array([0, 0, -0.5], np.float32),
    "v": np.array([[1, 1, 0], [0, 0, 1]], np.float32), "c": np.array([0, 0.25], np.float32),
}  # fmt: skip


def network(path: Path) -> Path:
    """Y_0 = relu(x0 + x1) + relu(x0 − x1), Y_1 = relu(x1 − 1/2) + 1/4, its batch fixed to 1."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"], transB=1),
    ]
    given, got = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y"))
    weights = [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()]
    graph = helper.make_graph(nodes, "g", [given], [got], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def prop(path: Path, bound: float) -> Path:
    """Over |x0|, |x1| ≤ 1: is Y_0 ≤ Y_1 + bound anywhere with Y_1 ≥ 1/2?  x1 ≥ 3/4 there, and Y_0 ≥ 2·x0, x0 + x1."""
    names = ("X_0", "X_1", "Y_0", "Y_1")
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(assert (<= {x} 1.0))\n(assert (>= {x} -1))" for x in names[:2]]
    lines += ["(assert (>= Y_1 0.5))", f"(assert (<= Y_0 (+ Y_1 {bound})))"]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "net": network(tmp_path / "net.onnx"),
        "unsat": prop(tmp_path / "unsat.vnnlib", -0.76),
        "sat": prop(tmp_path / "sat.vnnlib", -0.7),
        "out": tmp_path / "out",
    }


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def read_back(text: str) -> dict[str, float]:
    assert re.fullmatch(r"\((\(\w_\d+ \S+\)\s*)+\)\n", text)
    return {name: float(value) for name, value in re.findall(r"\((\w_\d+) ([^\s)]+)\)", text)}


def test_unsat_and_sat(files: dict[str, Path]) -> None:
    """Y_0 − Y_1 is least at x = (−1, 1) where Y_1 ≥ 1/2: 0 − 3/4."""
    proved = run(files["net"], files["unsat"], "--out", files["out"] / "a")
    assert proved.exit_code == 0 and proved.stdout.startswith("unsat"), proved.output
    refuted = run(files["net"], files["sat"], "--out", files["out"] / "b")
    assert refuted.exit_code == 0 and refuted.stdout.startswith("sat"), refuted.output
    row = (files["out"] / "b" / "results.csv").read_text().strip().split(",")
    assert [row[0], *row[1:3], row[4]] == ["", str(files["net"]), str(files["sat"]), "sat"]
    values = read_back((files["out"] / "b" / "net_sat.counterexample").read_text())
    x = np.array([[values["X_0"], values["X_1"]]], np.float32)
    (y,) = onnxruntime.InferenceSession(str(files["net"])).run(None, {"x": x})
    assert read_vnnlib(files["sat"]).violated_by(x[0], y[0])
    assert [values["Y_0"], values["Y_1"]] == y[0].tolist()
    assert not (files["out"] / "a" / "net_unsat.counterexample").exists()


def test_the_replay_is_onnxruntime(files: dict[str, Path]) -> None:
    subject = open_onnx(files["net"])
    assert subject.replay is not None
    assert subject.replay(np.array([0.25, 1], np.float32)).tolist() == [1.25, 0.75]


def test_a_list_is_answered_kept_and_continued(files: dict[str, Path]) -> None:
    listed = files["net"].parent / "instances.csv"
    (files["net"].parent / "bad.vnnlib").write_text("(assert")
    listed.write_text("net.onnx,unsat.vnnlib,60\nnet.onnx,bad.vnnlib,60\nnet.onnx,sat.vnnlib,60\n")
    result = run("--instances", listed, "--out", files["out"])
    assert result.exit_code == 0, result.output
    assert "bad.vnnlib', line 1: a '(' that is never closed" in result.stderr
    assert "3 instances: 1 unsat, 1 sat, 1 error" in result.stdout
    rows = [line.split(",") for line in (files["out"] / "results.csv").read_text().splitlines()]
    category = files["net"].parent.name
    assert [(r[0], r[1], r[2], r[4]) for r in rows] == [
        (category, "net.onnx", "unsat.vnnlib", "unsat"),
        (category, "net.onnx", "bad.vnnlib", "error"),
        (category, "net.onnx", "sat.vnnlib", "sat"),
    ]
    assert all(float(r[3]) >= 0 and float(r[5]) >= 0 for r in rows)
    assert "already holds results" in run("--instances", listed, "--out", files["out"]).stderr
    results = files["out"] / "results.csv"
    results.write_text("\n".join(results.read_text().splitlines()[:2]) + "\n")
    again = run("--instances", listed, "--out", files["out"], "--resume")
    assert again.exit_code == 0 and len(again.stdout.splitlines()) == 3, again.output
    assert len(results.read_text().splitlines()) == 3


@pytest.mark.parametrize("engine", [("--workers", "2"), ("--engine", "ray", "--workers", "2")])
@pytest.mark.slow
def test_a_list_on_several_processes_is_that_on_one(files: dict[str, Path], engine: tuple[str, ...]) -> None:
    """Continued, too: what is missing is answered and put in its place."""
    if "ray" in engine:
        pytest.importorskip("ray")
    folder = files["net"].parent
    listed = folder / "instances.csv"
    lines = ["net.onnx,sat.vnnlib,60", "net.onnx,absent.vnnlib,60", "net.onnx,unsat.vnnlib,60"]
    listed.write_text("\n".join([*lines, "digits-cnn,sat.vnnlib,60"]) + "\n")
    one = run("--instances", listed, "--out", files["out"])
    assert one.exit_code == 0, one.output
    (folder / "two").mkdir()
    begun = (files["out"] / "results.csv").read_text().splitlines()[2]
    (folder / "two" / "results.csv").write_text(begun + "\n")
    two = run("--instances", listed, "--out", folder / "two", "--resume", *engine)
    assert two.exit_code == 0, two.output
    assert "cannot read" in two.stderr and "absent.vnnlib" in two.stderr
    kept = {path.name for path in files["out"].iterdir()}
    assert kept == {path.name for path in (folder / "two").iterdir()} and len(kept) == 2
    rows = [
        [line.split(",")[k] for line in (out / "results.csv").read_text().splitlines() for k in (0, 1, 2, 4)]
        for out in (files["out"], folder / "two")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 16
    name = "net_sat.counterexample"
    assert (files["out"] / name).read_text() == (folder / "two" / name).read_text()


def test_an_answer_against_the_published_one_is_an_alarm(files: dict[str, Path]) -> None:
    listed = files["net"].parent / "instances.csv"
    listed.write_text("property,network,expected\nunsat.vnnlib,net.onnx,sat\nsat.vnnlib,net.onnx,sat\n")
    result = run("--instances", listed, "--timeout", "60")
    assert result.exit_code == 1
    assert "1 answers are the opposite of the expected one: net.onnx unsat.vnnlib" in result.stderr


def test_ctrl_c_shows_the_bound_so_far(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = Verdict("unknown", -0.5, 1.0, "crown", note="interrupted", interrupted=True)
    monkeypatch.setattr("certnas.jobs.verify.verify", lambda *_, **__: verdict)
    result = run(files["net"], files["unsat"])
    assert result.exit_code == 130
    assert "excess at least -0.5" in result.stdout
    assert "interrupted: 0 of 1 are done" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give a network and a property"),
        (["{net}"], "give a network and a property"),
        (["{net}", "{unsat}", "--instances", "a.csv"], "give a network and a property"),
        (["{net}", "absent.vnnlib"], "cannot read 'absent.vnnlib': No such file"),
        (["absent.onnx", "{unsat}"], "absent.onnx"),
        (["{net}", "{unsat}", "--timeout", "0"], "more than 0 seconds"),
        (["{net}", "{unsat}", "--memory", "0"], "at least 1 byte"),
        (["{net}", "{unsat}", "--resume"], "add --out DIR"),
        (["{net}", "{unsat}", "--mean", "0.5"], "verified as it is stored: leave out --mean"),
        (["{net}", "{unsat}", "--input-shape", "1,1,2"], "verified as it is stored: leave out --input-shape"),
        (["{net}", "{unsat}", "--arch-option", "a=1"], "verified as it is stored: leave out --arch-option"),
        (["{net}", "{unsat}", "--unsafe-load"], "verified as it is stored: leave out --unsafe-load"),
        (["{net}", "{unsat}", "--workers", "2"], "leave out --workers and --engine"),
        (["digits-cnn", "{unsat}"], "2 inputs and 2 outputs, the network 64 and 10"),
    ],
)
def test_refusals_are_one_line(files: dict[str, Path], arguments: list[str], line: str) -> None:
    result = run(*(a.format(**files) for a in arguments))
    assert result.exit_code == 2
    assert line in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_lists_are_read_with_and_without_header(tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    path.write_text("a.onnx,p.vnnlib,116.0\n\nb.onnx, q.vnnlib \n")
    assert read_instances(path) == [
        Instance("a.onnx", "p.vnnlib", 116.0),
        Instance("b.onnx", "q.vnnlib", None),
    ]
    path.write_text("onnx,timeout_s,vnnlib,expected\na,5,p,unsat\n")
    assert read_instances(path) == [Instance("a", "p", 5.0, "unsat")]
    for text, line in {
        "": "lists no instances",
        "a.onnx,p.vnnlib,soon": "line 1: 'soon' is not a number of seconds",
        "a.onnx,p.vnnlib,-1": "line 1: '-1' is not a number of seconds",
        "a.onnx,p.vnnlib,nan": "line 1: 'nan' is not a number of seconds",
        "a.onnx,p.vnnlib,1\na.onnx": "line 2: expected network,property,seconds",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=line):
            read_instances(path)


def test_counterexample_files() -> None:
    assert instance_name("x/net.v1.onnx.gz", "y/p_0.03.vnnlib.gz") == "net.v1_p_0.03"
    inputs = np.array([0.1, -1e-30], np.float32)
    text = counterexample_text(Counterexample(inputs, np.array([1 / 3])))
    assert text.splitlines()[0] == "((X_0 0.10000000149011612)"
    values = read_back(text)
    assert [np.float32(values["X_0"]), np.float32(values["X_1"])] == inputs.tolist()
    assert values["Y_0"] == 1 / 3


@pytest.mark.slow
def test_certify_complete_raises_radii(tmp_path: Path) -> None:
    radii = {}
    for name, more in {"plain": (), "complete": ("--complete", "--timeout", "8")}.items():
        out = tmp_path / name
        arguments = ("certify", "--images", 1, "--method", "ibp", "--out", out, *more)
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == 0, result.output
        (row,) = csv.DictReader((out / "results.csv").read_text().splitlines())
        radii[name] = (float(row["radius_lower"]), float(row["radius_upper"]))
        assert row["method"] == ("ibp" if name == "plain" else "ibp, then branch and bound")
    assert radii["plain"][0] < radii["complete"][0] <= radii["complete"][1] == radii["plain"][1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["--timeout", "5"], "--timeout 5 needs --complete"), (["--complete", "--timeout", "0"], "more than 0")],
)
def test_a_time_limit_needs_something_to_limit(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(main, ["certify", *arguments])
    assert result.exit_code == 2
    assert line in result.stderr
