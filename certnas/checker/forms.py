"""Propagates linear forms of a network's values backward, node by node, to the input, where their minimum is
computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from certnas.checker.certificate import Planes
from certnas.checker.known import Known
from certnas.checker.network import RELAXED, CheckedNode, pull, scatter
from certnas.checker.numbers import Numbers


class LinearForms:
    """S linear forms of tensors, which are propagated to the input.

    At any time each form is at least total + Σ ⟨coef, value⟩ over the pending tensors, on the whole part of the area.
    coef [S, *shape], total [S].
    """

    def __init__(self, known: Known, total: Numbers) -> None:
        self.known, self.total = known, total
        self.pending: dict[str, Numbers] = {}

    def add(self, name: str, coef: Numbers) -> None:
        """Adds ⟨coef, value⟩ of a tensor. In float64 the rounding of summed coefficients is subtracted from the
        total.
        """
        if name in self.pending:
            coef = self.pending[name] + coef
            self.pay(1, coef, name)
        self.pending[name] = coef

    def add_constant(self, constant: Numbers) -> None:
        """Adds a constant to each form."""
        self.total = self.known.arithmetic.plus(self.total, constant)

    def pay(self, terms: int, size: Numbers, name: str) -> None:
        """Subtracts the largest effect of rounding a tensor's coefficients in sums of `terms` terms.

        size: an upper bound of the sum of the terms' sizes, [S, *shape]. The tensor's values are at most M in size.
        """
        self.total = _paid(self.known, self.total, terms, size, name)

    def lower_bound(self, planes: Mapping[str, str], where: str) -> Numbers:
        """(c)  A lower bound of the minimum of each form over the part.  [S]

        From the last node to the first, ⟨coef, y⟩ of a node's value y is replaced by forms of its operands: by equal
        ones for an affine node, and by smaller ones with its planes for a nonlinear node. planes: the key of each
        node's planes.
        """
        known = self.known
        for node in reversed(known.network.nodes.values()):
            coef = self.pending.pop(node.id, None)
            if coef is None or not coef.n.any():
                continue
            if node.id == known.network.input:
                self.add_constant(known.region.minimum(coef))
            elif node.op in RELAXED:
                self._relax(node, coef, known.planes(node, planes, len(coef.n), where))
            else:
                self._transpose(node, coef)
        return self.total

    def _transpose(self, node: CheckedNode, coef: Numbers) -> None:
        """Applies ⟨coef, W x + b⟩ = ⟨coef W, x⟩ + ⟨coef, b⟩ of an affine node.

        It subtracts |coef| (δW M + δb) for the rounding of W and b, and γ |coef| |W| M for the rounding of coef W.
        """
        known, arithmetic, affine = self.known, self.known.arithmetic, node.affine
        weight = None if affine.weight is None else arithmetic.read(affine.weight)
        if affine.bias is None:
            constant = arithmetic.read(np.zeros(len(coef.n)))
        else:
            constant = arithmetic.dot(coef, arithmetic.read(affine.bias))
        if affine.weight_error is not None and affine.bias_error is not None:
            unsure = arithmetic.read(known.boxes.unsure(node))
            constant = arithmetic.plus(constant, arithmetic.dot(-abs(coef), unsure))
        constant = arithmetic.below(constant, node.terms, lambda: _weighed(coef.n, known.boxes.size(node)))
        self.add_constant(constant)
        shapes = [known.network.nodes[operand].shape for operand in node.operands]
        parts = pull(node, coef.n, None if weight is None else weight.n, shapes)
        k = coef.k + (0 if weight is None else weight.k)
        for operand, part in zip(node.operands, parts, strict=True):
            self.add(operand, Numbers(part, k))

    def _relax(self, node: CheckedNode, coef: Numbers, planes: Planes) -> None:
        """Applies ⟨coef, f(x)⟩ ≥ ⟨coef⁺, lower(x)⟩ + ⟨coef⁻, upper(x)⟩ of a nonlinear node."""
        read, dot = self.known.arithmetic.read, self.known.arithmetic.dot
        (operand,), lower, upper = node.operands, planes.lower, planes.upper
        rising, falling = coef.positive(), coef.negative()
        constant = self.known.arithmetic.plus(dot(rising, read(lower.bias)), dot(falling, read(upper.bias)))
        if node.op == "max":  # a plane has a slope for each element of a window
            rising, falling = rising.at((..., None)), falling.at((..., None))
        form = rising * read(lower.slope) + falling * read(upper.slope)
        size = abs(form)
        if node.op == "max":
            shape = self.known.network.nodes[operand].shape
            form, size = (each.moved(lambda n: scatter(n, node, shape)) for each in (form, size))
        self.add_constant(_paid(self.known, constant, node.terms + 1, size, operand))
        self.add(operand, form)


def _paid(known: Known, constant: Numbers, terms: int, size: Numbers, name: str) -> Numbers:
    """The constant minus γ |size| M of a tensor."""
    return known.arithmetic.below(constant, terms, lambda: _weighed(size.n, known.boxes.most(name)))


def _weighed(coef: np.ndarray, size: np.ndarray) -> np.ndarray:
    """⟨|coef|, size⟩.  [S, *shape], [1, *shape] -> [S]"""
    return (np.abs(coef) * size).reshape(len(coef), -1).sum(1)
