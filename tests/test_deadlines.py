"""Deadlines: when they are over, where they ring, and what they leave as it was."""

import math
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from certnas.verifier import deadline
from certnas.verifier.deadline import Deadline, OutOfTime, _in_callback, _module


def test_time_is_counted_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now[0])
    some, never = Deadline(5.0), Deadline(None)
    now[0] = 103.0
    assert (some.spent, some.left, never.spent, never.left) == (3, 2, 3, math.inf)
    some.check(), never.check()
    now[0] = 104.999
    some.check()
    for late in (105.0, 106.0):
        now[0] = late
        with pytest.raises(OutOfTime):
            some.check()
    assert some.left == -1


class Timer:
    """The process's timer and handler, noted instead of set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, busy: float = 0.0) -> None:
        self.handler: Any = None
        self.set: list[tuple[float, ...]] = []
        monkeypatch.setattr(signal, "signal", self.signal)
        monkeypatch.setattr(signal, "setitimer", lambda which, *given: self.set.append(given))
        monkeypatch.setattr(signal, "getitimer", lambda which: (busy, 0.0))

    def signal(self, number: int, handler: Any) -> Any:
        assert number == signal.SIGALRM
        before, self.handler = self.handler, handler
        return before


def frame(name: str | None, code: str = "f", back: Any = None) -> Any:
    return SimpleNamespace(f_globals={"__name__": name}, f_code=SimpleNamespace(co_name=code), f_back=back)


def test_the_timer_rings_on_until_own_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, some = Timer(monkeypatch), Deadline(9.0)
    with some.enforced():
        ((first, again),) = timer.set
        assert 8 < first <= 9 and again == 0.01
        for module in ("certnas.bounds.state", "certnas", "certnas.verifier.search"):
            with pytest.raises(OutOfTime):
                timer.handler(0, frame(module))
        for module in ("torch", "boundsless", None, "certnas.verifier.deadline"):
            timer.handler(0, frame(module))
        timer.handler(0, None)
        some.ends = time.monotonic() - 0.4
        timer.handler(0, frame("torch"))
        some.ends = time.monotonic() - 0.6
        with pytest.raises(OutOfTime):
            timer.handler(0, frame("torch"))
        (
            timer.handler(0, frame("torch", back=frame("weakref"))),
            timer.handler(0, frame("certnas.verifier.deadline")),
        )
    assert timer.set[1:] == [(0,)] and timer.handler is None
    timer.set.clear()
    with Deadline(-1.0).enforced():
        assert timer.set == [(1e-3, 0.01)]


def test_nothing_is_set_where_it_must_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(monkeypatch)
    with Deadline(None).enforced():
        assert timer.set == []
    thread = threading.Thread(target=lambda: Deadline(5.0).enforced().__enter__())
    thread.start()
    thread.join()
    assert timer.set == []
    busy = Timer(monkeypatch, busy=3.0)
    with Deadline(5.0).enforced():
        assert busy.set == []


def test_callbacks_are_known_by_their_frames() -> None:
    assert (_module(None), _module(frame("a.b")), _module(SimpleNamespace(f_globals={}))) == ("", "a.b", "")  # type: ignore[arg-type]
    assert not _in_callback(None) and not _in_callback(frame("a", back=frame("b")))
    for inner in (frame("weakref"), frame("torch.utils.weak"), frame("a", "__del__")):
        assert _in_callback(inner) and _in_callback(frame("a", back=frame("b", back=inner)))
    assert (deadline.PATIENCE, deadline.INTERVAL) == (0.5, 0.01)


def test_the_end_comes_in_the_middle_of_own_code() -> None:
    before = signal.getsignal(signal.SIGALRM)
    space: dict[str, Any] = {"__name__": "certnas.anything"}
    exec("def forever():\n    while True:\n        pass", space)
    with pytest.raises(OutOfTime), Deadline(0.02).enforced():
        space["forever"]()
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
