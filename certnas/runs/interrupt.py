"""Delays Ctrl-C until the end of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Whether the user asked the run to end."""

    asked: bool = False
    """Becomes true at the first signal."""


@contextmanager
def held_interrupts() -> Iterator[Interrupt]:
    """Delays the first SIGINT or SIGTERM, which the loop reads from `asked`; a second signal interrupts at once.

    Outside the main thread, where Python delivers no signals, nothing is delayed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def hold(number: int, frame: FrameType | None) -> None:
        if interrupt.asked:
            raise KeyboardInterrupt
        interrupt.asked = True

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
