"""What a user can put right: one clear line, no traceback."""


class UserError(ValueError):
    """A request that cannot be met; its text is one line: what, where, what is accepted, what to do."""
