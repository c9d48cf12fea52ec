"""The error for problems that the user can fix: one clear line, no traceback."""


class UserError(ValueError):
    """An invalid request. The message is one line: what is wrong, where, what is accepted, and what to do."""
