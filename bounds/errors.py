"""Everything that `bounds` refuses, it refuses by one of these."""


class BoundsError(ValueError):
    """A bound that cannot be given; the message is one line: what, where, what is accepted."""


class UnsupportedOp(BoundsError):
    """The network has an operator that no rule covers."""


class InvalidInput(BoundsError):
    """A region, a row or a parameter that makes no sense."""


class ConstantOutput(InvalidInput):
    """The network's output does not depend on its input: there is nothing to bound."""


class OutOfMemory(BoundsError, MemoryError):
    """The device has no room for a bound, not even row by row; fewer images at a time may help."""


class MemoryWarning(UserWarning):
    """Memory ran out and work went on in smaller blocks: slower, with the same bounds."""
