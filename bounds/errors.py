"""The errors and warnings that `bounds` raises."""


class BoundsError(ValueError):
    """A bound cannot be computed.  The message is one line: what is wrong, where, and what is accepted."""


class UnsupportedOp(BoundsError):
    """The network has an operator for which no rule is registered."""


class InvalidInput(BoundsError):
    """A region, a specification or a parameter makes no sense."""


class ConstantOutput(InvalidInput):
    """The network's output does not depend on its input, so there is nothing to bound."""


class OutOfMemory(BoundsError, MemoryError):
    """The device has too little memory for a bound, even row by row.  Fewer images at a time may help."""


class MemoryWarning(UserWarning):
    """Memory ran out and the work continues in smaller blocks, which takes longer and gives the same bounds."""
