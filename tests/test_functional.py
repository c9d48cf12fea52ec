"""What functionalisation leaves, as operators that have bounds: pieces, slices of parts, and who may write in place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fx_programs import program, same, targets
from torch import Tensor

import bounds
from bounds.graph import functionalise as f
from bounds.graph.functionalise import REWRITTEN
from bounds.graph.trace import program_of

aten = torch.ops.aten
X = torch.arange(60.0, dtype=torch.float64).reshape(3, 5, 4)
Y = -1 - torch.arange(60.0, dtype=torch.float64).reshape(3, 5, 4)
SLICES = [
    (1, 1, 3, 1), (-1, 0, 2, 1), (1, None, None, 1), (2, 1, None, 1), (1, -2, 2**63 - 1, 1), (1, 0, 5, 2), (1, 1, 5, 3),
    (2, 0, 4, 3), (1, 4, 2, 1), (1, None, 2, 1), (1, 0, 2**63 - 1, 1), (2, 3, 4, 1), (1, 0, 5, 1), (1, 2, 9, 2),
]  # fmt: skip


@pytest.mark.parametrize(("dim", "start", "end", "step"), SLICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_slice_is_replaced(dim: int, start: Any, end: Any, step: int, dtype: torch.dtype) -> None:
    new = aten.slice.Tensor(Y, dim, start, end, step).to(dtype)
    found = REWRITTEN[aten.slice_scatter.default](X, new, dim, start, end, step)
    assert found.dtype is X.dtype
    assert torch.equal(found, aten.slice_scatter.default(X, new.to(X.dtype), dim, start, end, step))


@pytest.mark.parametrize(("dim", "index"), [(1, 0), (1, -1), (-1, 2), (2, -4), (1, 4)])
def test_a_place_is_replaced(dim: int, index: int) -> None:
    new = Y.select(dim, index)
    found = REWRITTEN[aten.select_scatter.default](X, new, dim, index)
    assert torch.equal(found, aten.select_scatter.default(X, new, dim, index))


@pytest.mark.parametrize(
    ("dim", "places"), [(1, [0]), (1, [3, 1]), (2, [-1, 0]), (1, [2, 2]), (2, [1, 3, 0])]
)
def test_places_are_replaced(dim: int, places: list[int]) -> None:
    index = torch.tensor(places)
    indices = [*[None] * dim, index]
    for new in (Y.index_select(dim, index % X.shape[dim]), torch.tensor(7.0)):
        found = REWRITTEN[aten.index_put.default](X, indices, new)
        assert torch.equal(found, torch.ops.aten.index_put(X, indices, new.double()))
    filled = REWRITTEN[aten.index_fill.int_Scalar](X, dim - 3, index % X.shape[dim], 2.5)
    assert torch.equal(filled, X.index_fill(dim, index % X.shape[dim], 2.5))


@pytest.mark.parametrize(
    "given",
    [
        ([torch.tensor([0])], False), ([None, torch.tensor([0])], True),
        ([None, torch.tensor([0]), torch.tensor([1])], False), ([None, torch.tensor([[0]])], False),
        ([None, torch.ones(5, dtype=torch.bool)], False), ([None, None], False),
    ],
)  # fmt: skip
def test_what_is_left_to_torch(given: tuple[list[Tensor | None], bool]) -> None:
    assert REWRITTEN[aten.index_put.default](X, given[0], torch.tensor(0.0), given[1]) is NotImplemented
    assert REWRITTEN[aten.index_fill.int_Scalar](X, 0, torch.tensor([0]), 1.0) is NotImplemented
    assert REWRITTEN[aten.index_fill.int_Scalar](X, -3, torch.tensor([0]), 1.0) is NotImplemented


def test_copies_and_fills() -> None:
    copy = REWRITTEN[aten.copy.default]
    assert copy(X, Y) is Y
    assert torch.equal(copy(X, Y[:, :1]), Y[:, :1].expand_as(X)) and copy(X, Y.float()).dtype is X.dtype
    assert copy(X, Y[0, 0].float()).shape == X.shape and copy(X, Y[0, 0].float()).dtype is X.dtype
    assert torch.equal(REWRITTEN[aten.fill.Scalar](X, 2.0), torch.full_like(X, 2.0))
    filled = REWRITTEN[aten.fill.Tensor](X, torch.tensor(3))
    assert torch.equal(filled, torch.full_like(X, 3.0)) and filled.dtype is X.dtype


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), True), ((None, None), True), ((0, None, 1), True), ((0, 2**62), True), ((0, 2**62 - 1), False),
        ((1, None), False), ((0, None, 2), False), ((0, "N"), False),
    ],
)  # fmt: skip
def test_a_slice_that_leaves_nothing_out(given: tuple[Any, ...], expected: bool) -> None:
    assert f._is_whole(*given) is expected


def test_in_place_operators_and_their_forms() -> None:
    assert f.mutable(aten.relu_.default) and not f.mutable(aten.relu.default) and not f.mutable(len)
    assert f.out_of_place(aten.relu_.default) is aten.relu.default
    assert f.out_of_place(aten.add_.Tensor) is aten.add.Tensor
    assert f.out_of_place(aten.clamp_.default) is aten.clamp.default
    assert f.out_of_place(aten.random_.default) is aten.random.default
    assert f.out_of_place(aten.set_.source_Tensor) is not aten.set_.source_Tensor
    assert f.out_of_place(aten.resize_.default) is None or f.out_of_place(aten.resize_.default)._schema
    assert f._of_one_argument(aten.relu_.default) and f._of_one_argument(aten.mul_.Tensor)
    assert not f._of_one_argument(aten.relu.default)
    assert not f._of_one_argument(aten.fill_.Scalar), "its form is rewritten"
    assert not f._of_one_argument(aten.add.out)


def nodes(made: Any) -> list[Any]:
    return [n for n in made.graph.nodes if n.op != "output"]


def test_who_sees_what_is_written() -> None:
    made = program(lambda x, w: aten.relu_.default(aten.mul.Tensor(x, w)), X.clone(), Y)
    *_, write = nodes(made)
    assert f.reads_alone(write) and not f._writes(write)
    made = program(
        lambda x, w: aten.add.Tensor(aten.relu_.default(y := aten.mul.Tensor(x, w)), y), X.clone(), Y
    )
    write = nodes(made)[3]
    assert write.target is aten.relu_.default and not f.reads_alone(write) and f._writes(write)
    made = program(lambda x: aten.relu_.default(aten.view.default(x, [-1])), X.clone())
    *_, write = nodes(made)
    assert not f.reads_alone(write), "a view is no new memory"
    made = program(lambda x: aten.relu_.default(aten.tanh_.default(aten.mul.Tensor(x, 2.0))), X.clone())
    assert f.reads_alone(nodes(made)[-1]) and f.reads_alone(nodes(made)[-2])
    made = program(lambda x, c: [aten.add_.Tensor(c, 1.0), aten.relu.default(x)][1], X, Y.clone())
    counter = next(n for n in made.graph.nodes if n.target is aten.add_.Tensor)
    assert f.reads_alone(counter), "a counter that nothing reads"
    made = program(lambda x: aten.relu_.default(x), X.clone())
    assert not f.reads_alone(nodes(made)[-1])
    made = program(lambda x: aten.relu.default(x), X)
    assert not f._writes(nodes(made)[-1])


def normalised(training: bool, again: int) -> Any:
    def function(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        y = aten.batch_norm.default(x, None, None, mean, var, training, 0.1, 1e-5, False)
        for which in (mean, var)[again - 1 : again] if again else ():
            y = y + which.reshape(1, -1, 1)
        return y

    made = program(function, X.clone(), torch.zeros(5).double(), torch.ones(5).double())
    return next(n for n in made.graph.nodes if n.target is aten.batch_norm.default)


@pytest.mark.parametrize(
    ("training", "again", "expected"), [(True, 0, False), (True, 1, True), (True, 2, True), (False, 1, False)]
)
def test_statistics_that_a_normalisation_writes_to(training: bool, again: int, expected: bool) -> None:
    assert f._writes(normalised(training, again)) is expected


CUT: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "within one": (lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), 1, 1, 4), ["slice.Tensor"]),
    "one whole": (lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), 1, 5, 10), []),
    "over both": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), 1, 3, 8),
        ["slice.Tensor", "slice.Tensor", "cat.default"],
    ),
    "from the end": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], -1), 2, -6, -1),
        ["slice.Tensor", "slice.Tensor", "cat.default"],
    ),
    "all of one, some of the other": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), -2, 0, 6), ["slice.Tensor", "cat.default"]
    ),
    "along the other axis": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), 2, 1, 3), ["cat.default", "slice.Tensor"]
    ),
    "with steps": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), 1, 0, 8, 2), ["cat.default", "slice.Tensor"]
    ),
    "with a step of one": (lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), 1, 6, 8, 1), ["slice.Tensor"]),
    "of nothing": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([x, y], 1), 1, 4, 2), ["cat.default", "slice.Tensor"]
    ),
    "along the first axis": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([x, y]), 0, 2, 4),
        ["slice.Tensor", "slice.Tensor", "cat.default"],
    ),
    "of all": (lambda x, y: aten.relu.default(aten.slice.Tensor(x, 1, 0, 2**63 - 1)), ["relu.default"]),
    "of a slice": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([aten.slice.Tensor(x, 1, 1, 4), y], 1), 1, 1, 2),
        ["slice.Tensor"],
    ),
    "of a slice along another axis": (
        lambda x, y: aten.slice.Tensor(aten.cat.default([aten.slice.Tensor(x, 2, 1, 4), y[:, :, 1:]], 1), 1, 1, 2),
        ["slice.Tensor", "slice.Tensor"],
    ),
    "joins of joins": (
        lambda x, y: aten.cat.default([x, aten.cat.default([y, x], 1), y], 1), ["cat.default"]
    ),
    "joins along other axes": (
        lambda x, y: aten.cat.default([aten.cat.default([x, y], 2), aten.cat.default([y, x], 2)], 1),
        ["cat.default"] * 3,
    ),
    "joins counted from the end": (
        lambda x, y: aten.cat.default([aten.cat.default([x, y], -2), y], -2), ["cat.default"]
    ),
    "not of a join": (lambda x, y: aten.slice.Tensor(aten.relu.default(x), 1, 1, 3), ["relu.default", "slice.Tensor"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_slices_of_joins_are_slices_of_the_parts(name: str) -> None:
    function, expected = CUT[name]
    made = program(function, X, Y)
    f._slice_before_cat(made)
    made.graph.eliminate_dead_code()
    same(made, function, X, Y)
    found = [t for t in targets(made) if "getitem" not in t]
    assert found == expected
    for node in made.graph.nodes:
        if node.op == "call_function" and len(node.users):
            value = node.target(*torch.fx.map_arg(node.args, lambda n: n.meta["val"]))
            assert value.shape == node.meta["val"].shape


def test_an_unbind_is_read_as_the_views_that_it_returns() -> None:
    def pieces(x: Tensor) -> Tensor:
        one, other = aten.unbind.int(x, 1), aten.unbind.int(x)
        return (
            operator.getitem(one, 0)[:, :1]
            + operator.getitem(one, 3)[:, 1:2]
            + operator.getitem(other, 2)[:3, 2:3]
        )

    made = program(pieces, X)
    f._select_instead_of_unbind(made)
    same(made, pieces, X)
    assert targets(made).count("select.int") == 3 and not any("unbind" in t for t in targets(made))
    named = program(lambda x: operator.getitem(aten.unbind.int(x, dim=2), 1), X)
    f._select_instead_of_unbind(named)
    same(named, lambda x: x[:, :, 1], X)

    def whole(x: Tensor) -> Tensor:
        return aten.stack.default(aten.unbind.int(x, 1), 0)

    kept = program(whole, X)
    f._select_instead_of_unbind(kept)
    same(kept, whole, X)
    assert "unbind.int" in targets(kept)


def test_a_program_that_writes_nothing_is_left_alone() -> None:
    made = program(lambda x: aten.relu_.default(aten.mul.Tensor(x, 2.0)), X.clone())
    assert f.functional(made) is made


class Written(torch.nn.Module):
    """Two columns are replaced, and two others read."""

    def forward(self, x: Tensor) -> Tensor:
        y = 2 * x
        y[:, 1:3] = torch.relu(x[:, :2])
        return y[:, :1] + y[:, 2:3]


def test_what_was_overwritten_is_not_read_any_more() -> None:
    """A slice of what was put together anew is a slice of its parts."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    made = program_of(Written(), x)
    cuts = [n for n in made.graph.nodes if n.target is aten.slice.Tensor]
    assert cuts and all(n.args[0].target is not aten.cat.default for n in cuts)
    torch.testing.assert_close(bounds.trace(Written(), x).bind()(x), Written()(x))
