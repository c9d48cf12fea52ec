"""A time limit that also holds in the middle of a long computation."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

OWN = ("bounds", "certnas")
INTERVAL = 0.01  # seconds between two signals of the timer
PATIENCE = 0.5  # seconds for which other code may run past the end
CALLBACKS = ("weakref", "torch.utils.weak")  # modules whose functions Python calls on its own


class OutOfTime(Exception):
    """The time limit has passed."""


class Deadline:
    """A time limit of `seconds` from now; None for no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.began = time.monotonic()
        self.ends = math.inf if seconds is None else self.began + seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """The seconds that are left, negative after the end; infinite if there is no limit."""
        return self.ends - time.monotonic()

    def check(self) -> None:
        """Raises OutOfTime after the end."""
        if self.left <= 0:
            raise OutOfTime

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raises OutOfTime inside the block when the time is up, between two tensor operations.

        It uses the process's interval timer, so it works only in the main thread and if nobody else uses the timer.
        Otherwise `check` alone ends the work. Code that Python calls on its own, such as a weak reference's callback,
        would swallow the exception. The timer therefore keeps ringing, and raises where this project's code runs.
        Other code that runs on for longer than `PATIENCE` is ended as well, unless it is within such a callback.
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
    """Whether the code runs within a callback that Python called on its own."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or _module(frame) in CALLBACKS:
            return True
        frame = frame.f_back
    return False
