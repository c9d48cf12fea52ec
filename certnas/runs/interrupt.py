"""Ctrl-C between two steps rather than within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """`asked` turns true when the user asks the run to end."""

    asked: bool = False


@contextmanager
def held_interrupts() -> Iterator[Interrupt]:
    """Holds the first SIGINT or SIGTERM back for the loop to read; the second SIGINT interrupts at once.

    Outside of the main thread, where Python delivers no signal, nothing is held.
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
