"""The error of a certificate that does not prove its claim."""

from __future__ import annotations


class Rejected(Exception):
    """The certificate does not prove its claim; the message states where."""


def demand(holds: object, otherwise: str) -> None:
    """Raises Rejected with the message `otherwise` unless a condition of the proof holds."""
    if not holds:
        raise Rejected(otherwise)
