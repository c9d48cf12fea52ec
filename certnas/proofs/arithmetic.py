"""Chooses the arithmetic of a check: integers if that is fast, or if float64 fails and integers are feasible."""

from __future__ import annotations

from math import prod

import numpy as np

from certnas.checker import Certificate, CheckedNetwork, Rejected, check

EXACT_WORK = 1_000_000
"""Integers are used at once if `exact_work` is at most this."""
EXACT_LATE = 500_000_000
"""Integers are used after float64 fails if `exact_work` is at most this; the check takes some minutes."""


def exact_work(certificate: Certificate, network: CheckedNetwork) -> int:
    """The number of rows times the number of units, to which the time of a check in integers is proportional."""
    steps = [step for part in certificate.parts for step in part.steps if step.planes]
    rows = sum(2 * step.lower.size for step in steps) + len(certificate.parts)
    return rows * sum(prod(node.shape) for node in network.nodes.values())


def checked(certificate: Certificate, network: CheckedNetwork, exact: bool | None) -> tuple[np.ndarray, bool]:
    """Checks a certificate; returns the bound of each refuted clause, [C], and whether integers were used.

    exact: True for integers, False for float64. None uses integers if that is fast or if float64 proves nothing.
    Raises Rejected if nothing is proved.
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
