"""Method "auto": chooses bound methods by their predicted time, before any bound is computed."""

from dataclasses import dataclass

from certnas import bounds
from certnas.certifier.batch import BATCH, WIDE
from certnas.certifier.request import describe
from certnas.errors import UserError

AUTO, SECONDS = "auto", 10.0
"""AUTO is the method's name; SECONDS is the default time limit per image."""
LADDER = ("crown", "crown-ibp", "ibp")
"""The methods to choose from, the tightest first."""
LEAST_ITERATIONS, MOST_ITERATIONS = 5, 20
"""The range of α-CROWN iterations that are planned."""

PER_MULTIPLICATION, PER_VISIT, UNSTABLE = 1.7e-10, 1.9e-3, 0.30
"""Constants that `benchmarks.scaling` fitted to certified radii on one CPU thread, with the search and the float64
proof: seconds per multiplication, further seconds per visited operator (shared by the images of a batch), and the
share of unstable units. Half of the predictions are right within a factor of 2.4.
"""


@dataclass(frozen=True)
class MethodPlan:
    """The methods that "auto" chose."""

    method: bounds.Method
    """The method for every image."""
    then: tuple[bounds.Method, ...] = ()
    """Further methods, in order, for images whose radius is still wide."""
    why: tuple[str, ...] = ()
    """The reasons, as lines for the user."""


def method_names() -> tuple[str, ...]:
    """The names that `certify` accepts as its method: those of `bounds.METHODS`, and AUTO."""
    return (*bounds.METHODS, AUTO)


def predicted(cost: bounds.Estimate) -> float:
    """The predicted time of one image's radius, in seconds."""
    multiplications = cost.multiplications - (1 - UNSTABLE) * cost.per_unstable
    return PER_MULTIPLICATION * multiplications + PER_VISIT * cost.visits / BATCH


def plan(network: bounds.Network, *, seconds: float = SECONDS, memory: int | None = None) -> MethodPlan:
    """Chooses the tightest method whose predicted time and memory are within the limits.

    network: the traced network. seconds: the time limit per image. memory: the budget in bytes.
    The remaining time goes to α-CROWN, for images whose certified and attacked radius are more than WIDE apart.
    Raises UserError for seconds ≤ 0, and UnsupportedOp for an operator without a rule.
    """
    if not seconds > 0:
        raise UserError(f"time per image is {seconds:g}; accepted: more than 0 seconds")
    classes = network.graph.output_shape[-1]
    costs = bounds.estimates(network, max(1, classes - 1))
    fits = {name: memory is None or costs[name].memory <= memory for name in LADDER}
    affordable = [name for name in LADDER if fits[name] and predicted(costs[name]) <= seconds]
    first = affordable[0] if affordable else LADDER[-1]
    why = [
        f"auto: {first}, predicted {predicted(costs[first]):.2g} s an image of {seconds:g} s"
        + ("" if affordable else "; there is no cheaper method")
    ]
    skipped = LADDER[: LADDER.index(first)]
    why += [
        f"auto: not {name}, predicted {predicted(costs[name]):.2g} s an image"
        + ("" if fits[name] else f" and {costs[name].memory / 2**30:.2g} GiB")
        for name in skipped
    ]
    then = _then(costs, first, seconds)
    why += [
        f"auto: then {describe(method)} for images certified to less than {1 - WIDE:.0%} of the attacked radius"
        for method in then
    ]
    return MethodPlan(bounds.METHODS[first], then, tuple(why))


def _then(costs: dict[str, bounds.Estimate], first: str, seconds: float) -> tuple[bounds.Method, ...]:
    """α-CROWN with as many iterations as the remaining time allows, if the first method is CROWN and the time
    suffices.
    """
    if first != LADDER[0]:
        return ()
    usual = bounds.AlphaCrown().iterations
    each = predicted(costs["alpha-crown"]) / usual
    iterations = int((seconds - predicted(costs[first])) / each)
    if iterations < LEAST_ITERATIONS:
        return ()
    return (bounds.AlphaCrown(iterations=min(iterations, MOST_ITERATIONS)),)
