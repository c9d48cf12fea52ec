"""The theorem, and the check that proves it.

Theorem.  Let f be the real-valued function of a `CheckedNetwork` whose digest is the certificate's: its operators in
real arithmetic, its weights the rational numbers that their float64 values are.  If `check(certificate, network)`
returns, then no x' of a claim's area meets any of its clauses: for each clause c some s has rows_cs·f(x') > offsets_cs.
(Where every clause is one row and its offset 0, all rows of f are positive on the area.)

Proof, as it is computed.  (a) A box around a node's value follows from boxes around its operands, by interval
arithmetic rounded outward, and from the area at the input.  (b) Two planes sandwich a nonlinear node where
`sandwiched` decides so, exactly, on its operand's box; on one true box is for every value of the node.  (c) A linear
form of a node's value is at least a linear form of its operands' values plus a constant: by W and b where it is affine,
by the lower plane for positive coefficients and the upper plane for negative ones where it is not; so, node by node,
at least a linear form of x', whose minimum over the area is bounded below.  (d) A claimed box is accepted where (a)
or (c) imply it, and then tightens what was known.  (e) A split makes two parts of a part of the area: where a unit z of
some tensor, or of the input, is ≤ p and where it is ≥ p.  Every point lies in one of them, so a clause that is refuted
in both is refuted in the part; what was known of the part is known in both; where z's box leaves no room, no point is.
(f) In a part with splits σ_j (z_j − p_j) ≥ 0 a clause c is refuted where, for mix_s ≥ 0 and multipliers β_j ≥ 0,
Σ_s mix_s (rows_cs·f − offsets_cs) − Σ_j β_j σ_j (z_j − p_j) is positive by (c): then so is the first sum.
In float64 each step of (c) is moved down by a bound of its rounding: with |x| ≤ M for a node's operands, coefficients
rounded in a sum of m products change the form by at most γ_m |coef| |W| M.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from certnas.checker.certificate import Certificate
from certnas.checker.known import Known
from certnas.checker.network import CheckedNetwork
from certnas.checker.numbers import LARGE, Arithmetic
from certnas.checker.parts import refuted
from certnas.checker.rejected import Rejected, demand

MALFORMED = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError),
    *(OverflowError, ZeroDivisionError, RecursionError),
)
"""The errors that a malformed certificate may raise."""


def check(
    certificate: Certificate, network: CheckedNetwork, *, exact: bool = False, spare: int = 1
) -> np.ndarray:
    """Proves the theorem above for a certificate, in integers (exact) or in float64.

    certificate: the certificate. network: the network that it is about.
    exact: whether to compute in integers.
    spare: the factor by which float64 rounding is overestimated, so that a sum in any other order proves the claim
        too.
    Returns the bound by which each clause is refuted, [C].
    Raises Rejected if the certificate proves nothing about this network.
    """
    demand(certificate.network == network.output, "it is about another network: the digests differ")
    try:
        _demand_numbers(certificate)
        _demand_area(certificate)
        _demand_clauses(certificate, network)
        with np.errstate(all="ignore"):  # an overflow gives infinity or NaN, which proves nothing
            found = refuted(Known.of(certificate, network, Arithmetic(exact, spare)), 0)
    except MALFORMED as error:
        raise Rejected(f"the certificate is malformed: {type(error).__name__}: {error}") from error
    clauses = range(len(certificate.rows))
    demand(clauses and set(clauses) <= set(found), f"only clauses {sorted(found)} are refuted")
    return np.array([found[clause] for clause in clauses])


def _demand_numbers(of: Certificate) -> None:
    """Raises Rejected unless every number is a finite float64, since the arithmetic is proved only for these."""
    for array in _arrays(of):
        fits = type(array) is np.ndarray and array.dtype == np.float64 and np.isfinite(array).all()
        demand(fits, "it holds numbers that are not finite float64")
    points = [split.point for part in of.parts for split in part.splits]
    fits = all(isinstance(number, float) and abs(number) < np.inf for number in (of.eps, *points))
    demand(fits, "its radius or the point of a split is not a finite float64")


def _arrays(of: Certificate) -> Iterator[np.ndarray]:
    """All arrays of a certificate."""
    yield from (of.x, *of.box, of.rows, of.offsets)
    for planes in of.planes.values():
        yield from (planes.lower.slope, planes.lower.bias, planes.upper.slope, planes.upper.bias)
    for part in of.parts:
        for step in part.steps:
            yield from (step.lower, step.upper)
        for given in part.refutations:
            yield from (given.mix, given.bounds, given.multipliers)


def _demand_area(of: Certificate) -> None:
    """Raises Rejected if the area is too large or its radius is negative."""
    sides = (of.x, *of.box, np.array(of.eps))
    demand(all((np.abs(side) <= LARGE).all() for side in sides), "its area is not bounded by finite numbers")
    demand(of.eps >= 0, "its radius is negative")


def _demand_clauses(of: Certificate, network: CheckedNetwork) -> None:
    """Raises Rejected if the clauses do not fit the network's output, or one occurs twice."""
    fits = of.rows.shape == (*of.offsets.shape, *network.nodes[network.output].shape) and of.offsets.ndim == 2
    demand(fits, "its clauses do not have the shape of the network's output")
    said = {
        ((row + 0.0).tobytes(), (offset + 0.0).tobytes())  # 0 for −0
        for row, offset in zip(of.rows, of.offsets, strict=True)
    }
    demand(len(said) == len(of.rows), "one of its clauses occurs twice")
