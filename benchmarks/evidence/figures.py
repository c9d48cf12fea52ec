"""The statistics: means with standard errors, differences, rank correlations, and what they support."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ERRORS, POINTS, SHARE = 2.0, 0.01, 0.25
"""What the aim asks: beyond so many standard errors, accuracy within so much, parameters within that share."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, s/√n with s of n − 1 degrees of freedom; NaN for fewer than two values."""

    mean: float
    error: float
    count: int

    def text(self, digits: int, scale: float = 1.0) -> str:
        if self.count == 0:
            return "–"
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if math.isnan(self.error) else f"{mean} ± {scale * self.error:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of the values with its standard error."""
    array = np.asarray(values, dtype=float)
    if len(array) == 0:
        return Estimate(math.nan, math.nan, 0)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
    return Estimate(float(array.mean()), error, len(array))


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b, with its standard error and the two-sided p-value of Student's or Welch's t.

    larger of count: in how many pairs a is the larger one (of how many); both 0 where there are no pairs.
    """

    mean: float
    error: float
    p: float
    larger: int = 0
    count: int = 0

    @property
    def beyond(self) -> bool:
        """Whether the difference is positive by more than two standard errors."""
        return self.mean > ERRORS * self.error


def difference(a: Mapping[int, float], b: Mapping[int, float], *, paired: bool) -> Difference:
    """a − b by number: of the pairs with a number in both, or of the means of two independent samples."""
    if paired:
        both = sorted(a.keys() & b.keys())
        apart = [a[number] - b[number] for number in both]
        whole = estimate(apart)
        p = _p(whole.mean, whole.error, len(apart) - 1)
        return Difference(whole.mean, whole.error, p, sum(d > 0 for d in apart), len(apart))
    first, second = estimate(list(a.values())), estimate(list(b.values()))
    squares = [e.error**2 for e in (first, second)]
    error = math.sqrt(sum(squares))
    freedom = math.nan
    if error > 0:
        parts = [s**2 / (e.count - 1) for s, e in zip(squares, (first, second), strict=True)]
        freedom = error**4 / sum(parts)  # Welch and Satterthwaite
    return Difference(first.mean - second.mean, error, _p(first.mean - second.mean, error, freedom))


def _p(mean: float, error: float, freedom: float) -> float:
    return float(2 * stats.t.sf(abs(mean) / error, freedom)) if error > 0 else math.nan


@dataclass(frozen=True)
class Arm:
    """What the networks of an arm have, by number: shares, radii in pixels, counts."""

    name: str
    accuracy: Mapping[int, float]
    attacked: Mapping[int, float]
    radius: Mapping[str, Mapping[int, float]]
    parameters: Mapping[int, float]


@dataclass(frozen=True)
class Comparison:
    """An arm's certified radius against another's: the difference, and what it must be seen with.

    gap: mean clean accuracy of the arm minus the other's; ratio: of the mean numbers of parameters.
    """

    arm: str
    other: str
    norm: str
    radius: Difference
    gap: float
    ratio: float

    @property
    def same_accuracy(self) -> bool:
        return self.gap >= -POINTS

    @property
    def same_size(self) -> bool:
        return abs(self.ratio - 1) <= SHARE

    @property
    def supported(self) -> bool:
        """Whether the arm is better in the sense of the aim."""
        return self.radius.beyond and self.same_accuracy and self.same_size


def compare(arm: Arm, other: Arm, norm: str, *, paired: bool) -> Comparison:
    """`arm` against `other`; paired where equal numbers are of the same seed."""
    return Comparison(
        arm.name,
        other.name,
        norm,
        difference(arm.radius[norm], other.radius[norm], paired=paired),
        estimate(list(arm.accuracy.values())).mean - estimate(list(other.accuracy.values())).mean,
        estimate(list(arm.parameters.values())).mean / estimate(list(other.parameters.values())).mean,
    )


def kendall(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Kendall's τ_b of two rankings of the same things, and its two-sided p-value; NaN for fewer than two."""
    if len(a) < 2:
        return math.nan, math.nan
    found = stats.kendalltau(a, b)
    return float(found.statistic), float(found.pvalue)
