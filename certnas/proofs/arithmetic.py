"""Which arithmetic a check uses: integers where that is quick, or where float64 does not decide and it is feasible."""

from __future__ import annotations

from math import prod

import numpy as np

from certnas.checker import Certificate, CheckedNetwork, Rejected, check

EXACT_WORK = 1_000_000
"""`exact_work` up to which integers are used at once."""
EXACT_LATE = 500_000_000
"""`exact_work` up to which integers are used where float64 proves nothing: some minutes."""


def exact_work(certificate: Certificate, network: CheckedNetwork) -> int:
    """Rows times units: what a check in integers costs grows with it."""
    steps = [step for part in certificate.parts for step in part.steps if step.planes]
    rows = sum(2 * step.lower.size for step in steps) + len(certificate.parts)
    return rows * sum(prod(node.shape) for node in network.nodes.values())


def checked(certificate: Certificate, network: CheckedNetwork, exact: bool | None) -> tuple[np.ndarray, bool]:
    """The bounds by which each clause is refuted, [C], and whether they were proved in integers.

    exact: in integers, in float64, or (None) in integers where that is quick, or where float64 proves nothing.  Raises
    Rejected.
    """
    work = exact_work(certificate, network)
    if exact or (exact is None and work <= EXACT_WORK):
        return check(certificate, network, exact=True), True
    try:
        return check(certificate, network), False
    except Rejected:
        if exact is None and work <= EXACT_LATE:
            return check(certificate, network, exact=True), True
        raise
