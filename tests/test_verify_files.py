"""Lists of instances, results and counterexamples as files; networks as they are opened."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from certnas.errors import UserError
from certnas.verifier import Box, Clause, Constraint, Property, network_of, subject
from certnas.verifier.instances import (
    Instance,
    Result,
    counterexample_text,
    instance_name,
    read_instances,
    read_results,
    write_results,
)
from certnas.verifier.subject import Subject, is_onnx, of_opened, open_onnx
from certnas.verifier.verdict import Counterexample


def test_instances_with_and_without_names_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    for text, expected in (
        ("a, p ,5\n\nb,q\nc,r,\n", [("a", "p", 5.0, ""), ("b", "q", None, ""), ("c", "r", None, "")]),
        ("timeout,property,network\n0,p,a\n", [("a", "p", 0.0, "")]),
        ("vnnlib,onnx\np,a,7\n", [("a", "p", None, "")]),
        (
            "x,network,vnnlib,timeout_s,expected\n,a,p,2.5, sat\n,b,q\n",
            [("a", "p", 2.5, "sat"), ("b", "q", None, "")],
        ),
        ("network,p\n", [("network", "p", None, "")]),
    ):
        path.write_text(text)
        assert read_instances(path) == [Instance(*row) for row in expected], text
    for text, said in (
        ("", "lists no instances"), ("\n\n", "lists no instances"),
        ("a\n", "line 1: expected network,property,seconds; got 'a'"),
        ("a,p,1\n\nb,q,x\n", "line 3: 'x' is not a number of seconds"), ("a,p,-1e-9", "line 1: '-1e-9'"),
        ("onnx,y,vnnlib\na,b\n", "line 2: expected"), ("a,p,nan\n", "'nan' is no"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_instances(path)
    path.write_text("network,property\n")
    assert read_instances(path) == []
    for broken in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_instances(broken)


def test_results_are_written_and_read_back(tmp_path: Path) -> None:
    results = [Result("c", "a,b", "p", 0.25, "sat", 1.5), Result("", "n", "q", 0.0, "unknown", 2.0004)]
    write_results(tmp_path, results)
    assert (tmp_path / "results.csv").read_text() == 'c,"a,b",p,0.250,sat,1.500\n,n,q,0.000,unknown,2.000\n'
    assert read_results(tmp_path) == [results[0], Result("", "n", "q", 0.0, "unknown", 2.0)]
    assert read_results(tmp_path / "none") == []
    for text in ("a,b,c\n", "a,b,c,x,d,1\n", "a,b,c,1,d,x\n"):
        (tmp_path / "results.csv").write_text(text)
        with pytest.raises(UserError, match="it contains no results of this command"):
            read_results(tmp_path)
    assert instance_name("d/a.b.onnx", "p.vnnlib.gz") == "a.b_p" and instance_name("a.onnx.gz", "p") == "a_p"
    found = Counterexample(np.array([0.1, 2], np.float32), np.array([1 / 3, -4.0]))
    lines = counterexample_text(found).splitlines()
    assert lines == ["((X_0 0.10000000149011612)", " (X_1 2.0)", f" (Y_0 {1 / 3!r})", " (Y_1 -4.0))"]
    assert counterexample_text(found).endswith(")\n")


# Networks.


def stored(path: Path, batch: int | str, *outputs: str) -> Path:
    """r = relu(x) of two inputs, and y = 2 r."""
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "w"], ["y"])]
    given, *got = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 2])
        for name in ("x", *(outputs or ("y",)))
    )
    graph = helper.make_graph(
        nodes, "g", [given], got, [numpy_helper.from_array(np.array(2, np.float32), "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("batch", [1, 3, "n"])
def test_a_stored_network_is_replayed_as_it_is(batch: int | str, tmp_path: Path) -> None:
    opened = open_onnx(stored(tmp_path / "a.onnx", batch))
    assert opened.replay is not None
    found = opened.replay(np.array([0.25, -1], np.float32))
    assert found.tolist() == [0.5, 0.0] and found.dtype == np.float64
    assert opened.network(torch.tensor([[0.25, -1.0]], dtype=torch.float64)).tolist() == [[0.5, 0.0]]


def test_one_of_two_outputs_is_taken(tmp_path: Path) -> None:
    opened = open_onnx(stored(tmp_path / "a.onnx", 1, "y", "r"), output="r")
    assert opened.replay is not None and opened.replay(np.array([0.25, -1], np.float32)).tolist() == [
        0.25,
        0.0,
    ]


def test_networks_are_known_by_their_names(tmp_path: Path) -> None:
    assert [is_onnx(name) for name in ("a.onnx", "a.onnx.gz", "a.pt", "onnx")] == [True, True, False, False]
    with pytest.raises(UserError, match="cannot read"):
        open_onnx(tmp_path / "none.onnx")
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
    own = of_opened(SimpleNamespace(module=model, input_shape=(1, 1, 2)))  # type: ignore[arg-type]
    assert own.replay is None and own.module is model and own.network.graph.input_shape == (1, 1, 2)


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_a_network_is_compared_at_some_boxes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2).double().eval()
    given = Subject(model, network_of(model, (2,)), None)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        subject,
        "Faithful",
        lambda *_: type("Told", (), {"check": lambda self, points: seen.append(points)})(),
    )
    above = Constraint(((0, Fraction(1)),), Fraction(0))
    boxes = [Box(((Fraction(k), Fraction(k + 1)), (Fraction(0), Fraction(1)))) for k in range(count)]
    given.check(Property(2, 2, tuple(Clause(box, (above,)) for box in boxes for _ in range(2))))
    (points,) = seen
    expected = {1: [0], 4: [0, 1, 2, 3], 5: [0, 2, 4], 9: [0, 3, 6]}[count]
    assert points.shape == (5 * len(expected), 2) and points.dtype == torch.float64
    # random points, corners and the middle of each
    assert points[4::5].tolist() == [[k + 0.5, 0.5] for k in expected]
    for place, k in enumerate(expected):
        own = points[5 * place : 5 * place + 5]
        assert bool(((own[:, 0] >= k) & (own[:, 0] <= k + 1)).all())
    for other in (Property(2, 2, ()), Property(3, 2, tuple(Clause(box, (above,)) for box in boxes))):
        given.check(other)
    assert len(seen) == 1
