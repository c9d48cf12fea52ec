"""Everything that `bounds` refuses, it refuses by one of these."""


class BoundsError(ValueError):
    """A bound that cannot be given; the message is one line: what, where, what is accepted."""


class UnsupportedOp(BoundsError):
    """The network has an operator that no rule covers."""


class InvalidInput(BoundsError):
    """A region, a row or a parameter that makes no sense."""
