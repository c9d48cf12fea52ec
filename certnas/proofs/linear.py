"""Reads dense layers, normalisation, and arithmetic with constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from certnas.checker import Unsupported
from certnas.proofs.reading import Reading, Rule, array, constant_of

aten = torch.ops.aten


def _linear(r: Reading) -> str:
    weight, bias = array(r.call["weight"]), r.call["bias"]
    return _dense(r, weight, np.zeros(len(weight)) if bias is None else array(bias))


def _dense(r: Reading, weight: np.ndarray, bias: np.ndarray) -> str:
    if len(r.source) != 1:
        raise Unsupported("a linear layer on more than one axis")
    return r.add("linear", weight=weight[None], bias=bias[None, :, None])


def _product(r: Reading) -> str:
    """Reads x @ matrix as a linear layer."""
    names = [name for name in ("self", "other", "mat2") if name in r.call.node.arguments]
    left, right = (r.call[name] for name in names)
    if left is not None or right is None or right.dim() != 2:
        raise Unsupported("a product whose right factor is not one constant matrix")
    weight = array(right).T
    return _dense(r, weight, np.zeros(len(weight)))


def _batch_norm(r: Reading) -> str:
    call, channels = r.call, r.shape[0]
    given = [call["weight"], call["bias"], call["running_mean"], call["running_var"]]
    columns = [
        np.full(channels, other) if value is None else array(value)
        for value, other in zip(given, (1.0, 0.0, 0.0, 1.0), strict=True)
    ]
    gamma, beta, mean, variance = (c.reshape(-1, *[1] * (len(r.shape) - 1)) for c in columns)
    return r.scale(gamma, beta, mean=mean, variance=variance, eps=float(call["eps"]))


def _times(r: Reading) -> str:
    constant, _ = constant_of(r)
    if constant is None or r.shape != r.source:
        raise Unsupported("a product of two perturbed tensors, or one that broadcasts them")
    return r.scale(constant)


def _over(r: Reading) -> str:
    constant, left = constant_of(r)
    if constant is None or left or r.shape != r.source:
        raise Unsupported("a quotient by a perturbed tensor")
    return r.scale(divisor=constant)


def _sum(sign: float, mine: float = 1.0) -> Callable[[Reading], str]:
    """The rule of mine·self + sign·alpha·other."""

    def rule(r: Reading) -> str:
        alpha = float(r.call["alpha"]) if "alpha" in r.call.node.arguments else 1.0
        factors = (mine * (alpha if mine < 0 else 1), sign * (alpha if mine > 0 else 1))
        constant, left = constant_of(r)
        if any(shape != r.shape for shape in r.call.shapes):
            raise Unsupported("a sum that broadcasts a perturbed tensor")
        if constant is not None:
            own, other = factors[::-1] if left else factors
            return r.scale(gamma=own, beta=array(constant) * other)
        both = r.operands if len(r.operands) == 2 else r.operands * 2
        scaled = [
            o if f == 1 else Reading(r.network, r.call, (o,)).scale(gamma=f)
            for o, f in zip(both, factors, strict=True)
        ]
        return r.network.add("add", tuple(scaled), r.shape, {})

    return rule


RULES: dict[Any, Rule] = {
    aten.linear.default: _linear,
    aten.matmul.default: _product,
    aten.mm.default: _product,
    aten.batch_norm.default: _batch_norm,
    aten.add.Tensor: _sum(1.0),
    aten.add.Scalar: _sum(1.0),
    aten.sub.Tensor: _sum(-1.0),
    aten.sub.Scalar: _sum(-1.0),
    aten.rsub.Scalar: _sum(1.0, mine=-1.0),
    aten.neg.default: lambda r: r.scale(gamma=-1.0),
    aten.mul.Tensor: _times,
    aten.mul.Scalar: _times,
    aten.div.Tensor: _over,
    aten.div.Scalar: _over,
}
