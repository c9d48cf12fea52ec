"""A time limit that holds in the middle of a long computation, too."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

OWN = ("bounds", "certnas")
INTERVAL = 0.01  # seconds between two rings
PATIENCE = 0.5  # seconds that other code may run on
CALLBACKS = ("weakref", "torch.utils.weak")  # modules whose functions Python calls on its own


class OutOfTime(Exception):
    """The time limit is reached."""


class Deadline:
    """A moment `seconds` from now; None for never."""

    def __init__(self, seconds: float | None) -> None:
        self.began = time.monotonic()
        self.ends = math.inf if seconds is None else self.began + seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds to the end, below 0 after it; infinite where there is none."""
        return self.ends - time.monotonic()

    def check(self) -> None:
        """Raises OutOfTime after the end."""
        if self.left <= 0:
            raise OutOfTime

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raises OutOfTime inside of the block when the time is up, between two tensor operations.

        By the process's interval timer, so only in the main thread and where nobody else uses it; elsewhere `check`
        alone ends the work. What Python calls on its own, as a weak reference's callback is, would swallow the
        exception: the timer therefore rings on, and raises where this project's code runs. Code that never comes
        back to it is ended all the same, after `PATIENCE`, but not within what is known to be such a call.
        """
        alarmed = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        if not alarmed or math.isinf(self.ends) or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
            yield
            return

        def ring(number: int, frame: FrameType | None) -> None:
            module = _module(frame)
            if module == __name__:
                return  # the block is being left
            own = module.partition(".")[0] in OWN
            if own or (self.left < -PATIENCE and not _in_callback(frame)):
                raise OutOfTime

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3), INTERVAL)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _module(frame: FrameType | None) -> str:
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))


def _in_callback(frame: FrameType | None) -> bool:
    """Whether Python called this, or what called this, on its own."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or _module(frame) in CALLBACKS:
            return True
        frame = frame.f_back
    return False
