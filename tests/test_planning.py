"""What `auto` plans, on costs that are given in seconds."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

import bounds
from certnas.certifier.planning import MethodPlan, plan, predicted
from certnas.errors import UserError

NETWORK: Any = SimpleNamespace(graph=SimpleNamespace(output_shape=(10,)))


def seconds(time: float, memory: float = 0.0) -> bounds.Estimate:
    """A cost that is predicted to take so many seconds."""
    return bounds.Estimate(time / 1.7e-10, 0.0, 0, memory)


def planned(monkeypatch: pytest.MonkeyPatch, costs: dict[str, bounds.Estimate], **options: Any) -> MethodPlan:
    asked: list[int] = []

    def estimates(network: Any, rows: int) -> dict[str, bounds.Estimate]:
        assert network is NETWORK
        asked.append(rows)
        return costs

    monkeypatch.setattr(bounds, "estimates", estimates)
    found = plan(NETWORK, **options)
    assert asked == [NETWORK.graph.output_shape[-1] - 1]
    return found


def test_a_prediction_is_multiplications_of_unstable_units_and_visits() -> None:
    cost = bounds.Estimate(2e10, 1e10, 160, 0.0)
    assert predicted(cost) == pytest.approx(1.7e-10 * (2e10 - 0.7e10) + 1.9e-3 * 10, rel=1e-12)


LADDER = {"crown": seconds(2, 2**31), "crown-ibp": seconds(1, 2**30), "ibp": seconds(0.5, 2**29)}


@pytest.mark.parametrize(
    ("each", "iterations"), [(0.9, 8), (1.7, None), (1.55, 5), (0.39, 20), (0.1, 20), (1.61, None)]
)
def test_what_crown_leaves_goes_to_slopes(
    each: float, iterations: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds less the two of crown, in iterations of so many seconds each."""
    costs = LADDER | {"alpha-crown": seconds(20 * each)}
    found = planned(monkeypatch, costs)
    then = () if iterations is None else (bounds.AlphaCrown(iterations=iterations),)
    assert (found.method, found.then) == (bounds.Crown(), then)
    why = ["auto: crown, predicted 2 s an image of 10 s"]
    for method in then:
        name = "alpha-crown" if method.iterations == 20 else f"alpha-crown(iterations={method.iterations})"
        why.append(f"auto: then {name} for images certified to less than 95% of the attacked radius")
    assert found.why == tuple(why)


def test_the_tightest_that_fits_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = LADDER | {"alpha-crown": seconds(1e-3)}
    crown, later, first = (
        "auto: not crown, predicted 2 s an image",
        "auto: not crown-ibp, predicted 1 s an image",
        "auto: ibp, predicted 0.5 s an image of",
    )
    exactly = predicted(LADDER["crown"])
    assert planned(monkeypatch, costs, seconds=exactly).method == bounds.Crown()
    found = planned(monkeypatch, costs, seconds=math.nextafter(exactly, 0))
    assert (found.method, found.then) == (bounds.CrownIBP(), ())
    assert found.why == ("auto: crown-ibp, predicted 1 s an image of 2 s", crown)
    found = planned(monkeypatch, costs, seconds=0.75)
    assert (found.method, found.then, found.why) == (bounds.IBP(), (), (f"{first} 0.75 s", crown, later))
    found = planned(monkeypatch, costs, seconds=0.25)
    assert (found.method, found.then) == (bounds.IBP(), ())
    assert found.why == (f"{first} 0.25 s; there is no cheaper method", crown, later)
    assert planned(monkeypatch, costs, seconds=5, memory=2**31).method == bounds.Crown()
    found = planned(monkeypatch, costs, seconds=5, memory=2**31 - 1)
    assert (found.method, found.why[1]) == (bounds.CrownIBP(), f"{crown} and 2 GiB")
    found = planned(monkeypatch, costs, seconds=0.75, memory=2**31 - 1)
    assert (found.method, found.why[1:]) == (bounds.IBP(), (f"{crown} and 2 GiB", later))
    assert planned(monkeypatch, costs, seconds=5, memory=1).why[0].endswith("there is no cheaper method")


def test_one_output_is_one_row_and_no_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def estimates(network: Any, count: int) -> dict[str, bounds.Estimate]:
        rows.append(count)
        return LADDER | {"alpha-crown": seconds(1e9)}

    monkeypatch.setattr(bounds, "estimates", estimates)
    for classes in (1, 2, 3):
        plan(SimpleNamespace(graph=SimpleNamespace(output_shape=(classes,))), seconds=1e-9)  # type: ignore[arg-type]
    assert rows == [1, 1, 2]
    for time in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="accepted: more than 0 seconds"):
            plan(NETWORK, seconds=time)
