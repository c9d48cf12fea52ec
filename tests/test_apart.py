"""What draws numbers, and what mixes images: a table of calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bounds.graph.purity import is_random, moves_images

aten = torch.ops.aten
DRAWS: list[tuple[Any, dict[str, Any], bool]] = [
    (aten.dropout.default, {"train": True}, True),
    (aten.dropout.default, {"train": False}, False),
    (aten.native_dropout.default, {"train": True}, True),
    (aten.rand_like.default, {}, True),
    (aten.bernoulli.p, {"p": 0.5}, True),
    (aten.rrelu.default, {"training": False}, False),
    (aten.rrelu.default, {"training": True}, True),
    (aten.rrelu.default, {"training": None}, True),
    (aten.scaled_dot_product_attention.default, {"dropout_p": 0.0}, False),
    (aten.scaled_dot_product_attention.default, {"dropout_p": 0.1}, True),
    (aten.relu.default, {"train": True}, False),
    (len, {"train": True}, False),
]


@pytest.mark.parametrize(("target", "arguments", "expected"), DRAWS)
def test_what_draws_numbers(target: Any, arguments: dict[str, Any], expected: bool) -> None:
    assert is_random(target, arguments) is expected


def sliced(dim: int, start: Any, end: Any, step: int = 1) -> dict[str, Any]:
    return {"dim": dim, "start": start, "end": end, "step": step}


END = 2**63 - 1
MOVES: list[tuple[Any, dict[str, Any], int, bool]] = [
    (aten.index.Tensor, {"indices": [torch.tensor([0])]}, 3, True),
    (aten.index.Tensor, {"indices": [None, torch.tensor([0])]}, 3, False),
    (aten.pad.default, {"pad": [1, 1, 0, 0]}, 3, False),
    (aten.pad.default, {"pad": [1, 1, 0, 0, 0, 0]}, 3, False),
    (aten.pad.default, {"pad": [0, 0, 0, 0, 1, 0]}, 3, True),
    (aten.constant_pad_nd.default, {"pad": [0, 0, 0, 0, 0, 1]}, 3, True),
    (aten.constant_pad_nd.default, {"pad": [0, 0, 0, 1]}, 3, False),
    (aten.constant_pad_nd.default, {"pad": [0, 1]}, 1, True),
    (aten.layer_norm.default, {"normalized_shape": [4, 5]}, 3, False),
    (aten.layer_norm.default, {"normalized_shape": [2, 4, 5]}, 3, True),
    (aten.slice.Tensor, sliced(0, 0, END), 3, False),
    (aten.slice.Tensor, sliced(0, None, None), 3, False),
    (aten.slice.Tensor, sliced(0, 0, 2**62), 3, False),
    (aten.slice.Tensor, sliced(0, 0, 2**62 - 1), 3, True),
    (aten.slice.Tensor, sliced(0, 1, END), 3, True),
    (aten.slice.Tensor, sliced(0, None, None, 2), 3, True),
    (aten.slice.Tensor, sliced(0, None, "N"), 3, True),
    (aten.slice.Tensor, sliced(-3, 1, END), 3, True),
    (aten.slice.Tensor, sliced(1, 1, 2), 3, False),
    (aten.flip.default, {"dims": []}, 3, True),
    (aten.flip.default, {"dims": [0]}, 3, True),
    (aten.flip.default, {"dims": [1, -3]}, 3, True),
    (aten.flip.default, {"dims": [1, 2]}, 3, False),
    (aten.roll.default, {"shifts": [1], "dims": []}, 3, True),
    (aten.roll.default, {"shifts": [1], "dims": [1]}, 3, False),
    (aten.cat.default, {"dim": 0}, 3, False),
    (aten.unsqueeze.default, {"dim": 0}, 3, False),
    (aten.mean.dim, {"dim": [0]}, 3, True),
    (aten.mean.dim, {"dim": [-3, 1]}, 3, True),
    (aten.mean.dim, {"dim": [1, 2]}, 3, False),
    (aten.mean.dim, {"dim": []}, 3, False),
    (aten.sum.dim_IntList, {"dim": [-1]}, 3, False),
    (aten.softmax.int, {"dim": 0}, 3, True),
    (aten.softmax.int, {"dim": -2}, 3, False),
    (aten.relu.default, {}, 3, False),
]


@pytest.mark.parametrize(("target", "arguments", "rank", "expected"), MOVES)
def test_what_moves_images(target: Any, arguments: dict[str, Any], rank: int, expected: bool) -> None:
    assert moves_images(target, arguments, rank) is expected
