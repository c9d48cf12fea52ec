"""`auto`: the methods worth their time on a network, chosen before the first bound by a model of their cost."""

from dataclasses import dataclass

from certnas import bounds
from certnas.certifier.batch import BATCH, WIDE
from certnas.certifier.request import describe
from certnas.errors import UserError

AUTO, SECONDS = "auto", 10.0
LADDER = ("crown", "crown-ibp", "ibp")
LEAST_ITERATIONS, MOST_ITERATIONS = 5, 20

PER_MULTIPLICATION, PER_VISIT, UNSTABLE = 1.7e-10, 1.9e-3, 0.30
"""What `benchmarks.scaling` fitted to certified radii on one thread of a CPU, the search and the proof in double
precision included: seconds a multiplication, seconds that the operators a bound visits take besides, shared by the
images of a batch, and the share of units that are unstable.  Half of its predictions are right within a factor of 2.4.
"""


@dataclass(frozen=True)
class Plan:
    """`method` for every image, then each of `then` for those that are still wide; why, in lines for the user."""

    method: bounds.Method
    then: tuple[bounds.Method, ...] = ()
    why: tuple[str, ...] = ()


def method_names() -> tuple[str, ...]:
    """The names that `certify` accepts as its method: those of `bounds.METHODS`, and AUTO."""
    return (*bounds.METHODS, AUTO)


def predicted(cost: bounds.Estimate) -> float:
    """About how many seconds the radius of one image takes."""
    multiplications = cost.multiplications - (1 - UNSTABLE) * cost.per_unstable
    return PER_MULTIPLICATION * multiplications + PER_VISIT * cost.visits / BATCH


def plan(network: bounds.Network, *, seconds: float = SECONDS, memory: int | None = None) -> Plan:
    """The tightest method of the ladder that is predicted to take no more than `seconds` an image, and the memory.

    What is left goes to α-CROWN, for images whose certified and attacked radius are still WIDE apart.
    Raises UserError for seconds ≤ 0; UnsupportedOp for an operator without a rule.
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
        + ("" if affordable else "; nothing cheaper is known")
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
    return Plan(bounds.METHODS[first], then, tuple(why))


def _then(costs: dict[str, bounds.Estimate], first: str, seconds: float) -> tuple[bounds.Method, ...]:
    if first != LADDER[0]:
        return ()
    usual = bounds.AlphaCrown().iterations
    each = predicted(costs["alpha-crown"]) / usual
    iterations = int((seconds - predicted(costs[first])) / each)
    if iterations < LEAST_ITERATIONS:
        return ()
    return (bounds.AlphaCrown(iterations=min(iterations, MOST_ITERATIONS)),)
