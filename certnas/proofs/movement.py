"""Reads operators that move units, and concatenations."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch

from certnas.bounds.extend import IDENTITIES, RESHAPES, SELECTIONS, Ref
from certnas.checker import Unsupported
from certnas.proofs.reading import Reading, Rule

aten = torch.ops.aten


def _cat(r: Reading) -> str:
    """Reads a concatenation as the sum of its pieces, each padded with zeros."""
    ids = dict(zip(r.call.node.operands, zip(r.operands, r.call.shapes, strict=True), strict=True))
    items = r.call.node.arguments["tensors"]
    if not all(isinstance(item, Ref) and item.name in ids for item in items):
        raise Unsupported("a concatenation with a constant")
    axis = r.call["dim"] % (len(r.shape) + 1) - 1
    pieces, start = [], 0
    for operand, shape in (ids[item.name] for item in items):
        index = np.full(r.shape, -1)
        index.swapaxes(0, axis)[start : start + shape[axis]] = (
            np.arange(prod(shape)).reshape(shape).swapaxes(0, axis)
        )
        pieces.append(r.network.add("select", (operand,), r.shape, {"index": index}))
        start += shape[axis]
    return pieces[0] if len(pieces) == 1 else r.network.add("add", tuple(pieces), r.shape, {})


def _select(r: Reading) -> str:
    """Reads an operator that only moves units as an index; the operator is applied to the numbers of the units, and 0
    marks padding.
    """
    numbers = torch.arange(1, prod(r.source) + 1, dtype=torch.float64).reshape(1, *r.source)
    index = r.call.apply(numbers)[0].long().numpy() - 1
    return r.add("select", index=index)


def _pad(r: Reading) -> str:
    if r.call["value"] not in (None, 0, 0.0):
        raise Unsupported("padding by a number other than zero")
    return _select(r)


def _same(r: Reading) -> str:
    return r.operands[0]


RULES: dict[Any, Rule] = {
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    **dict.fromkeys(RESHAPES, lambda r: r.reshaped()),
    **dict.fromkeys(SELECTIONS, _select),
    **dict.fromkeys(IDENTITIES, _same),
}
