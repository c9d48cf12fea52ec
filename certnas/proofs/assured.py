"""Checks certificates before they are written, and gives them more slack if rounding requires it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from certnas.checker import Certificate, CheckedNetwork, Rejected, check
from certnas.proofs.arithmetic import EXACT_LATE, exact_work
from certnas.proofs.files import encode, read
from certnas.proofs.outward import SLACK

SLACKS = tuple(SLACK * 2.0**power for power in (0, 5, 10))
"""The slacks to try, in increasing order: bounds move outward by this share of 1 + their size. The rounding of a
check grows with the sums of a network, and is known only after the check.
"""
SPARE = 4
"""The check before writing assumes this many times the rounding of a later check. Three would suffice for sums in any
other order, since two orders differ by at most twice the rounding of each.
"""


def assured(make: Callable[[float], Sequence[Certificate] | None], network: CheckedNetwork) -> bytes | None:
    """The bytes of the first file that passes its own check, among the files made with increasing slack.

    make: returns the certificates for a slack; None ends the search.
    The check runs in float64, and in integers if float64 proves no file and integers are feasible.
    Returns None if no file passes. Raises ValueError if a file would be too large.
    """
    made: list[bytes] = []
    for slack in SLACKS:
        found = make(slack)
        if found is None:
            break
        made.append(encode(found))
        if _proved(made[-1], network, exact=False):
            return made[-1]
    for data in made[:1]:
        work = sum(exact_work(kept, network) for kept in read(io.BytesIO(data)))
        if work <= EXACT_LATE and _proved(data, network, exact=True):
            return data
    return None


def _proved(data: bytes, network: CheckedNetwork, *, exact: bool) -> bool:
    """Whether the certificates of a file, after reading it again, are proved."""
    try:
        for certificate in read(io.BytesIO(data)):
            check(certificate, network, exact=exact, spare=SPARE)
    except Rejected:
        return False
    return True
