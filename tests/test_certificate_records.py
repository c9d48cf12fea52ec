"""Certificates in the making: what is moved outward and by how much, what is refuted, how leaves become parts."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from property_networks import dense
from torch import Tensor, nn

import bounds
from bounds.chunking import MemoryBudget
from bounds.relaxation import Diagonal
from bounds.relaxation import Plane as Engine
from certnas.certifier import Certificates
from certnas.checker import Certificate, CertificatePart, ClaimedPlane, Planes, Refutation, Split
from certnas.errors import UserError
from certnas.proofs import plain, properties, writing
from certnas.proofs.outward import SLACK, Outward, _lifted, _own, below, written
from certnas.proofs.properties import _binding, _Region
from certnas.proofs.record import CertificateRecord, area, relaxations
from certnas.proofs.writing import Writer, Written, open_folder, with_files
from certnas.verifier.relaxed import UnitSplit as Halving

DOUBLE = torch.float64


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


# Outward.


def test_bounds_and_planes_are_moved_outward_by_their_shares() -> None:
    assert SLACK == 2.0**-34
    assert below(tensor([0.0, 3.0, -3.0]), 0.25).tolist() == [-0.25, 2.0, -4.0]
    slopes = tensor([[[2.0, -4.0]]])
    plane = Engine(Diagonal((slopes,), ((2,),)), tensor([[[1.0, -8.0]]]))
    size = tensor([[[3.0, 0.5]]])
    terms = tensor([[[6 + 1 + 2.0**-30, 2 + 8 + 2.0**-30]]])
    for sign in (-1, 1):
        lifted = _lifted(plane, size, sign)
        torch.testing.assert_close(lifted.bias, plane.bias + sign * 2.0**-40 * terms, rtol=0, atol=0)
        assert lifted.map is plane.map


def test_planes_are_written_for_an_image_and_a_row() -> None:
    rows = tensor([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]])
    plane = Engine(Diagonal((rows,), ((2,),)), rows + 10)
    every = written(plane, 1, None)
    assert every.slope.tolist() == [[5, 6], [7, 8]] and every.bias.tolist() == [[15, 16], [17, 18]]
    assert written(plane, 0, 1).slope.tolist() == [[3, 4]]
    shared = Engine(Diagonal((rows[:1, :1],), ((2,),)), rows + 10)
    assert written(shared, 1, 1).slope.tolist() == [[5 - 4, 6 - 4]] and written(
        shared, 1, 0
    ).bias.tolist() == [[15, 16]]
    assert _own(rows[:1], 1, None).tolist() == rows[0].tolist() and _own(rows[:, :1], 1, 5).tolist() == [
        [5, 6]
    ]


@pytest.fixture(scope="module")
def made() -> tuple[bounds.Network, Any]:
    network = bounds.trace(dense(1, 2, 6, 6, 2), torch.zeros(1, 2, dtype=DOUBLE)).bind()
    return network, plain(network)


def outward(network: bounds.Network, slack: float = 2.0**-10, kind: Any = Outward) -> Any:
    region = bounds.Linf(tensor([[0.1, -0.2], [0.4, 0.3]]), tensor([0.5, 0.75]))
    kept = (network, region, MemoryBudget(1 << 20), bounds.Slope.ADAPTIVE)
    return kind(*kept, slack) if kind is Outward else kind(*kept)


def test_an_analysis_is_wider_than_the_engines_by_its_slack(made: Any) -> None:
    from bounds.state import BoundState

    network, _ = made
    plainly, widened = outward(network, kind=BoundState), outward(network)
    assert outward(network, SLACK).slack == 2.0**-34 and not widened._by_sign("any")
    with torch.no_grad():
        for target in plainly.facts.readers:
            plainly.refine(target)
            widened.refine(target)
            break
        x, wide = plainly.intervals[target], widened.intervals[target]
        assert torch.equal(wide.lower, below(x.lower, 2.0**-10)) and torch.equal(
            wide.upper, -below(-x.upper, 2.0**-10)
        )
        widened.widen(target)
        assert torch.equal(widened.intervals[target].lower, below(wide.lower, 2.0**-10))
        again = widened.again()
        assert again.slack == widened.slack and set(again.intervals) >= {target}
        node = widened.relaxed_before(network.graph.output)[-1]
        for name in widened.facts.readers:
            widened.refine(name)
        relaxation_at = widened.relaxation_at(node, widened.default_alphas(node))
        operand = widened.intervals[network.graph.nodes[node].operands[0]]
        points = torch.stack([operand.lower, operand.upper, operand.lower / 2 + operand.upper / 2]).unsqueeze(
            2
        )
        for z in points:
            value = network.call(network.graph.nodes[node]).apply(z)
            low, high = (p.map.apply(z) + p.bias for p in (relaxation_at.lower, relaxation_at.upper))
            assert bool((low < value).all() and (high > value).all()), "strictly"


# Records.


def test_what_is_refuted_is_above_zero_by_the_slack() -> None:
    record = CertificateRecord(SimpleNamespace(), 0.25)  # type: ignore[arg-type]
    assert record.backed(np.array([0.0, 3.0, -1.0])).tolist() == [-0.25, 2.0, -1.5]
    third = 1 / 3  # 1/3 less (1 + 1/3) / 4 is 0
    excess = np.array([[0.1, 1.0], [third, -9], [0.34, 0.0], [np.nan, 2.0], [np.nan, -1], [-1, -2]])
    found, places = record.refuted(excess, [10, 11, 12, 13, 14, 15], {"r": "planes0"}, 2)
    assert places == [0, 2, 3] and found.clauses == (10, 12, 13) and found.planes == {"r": "planes0"}
    assert found.bounds.tolist() == [0.5, pytest.approx(0.005), 1.25]
    assert found.mix.tolist() == [[0, 1], [1, 0], [0, 1]] and found.multipliers.tolist() == [[0, 0]] * 3
    assert record.refuted(excess[:1], [5], {})[0].multipliers.shape == (1, 0)


def test_planes_are_kept_once() -> None:
    record = CertificateRecord(SimpleNamespace(ids={"a": "A", "b": "B"}))  # type: ignore[arg-type]
    one, two = (
        Planes(*(ClaimedPlane(np.full((1, 2), v), np.zeros((1, 2))) for v in (x, x + 1))) for x in (1.0, 5.0)
    )
    assert [record.key("a", one), record.key("a", two), record.key("a", one)] == [
        "planes0",
        "planes1",
        "planes0",
    ]
    assert record.key("b", one) == "planes2" and list(record.planes) == ["planes0", "planes1", "planes2"]
    assert record.slack == 2.0**-34


@pytest.mark.parametrize("norm", bounds.NORMS)
def test_the_area_is_the_ball_and_its_box(norm: str) -> None:
    x = tensor([[0.1, 0.9]])
    free = area(bounds.NORMS[norm](x, 0.25))
    assert (free["norm"], free["eps"], free["x"].tolist()) == (norm, 0.25, [0.1, 0.9])
    low, high = free["box"]
    assert (low < x[0].numpy() - 0.25 + 1e-16).all() and (low > x[0].numpy() - 0.25 - 1e-15).all()
    assert (high > x[0].numpy() + 0.25 - 1e-16).all() and (high < x[0].numpy() + 0.25 + 1e-15).all()
    low, high = area(bounds.NORMS[norm](x, 0.25, 0.0, 1.0))["box"]
    assert low[0] == 0 and high[1] == 1 and low[1] == free["box"][0][1] and high[0] == free["box"][1][0]
    low, high = area(bounds.NORMS[norm](x, 0.25, None, 1.0))["box"]
    assert low[0] < -0.1 and high[1] == 1


def test_steps_claim_every_image(made: Any) -> None:
    network, checker = made
    record, analysis = CertificateRecord(checker, 2.0**-20), outward(network, 2.0**-20)
    with torch.no_grad():
        steps = record.steps(analysis, {})
        readers = [name for name in analysis.facts.readers if name != network.graph.output]
        assert [[step.target for step in own] for own in steps] == [
            [checker.ids[name] for name in readers]
        ] * 2
        for image, own in enumerate(steps):
            for name, step in zip(readers, own, strict=True):
                assert step.lower.tolist() == analysis.intervals[name].lower[image].tolist()
                assert step.upper.tolist() == analysis.intervals[name].upper[image].tolist()
                assert set(step.planes) == {checker.ids[n] for n in analysis.relaxed_before(name)}
        rows = torch.eye(2, dtype=DOUBLE).repeat(2, 1, 1)
        formed, boxed = record.formed(analysis, rows), record.boxed(analysis, rows)
        assert (
            formed.lower.shape == boxed.lower.shape == (2, 2) and len(formed.planes) == len(boxed.planes) == 2
        )
        assert set(relaxations(analysis, network.graph.output, None)) == set(
            analysis.relaxed_before(network.graph.output)
        )
        (node,) = boxed.planes[0]
        constant = record.planes[boxed.planes[1][node]]
        assert not constant.lower.slope.any() and not constant.upper.slope.any()
        assert (constant.lower.bias <= constant.upper.bias).all()
    none = CertificateRecord(checker).steps(outward(network), None)
    assert none == [[], []]


# Leaves.


def test_a_multiplier_belongs_to_the_tightest_split_from_above() -> None:
    asked = ("a0+", "a0+", "a1-", "a1+", "a2+", "a2-", "b0+", "a1-")
    splits = [Halving(node, int(unit), 0.5, 1 if side == "+" else -1) for node, unit, side in asked]
    assert _binding(splits) == {("a", 0): 1, ("a", 1): 7, ("a", 2): 5, ("b", 0): 6}


def region() -> Any:
    found = _Region.__new__(_Region)
    graph = SimpleNamespace(input="x", nodes={"relu": SimpleNamespace(operands=("z",))})
    found.problem = SimpleNamespace(network=SimpleNamespace(graph=graph))  # type: ignore[assignment]
    found.record = SimpleNamespace(plain=SimpleNamespace(ids={"x": "X", "z": "Z"}))  # type: ignore[assignment]
    found.parts = [CertificatePart((), ())]
    return found


def leaf(*splits: Halving) -> tuple[tuple[Halving, ...], CertificatePart]:
    name = "".join("-" if split.side < 0 else "+" for split in splits)
    return splits, CertificatePart(
        (), (Refutation((len(name),), np.zeros((1, 1)), np.zeros(1), {"leaf": name}, np.zeros((1, 0))),)
    )


def test_leaves_become_a_tree() -> None:
    def first(side: int) -> Halving:
        return Halving("relu", 3, 0.5, side)

    def second(side: int) -> Halving:
        return Halving("x", 1, 0.25, side)

    leaves = [leaf(first(1)), leaf(first(-1), second(1)), leaf(first(-1), second(-1))]
    found = region()
    found._grow(0, leaves, 0)
    parts = found.parts
    assert [part.splits for part in parts] == [
        (Split("Z", 3, 0.5, (1, 2)),), (Split("X", 1, 0.25, (3, 4)),), (), (), ()
    ]  # fmt: skip
    assert [[r.planes["leaf"] for r in part.refutations] for part in parts] == [[], [], ["+"], ["--"], ["-+"]]


def test_a_tree_has_a_greatest_depth() -> None:
    assert properties.DEEPEST == 300
    for depth, fits in ((300, True), (301, False)):
        splits = tuple(Halving("x", 0, 0.5**k, -1) for k in range(depth))
        leaves = [leaf(*splits)]
        leaves += [leaf(*splits[:k], replace(splits[k], side=1)) for k in range(depth)]
        found = region()
        if fits:
            found._grow(0, leaves, 0)
            assert len(found.parts) == 2 * depth + 1
        else:
            with pytest.raises(properties.Uncertified, match="is deeper than 300"):
                found._grow(0, leaves, 0)


# Files of images.


def certificates(**changes: Any) -> Certificates:
    kept: dict[str, Any] = {
        "norm": "linf", "method": "crown", "proved_by": ("crown",) * 3, "proof": ("",) * 3,
        "index": np.array([7, 8, 9]),
        "label": np.array([0, 0, 1]), "prediction": np.array([0, 1, 1]), "target": np.full(3, -1),
        "radius_lower": np.array([0.25, 0.0, 0.0625]), "radius_upper": np.full(3, np.inf),
        "status": ("certified", "misclassified", "certified"), "seconds": np.zeros(3), "evaluations": np.zeros(3, int),
    }  # fmt: skip
    return Certificates(**kept | changes)


def test_images_are_named_with_their_files(tmp_path: Path) -> None:
    written_ = [Written(7, tmp_path / "a.npz", 0.125, 0.25), Written(9, None, 0.0, 0.5, "no CROWN proof")]
    found = with_files(certificates(), written_)
    assert found.proof == ("a.npz", "", "") and found.radius_lower.tolist() == [0.125, 0, 0.0625]
    open_folder(tmp_path / "a" / "b")
    open_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(UserError, match="cannot write to"):
            open_folder(where)


def writer(tmp_path: Path, **more: Any) -> tuple[Writer, Tensor]:
    model = nn.Sequential(nn.Linear(2, 3)).double().requires_grad_(False).eval()
    model[0].weight.copy_(tensor([[1.0, 0], [0, 1], [-1, -1]]))
    model[0].bias.copy_(tensor([0.5, 0, 0]))
    x = tensor([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]])
    kept: dict[str, Any] = {"method": bounds.IBP(), "clip": (0.0, 1.0)} | more
    return Writer(model, x, tmp_path / "proofs", **kept), x


def test_each_certified_image_has_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_, x = writer(tmp_path, about={"model": "m"})
    assert made_.method == bounds.Crown() and (tmp_path / "proofs").is_dir() and made_.target is None
    asked: list[Any] = []

    def assured(make: Any, network: Any) -> bytes | None:
        (found,) = make(2.0**-34)
        asked.append(found)
        return None if len(asked) in (1, 2) else b"data"

    monkeypatch.setattr(writing, "assured", assured)
    y = torch.tensor([0, 0, 1])
    found = made_.write(x, y, certificates())
    shrunk = 0.25 * (1 - 1e-3) * (1 - 2e-3)
    paths = [tmp_path / "proofs" / f"image-{n:06d}.npz" for n in (7, 9)]
    assert found == [Written(7, paths[0], pytest.approx(shrunk), 0.25), Written(9, paths[1], 0.0625, 0.0625)]
    assert [path.read_bytes() for path in paths] == [b"data"] * 2
    assert [one.eps for one in asked] == pytest.approx([0.25, 0.25 * (1 - 1e-3), shrunk, 0.0625])
    assert asked[0].x.tolist() == [0.75, 0.25] and asked[3].x.tolist() == [0.125, 0.875]
    assert asked[0].rows[:, 0].tolist() == [[1, -1, 0], [1, 0, -1]] and asked[3].rows[0, 0].tolist() == [
        -1,
        1,
        0,
    ]
    about = dict(asked[0].about)
    assert (about["index"], about["label"], about["method"], about["model"]) == (7, 0, "crown", "m")
    assert asked[0].box[0].min() >= 0 and asked[0].box[1].max() <= 1


def test_an_image_without_a_proof_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_, x = writer(tmp_path, targets="least", method=bounds.AlphaCrown(3), tol=0.1)
    assert made_.method == bounds.AlphaCrown(3)
    tried: list[float] = []

    def never(make: Any, network: Any) -> None:
        found = make(2.0**-34)
        assert found is None or isinstance(found[0], Certificate)
        tried.append(0.0 if found is None else found[0].eps)
        assert found is None or len(found[0].rows) == 1, "one class alone"

    monkeypatch.setattr(writing, "assured", never)
    one = certificates(radius_lower=np.array([0.25, 0, 0]))
    y = torch.tensor([0, 0, 1])
    assert made_.write(x, y, one) == [Written(7, None, 0.0, 0.25, "no CROWN proof")]
    eps, expected = 0.25, []
    for attempt in range(8):
        expected.append(eps)
        eps *= max(1 - 0.1 * 2**attempt, 0.5)
    assert tried == pytest.approx(expected)

    def large(make: Any, network: Any) -> None:
        raise ValueError("it takes 9 bytes")

    monkeypatch.setattr(writing, "assured", large)
    assert made_.write(x, y, one) == [Written(7, None, 0.0, 0.25, "it takes 9 bytes")]
    assert list((tmp_path / "proofs").iterdir()) == [] and math.isinf(one.radius_upper[0])
