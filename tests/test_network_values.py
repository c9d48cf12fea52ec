"""Nodes, calls and networks as values; what the tracer reads differently; statistics of batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calls import CPU, Open, call_of
from torch import Tensor, nn

import bounds
from bounds.graph import Graph, Network
from bounds.graph.batch_norm import normalised
from bounds.graph.canonical import SPLITS, fill_of, keeps_numbers
from bounds.graph.node import Node, Ref, execute, resolve

aten = torch.ops.aten


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def test_a_node_in_words() -> None:
    node = Node("y", aten.relu.default, {}, (), (2, 3))
    assert node.op == "aten.relu.default"
    assert node.where() == "aten.relu.default at node 'y' (output ['N', 2, 3])"
    inside = Node("y", aten.relu.default, {}, (), (2,), "cells.1")
    assert inside.where() == "aten.relu.default at node 'y' (output ['N', 2], in cells.1)"


def test_references_are_resolved_wherever_they_stand() -> None:
    values = {"a": 1, "b": 2}
    assert resolve(Ref("a"), values) == 1
    assert resolve([Ref("a"), (Ref("b"), 3), "c"], values) == [1, (2, 3), "c"]
    assert resolve(4, values) == 4


def test_a_node_runs_in_the_dtype_and_on_the_device_of_the_run() -> None:
    def made(dtype: torch.dtype | None, device: torch.device | None) -> Tensor:
        node = Node("y", aten.full.default, {
            "size": [2], "fill_value": 1, "dtype": dtype, "layout": None, "device": device, "pin_memory": None,
        }, (), (2,))  # fmt: skip
        return execute(node, {}, torch.float64, torch.device("meta"))

    assert made(torch.float32, torch.device("cpu")).dtype is torch.float64
    assert made(torch.float32, torch.device("cpu")).device.type == "meta"
    assert made(torch.int64, torch.device("cpu")).dtype is torch.int64
    assert made(torch.float16, None).device.type == "cpu"
    plain = Node("y", lambda a, b: a - b, {"0": Ref("u"), "1": 2}, (), ())
    assert execute(plain, {"u": 5}, torch.float64, CPU) == 3


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_normalisation_by_statistics_with_derivatives(weight: bool, bias: bool) -> None:
    x, mean, var = draw(3, 2, 4), draw(2), draw(2).square() + 0.5
    w, b = (draw(2, seed=5) if weight else None), (draw(2, seed=6) if bias else None)
    call = call_of(
        aten.batch_norm.default, Open((2, 4)), w, b, mean.requires_grad_(), var, False, 0.1, 0.3, False
    )
    found = call.apply(x)
    torch.testing.assert_close(found, F.batch_norm(x, mean.detach(), var, w, b, False, 0.1, 0.3))
    (slope,) = torch.autograd.grad(found.sum(), mean)
    expected = -(12 / (var + 0.3).sqrt()) * (1 if w is None else w)
    torch.testing.assert_close(slope, expected)


def test_a_call() -> None:
    one, other = Open((2, 3)), Open((3,))
    call = call_of(aten.add.Tensor, one, other, alpha=2)
    assert call["self"] is None and call["other"] is None and call["alpha"] == 2
    assert call.shape == (2, 3) and call.shapes == ((2, 3), (3,))
    assert call.is_operand(Ref("x0")) and not call.is_operand(Ref("z")) and not call.is_operand(2)
    x, y = draw(4, 2, 3), draw(4, 1, 3)
    torch.testing.assert_close(call.apply(x, y), x + 2 * y)


def graph() -> Graph:
    def node(name: str, *operands: str) -> Node:
        return Node(name, aten.relu.default, {"self": Ref(operands[0])}, operands, (1,))

    nodes = [node("a", "x"), node("b", "a"), node("c", "x", "b"), node("d", "c", "a", "x"), node("e", "b")]
    return Graph("x", "d", (7,), {n.name: n for n in nodes}, (), {}, {})


def test_what_is_read_last() -> None:
    found = graph().last_reads
    assert {name: set(reads) for name, reads in found.items()} == {"d": {"c", "a", "x"}, "e": {"b"}}
    assert graph().output_shape == (1,) and graph().shape("x") == (7,) and graph().shape("c") == (1,)
    nothing = Graph("x", "x", (7,), {}, (), {}, {})
    assert nothing.output_shape == (7,) and nothing.last_reads == {}


def trained() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double().train()
    return model, draw(6, 3)


def test_a_network_of_a_batch() -> None:
    model, x = trained()
    traced = bounds.trace(model, x)
    network = traced.bind(batch=x)
    expected = model(x).detach()
    torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-12)
    assert network.batch_output is not None
    torch.testing.assert_close(network.batch_output, expected, rtol=1e-9, atol=1e-12)
    (norm,) = (n for n in network.graph.nodes.values() if "batch_norm" in n.op)
    assert norm.arguments["training"] is False
    assert norm.arguments["running_mean"] == Ref(f"{norm.name}.mean")
    assert norm.arguments["running_var"] == Ref(f"{norm.name}.var")
    before = model[0](x).detach()
    torch.testing.assert_close(network.values[f"{norm.name}.mean"], before.mean(0))
    torch.testing.assert_close(network.values[f"{norm.name}.var"], before.var(0, unbiased=False))
    assert next(name for name, _ in network.run(x)) == network.graph.input
    single = network.to(torch.float32)
    assert single.dtype is torch.float32 and single.batch_output is None
    torch.testing.assert_close(single(x), expected.float(), rtol=1e-4, atol=1e-4)


def test_the_dtype_of_a_network() -> None:
    model = nn.Linear(2, 2)
    traced = bounds.trace(model, torch.rand(1, 2))
    assert traced.bind().dtype is torch.float32 and traced.bind(dtype=torch.float64).dtype is torch.float64
    assert traced.bind(dtype=torch.float64).values["p_weight"].dtype is torch.float64
    bare = bounds.trace(nn.ReLU(), torch.rand(1, 2)).bind()
    assert bare.dtype is torch.get_default_dtype() and bare.device.type == "cpu"
    assert traced.bind(device="cpu").device == torch.device("cpu")
    given = traced.bind({"weight": torch.eye(2).double()})
    assert given.dtype is torch.float64


def test_values_of_other_kinds_keep_theirs() -> None:
    values = {
        "a": torch.ones(1),
        "b": torch.ones(1, dtype=torch.int64),
        "c": (torch.ones(1), torch.zeros(1)),
        "d": 3,
    }
    network = Network(graph(), values, torch.float32, CPU).to(torch.float64)
    assert network.values["a"].dtype is torch.float64 and network.values["b"].dtype is torch.int64
    assert [t.dtype for t in network.values["c"]] == [torch.float64] * 2 and network.values["d"] == 3
    assert network.device == CPU


class Sized(nn.Module):
    """Constants as many as there are images."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.ones(x.shape[0], 1, dtype=x.dtype)).relu()


def test_the_size_of_the_batch_is_that_of_each_run() -> None:
    network = bounds.trace(Sized(), torch.rand(2, 3)).bind()
    assert network.graph.batch_sizes and all(network.values[name] == 1 for name in network.graph.batch_sizes)
    for images in (1, 3):
        x = torch.rand(images, 3)
        torch.testing.assert_close(network(x), Sized()(x))


# Rewrites


FILLS: list[tuple[Any, dict[str, Any], float | None]] = [
    (aten.mul.Tensor, {"self": Ref("x"), "other": 0}, 0.0),
    (aten.mul.Tensor, {"self": 0.0, "other": Ref("x")}, 0.0),
    (aten.mul.Scalar, {"self": Ref("x"), "other": 0.0}, 0.0),
    (aten.mul.Tensor, {"self": Ref("x"), "other": 1}, None),
    (aten.mul.Tensor, {"self": Ref("x"), "other": Ref("y")}, None),
    (aten.full_like.default, {"fill_value": 2.5}, 2.5),
    (aten.new_full.default, {"fill_value": 3}, 3),
    (aten.zeros_like.default, {}, 0.0),
    (aten.zero.default, {}, 0.0),
    (aten.ones_like.default, {}, 1.0),
    (aten.new_zeros.default, {}, 0.0),
    (aten.new_ones.default, {}, 1.0),
    (aten.relu.default, {}, None),
]


@pytest.mark.parametrize(("target", "arguments", "expected"), FILLS)
def test_fills(target: Any, arguments: dict[str, Any], expected: float | None) -> None:
    assert fill_of(target, arguments) == expected


def test_casts_between_numbers() -> None:
    whole, real = torch.ones(1, dtype=torch.int64), torch.ones(1)
    assert keeps_numbers(aten.detach.default, whole) and keeps_numbers(aten.to.dtype, real)
    assert keeps_numbers(aten.type_as.default, real) and not keeps_numbers(aten.to.dtype, whole)
    assert not keeps_numbers(aten.relu.default, real) and not keeps_numbers(len, real)


def test_pieces() -> None:
    x, z = Ref("x"), torch.zeros(2, 7)
    values = [z[:, :3], z[:, 3:6], z[:, 6:]]
    found = SPLITS[aten.split.Tensor]({"self": x, "split_size": 3, "dim": 1}, values)
    assert [(t, a["start"], a["end"]) for t, a in found] == [
        (aten.slice.Tensor, 0, 3),
        (aten.slice.Tensor, 3, 6),
        (aten.slice.Tensor, 6, 7),
    ]
    assert all(a["self"] is x and a["dim"] == 1 and a["step"] == 1 for _, a in found)
    found = SPLITS[aten.unbind.int]({"self": x, "dim": -1}, [z[:, 0], z[:, 1]])
    assert found == [(aten.select.int, {"self": x, "dim": -1, "index": i}) for i in range(2)]
    assert SPLITS[aten.max_pool2d_with_indices.default]({"a": 1}, None) == [
        (aten.max_pool2d.default, {"a": 1})
    ]
    norm = SPLITS[aten._native_batch_norm_legit.no_stats]({"input": x, "training": True}, None)
    assert norm == [
        (
            aten.batch_norm.default,
            {"running_mean": None, "running_var": None, "training": True, "cudnn_enabled": False, "input": x},
        )
    ]
    legit = SPLITS[aten._native_batch_norm_legit_no_training.default]({"input": x, "running_mean": 1}, None)
    assert legit[0][1]["training"] is False and legit[0][1]["running_mean"] == 1


# Statistics of a batch


@pytest.mark.parametrize("shape", [(6, 2), (3, 2, 4), (3, 2, 4, 4)])
@pytest.mark.parametrize("which", ["value", "mean", "variance", "mean and variance", "all"])
@pytest.mark.parametrize("eps", [0.2, 0.0])
def test_derivatives_of_statistics(which: str, shape: tuple[int, ...], eps: float) -> None:
    """Each output alone and together, against autograd through plain sums."""
    x = draw(*shape).requires_grad_()
    w, b = draw(2, seed=3), draw(2, seed=4)
    axes = [0, *range(2, len(shape))]
    view = (1, -1, *[1] * (len(shape) - 2))

    def plain(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(axes)
        variance = (x - mean.reshape(view)).square().mean(axes)
        y = (x - mean.reshape(view)) / (variance + eps).sqrt().reshape(view)
        return y * w.reshape(view) + b.reshape(view), mean, variance

    def read(parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        y, mean, variance = parts
        chosen = {"value": [y], "mean": [mean], "variance": [variance], "mean and variance": [mean, variance]}
        return sum((part * draw(*part.shape, seed=8)).sum() for part in chosen.get(which, parts))  # type: ignore[return-value]

    found, expected = normalised(x, w, b, eps), plain(x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    slopes = [torch.autograd.grad(read(parts), x, retain_graph=True)[0] for parts in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)
    bare = normalised(x, None, None, eps)[0]
    torch.testing.assert_close(bare * w.reshape(view) + b.reshape(view), found[0])
