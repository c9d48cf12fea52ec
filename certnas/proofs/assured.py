"""Certificates that are checked before they are written, with more slack where rounding asks for it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from certnas.checker import Certificate, CheckedNetwork, Rejected, check
from certnas.proofs.arithmetic import EXACT_LATE, exact_work
from certnas.proofs.files import encode, read
from certnas.proofs.outward import SLACK

SLACKS = tuple(SLACK * 2.0**power for power in (0, 5, 10))
"""By what share of 1 + their size bounds are moved outward, the least first.  What a check's rounding can take grows
with the sums of a network, and is known when it is checked."""
SPARE = 4
"""The check before writing assumes this many times the rounding of the check that follows: three would do for sums in
any other order, since two orders are off by once the rounding each."""


def assured(make: Callable[[float], Sequence[Certificate] | None], network: CheckedNetwork) -> bytes | None:
    """The bytes of the first file that its own check proves, of those that are made with one slack after another.

    In float64; in integers where that is feasible and float64 proves none.  make: certificates by slack, None where
    there are none, which ends the search.  Raises ValueError where a file would be too large.
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
    """Whether the certificates in a file, read again, are proved."""
    try:
        for certificate in read(io.BytesIO(data)):
            check(certificate, network, exact=exact, spare=SPARE)
    except Rejected:
        return False
    return True
