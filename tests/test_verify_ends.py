"""Ends that come early: time, interruption, memory."""

import math
import signal
import time
import weakref
from types import FunctionType

import pytest
import torch
from oracles import exact_minimum
from property_networks import ball, below, dense, verify
from torch import nn

from certnas.verifier import Clause, Property, VerificationProgress, network_of
from certnas.verifier import verify as verify_network
from certnas.verifier.deadline import Deadline, OutOfTime


def hard() -> tuple[nn.Sequential, Property]:
    """A property that holds as far as a descent from many points can tell, and only just."""
    network = dense(0, 40, 60, 60, 60, 2)
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    way = 2 * torch.rand(200, 40, dtype=torch.float64) - 1
    best = []
    for step in range(100):
        way.requires_grad_(True)
        value = network(0.5 + 0.5 * way) @ row
        best.append(float(value.detach().min()))
        (slope,) = torch.autograd.grad(value.sum(), way)
        way = (way.detach() - 0.3 * 0.95**step * slope.sign()).clamp(-1, 1)
    bound = min(best) - 1e-3
    return network, Property(40, 2, (Clause(ball(torch.full((40,), 0.5), 0.5), (below(row, bound),)),))


def test_a_timeout_ends_in_time_with_the_best_bound() -> None:
    network, prop = hard()
    seen: list[VerificationProgress] = []
    traced = network_of(network, (40,))
    began = time.monotonic()
    verdict = verify_network(traced, prop, timeout=5.0, progress=seen.append)
    assert time.monotonic() - began < 8
    assert verdict.status == "timeout"
    assert [s.stage for s in seen[:4]] == ["attack", "ibp", "crown-ibp", "crown"]
    proved = [step.bound for step in seen]
    assert proved == sorted(proved)
    assert math.isfinite(verdict.bound) and verdict.bound >= proved[-1]
    assert verdict.domains > 0


def test_an_interruption_reports_the_best_bound() -> None:
    network, prop = hard()

    def press(step: VerificationProgress) -> None:
        if step.stage == "branch and bound" and step.done:
            raise KeyboardInterrupt

    verdict = verify(network, prop, (40,), progress=press)
    assert (verdict.status, verdict.interrupted) == ("unknown", True)
    assert math.isfinite(verdict.bound)


def test_more_open_boxes_than_fit_end_the_search() -> None:
    network = dense(4, 8, 12, 12, 2)
    x, row = torch.zeros(8), torch.tensor([1.0, -1.0], dtype=torch.float64)
    bound = exact_minimum(network, row, x.double(), 1.0).value - 1e-4
    prop = Property(8, 2, (Clause(ball(x, 1.0), (below(row, bound),)),))
    verdict = verify(network, prop, (8,), memory=20_000)
    assert (verdict.status, verdict.note) == ("unknown", "the open subproblems exceed the memory budget")
    assert -math.inf < verdict.bound <= 2e-4


def test_no_time_at_all() -> None:
    network, prop = hard()
    verdict = verify(network, prop, (40,), timeout=0.0)
    assert (verdict.status, verdict.bound) == ("timeout", -math.inf)


def test_a_deadline_rings_and_leaves_no_trace() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTime), Deadline(0.05).enforced():
        while True:
            pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("patience", [0.5, 0.0])
def test_a_deadline_is_not_lost_in_a_callback(patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints and drops what is raised inside of the callback of a weak reference."""
    monkeypatch.setattr("certnas.verifier.deadline.PATIENCE", patience)

    class Key:
        pass

    def last(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    def called(_: object) -> None:
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass
        returned.append(True)

    returned: list[bool] = []
    there = FunctionType(called.__code__, {"time": time, "__name__": "weakref"}, closure=called.__closure__)
    key = Key()
    reference = weakref.ref(key, there)
    with pytest.raises(OutOfTime), Deadline(0.05).enforced():
        del key
        last(10)
    assert returned and reference() is None


def test_the_preparation_of_a_search_counts_and_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done before the first stage may take long, too, with huge numbers in rational arithmetic."""

    def forever(network: object, prop: object) -> None:
        while True:
            pass

    network, prop = hard()
    traced = network_of(network, (40,))
    monkeypatch.setattr("certnas.verifier.verification.equal_bounds", forever)
    began = time.monotonic()
    verdict = verify_network(traced, prop, timeout=0.3)
    assert time.monotonic() - began < 3
    assert (verdict.status, verdict.bound, verdict.by) == ("timeout", -math.inf, "preparation")
