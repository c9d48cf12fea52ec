"""Operators that are read as several: the same values, by operators that have rules."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fx_programs import program, same, targets
from torch import Tensor

from bounds.graph.canonical import COMPOSED, _CallWriter, _shape_of, compose

aten = torch.ops.aten
X = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHT, BIAS = (torch.linspace(a, b, 8, dtype=torch.float64).reshape(4, 2) for a, b in ((-1, 2), (0.5, -3)))
FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "layer norm": lambda x: aten.layer_norm.default(x, [4, 2], WEIGHT, BIAS, 0.1),
    "layer norm, last axis": lambda x: aten.layer_norm.default(x, [2]),
    "layer norm, no weight": lambda x: aten.layer_norm.default(x, [4, 2], None, BIAS),
    "layer norm, no bias": lambda x: aten.layer_norm.default(x, [4, 2], WEIGHT),
    "greatest": lambda x: aten.amax.default(x, [1]),
    "greatest of two axes": lambda x: aten.amax.default(x, [3, -3]),
    "greatest, axes kept": lambda x: aten.amax.default(x, [-1, 2], True),
    "greatest of all axes": lambda x: aten.amax.default(x, [1, 2, 3]),
    "least": lambda x: aten.amin.default(x, [2]),
    "least, axis kept": lambda x: aten.amin.default(x, [-3], True),
    "values of max": lambda x: operator.getitem(aten.max.dim(x, 2), 0),
    "values of min, kept": lambda x: operator.getitem(aten.min.dim(x, -1, True), 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_they_are_the_same(name: str) -> None:
    made = program(FUNCTIONS[name], X)
    compose(made)
    same(made, FUNCTIONS[name], X)
    assert not {str(target).removeprefix("aten.") for target in COMPOSED} & set(targets(made))
    for node in made.graph.nodes:
        if node.op == "call_function":
            assert node.meta["val"].shape[0] == 2


def test_the_epsilon_by_default() -> None:
    tiny = X * 1e-3
    made = program(lambda x: aten.layer_norm.default(x, [2]), tiny)
    compose(made)
    same(made, lambda x: aten.layer_norm.default(x, [2]), tiny)


def test_several_images_stay_as_they_are() -> None:
    for function in (
        lambda x: aten.amax.default(x, [0, 1]),
        lambda x: aten.amax.default(x),
        lambda x: aten.amax.default(x, [-4]),
    ):
        made = program(function, X)
        compose(made)
        same(made, function, X)
        assert targets(made) == ["amax.default"]


def test_an_output_that_nothing_is_read_as_stays() -> None:
    """Values become operators of their own; places, which have no bounds, keep the operator."""

    def both(x: Tensor) -> Tensor:
        found = aten.max.dim(x, 1)
        return operator.getitem(found, 0) + operator.getitem(found, 1)

    made = program(both, X)
    compose(made)
    same(made, both, X)
    assert "max.dim" in targets(made) and "max_pool2d.default" in targets(made)


def test_what_nobody_reads_goes() -> None:
    def unread(x: Tensor) -> Tensor:
        found = aten.max.dim(x, 1)
        operator.getitem(found, 1)
        return operator.getitem(found, 0)

    made = program(unread, X)
    compose(made)
    same(made, unread, X)
    assert "max.dim" not in targets(made)


def test_a_writer_says_whose_call_it_was() -> None:
    made = program(lambda x: aten.amin.default(x, [1]), X)
    (node,) = (n for n in made.graph.nodes if n.op == "call_function")
    node.meta["nn_module_stack"], node.meta["other"] = {"a": ("cells.1", None)}, 1
    assert _shape_of(node) == (4, 2)
    assert set(_CallWriter(node)(aten.neg.default, node.args[0]).meta) == {"nn_module_stack", "val"}
    compose(made)
    made_nodes = [n for n in made.graph.nodes if n.op == "call_function"]
    assert made_nodes and all(n.meta["nn_module_stack"] == {"a": ("cells.1", None)} for n in made_nodes)


def test_a_program_without_them_is_left_alone() -> None:
    made = program(lambda x: aten.relu.default(x), X)
    compose(made)
    assert targets(made) == ["relu.default"]
