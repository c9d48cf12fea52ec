"""Assertions about the bounds of a network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.testing.points import reached

SLACK = 1e-9
"""Relative rounding error that the assertions tolerate, in float64."""
METHODS: dict[str, bounds.Method] = {
    name: bounds.METHODS[name] for name in ("ibp", "crown-ibp", "zonotope", "crown")
}
"""Bound methods that `assert_bounds_sound` checks by default."""


def assert_bounds_sound(
    model: nn.Module,
    x: Tensor,
    region: bounds.Region,
    *,
    methods: Mapping[str, bounds.Method] = METHODS,
    samples: int = 100,
    seed: int = 0,
) -> None:
    """Assert that no point of the region that a search finds has a logit outside its bounds, for every bound method.

    Args:
        model: maps [N, *shape] to [N, K].  It is copied to float64 and never changed.
        x: images [M, *shape] on which the traced network must agree with the model.
        region: the perturbations, such as bounds.Linf(x, eps, 0.0, 1.0).
        methods: bound methods by name.
        samples: number of random points per image.
        seed: seed of the points.  They are random points, extreme points of the region and the ends of descents.

    Raises:
        AssertionError: it names the method, the image, the output and the amount of the violation.
        bounds.UnsupportedOp: an operator has no rule.

    >>> import torch
    >>> from certnas import bounds
    >>> from certnas.testing import assert_bounds_sound
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> x = torch.rand(2, 2)
    >>> assert_bounds_sound(model, x, bounds.Linf(x, 0.1, 0.0, 1.0))
    """
    model = copy.deepcopy(model).eval().double()
    network = bounds.trace(model, x[:1].double()).bind()
    with torch.no_grad():
        expected, got = model(x.double()), network(x.double())
    away = float((expected - got).abs().max() / (1 + expected.abs().max()))
    assert away <= SLACK, f"the traced network evaluates {away:.3g} (relative) away from the model"
    region = region.to(torch.float64)
    rows = bounds.logits(len(region.x), expected.shape[1], dtype=torch.float64)
    found = reached(model, region, rows, samples=samples, seed=seed)
    for name, method in methods.items():
        with torch.no_grad():
            interval = bounds.output_bounds(network, region, method)
        for side, beyond, bound in (
            ("below the lower", interval.lower - found.lower, interval.lower),
            ("above the upper", found.upper - interval.upper, interval.upper),
        ):
            passed = ~(beyond <= SLACK * (1 + bound.abs()))
            if bool(passed.any()):
                image, output = (int(i) for i in passed.nonzero()[0])
                raise AssertionError(
                    f"{name}: a point of image {image}'s region takes output {output} "
                    f"{float(beyond[image, output]):.3g} {side} bound {float(bound[image, output]):.6g}"
                )


def assert_matches_auto_lirpa(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    methods: Sequence[str] = ("ibp", "crown-ibp", "crown"),
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Assert that certnas's bounds of every logit are sound, and on average no looser than auto_LiRPA's.

    Args:
        model: maps [N, *shape] to [N, K].
        x: images [N, *shape], the centres of the balls.
        eps: radius, in units of x.
        norm: linf, l2 or l1.
        methods: names of bound methods, keys of `certnas.crosscheck.METHODS`.
        tolerance: accepted mean excess width relative to auto_LiRPA's width (None: 1e-2).
        seed: seed of the points that test soundness.

    Raises:
        AssertionError: one line per failure.
        UserError: auto_LiRPA is not installed.

    If auto_LiRPA has a known error for the network, or cannot bound it, only certnas's soundness is
    asserted.
    """
    from certnas.crosscheck.comparison import TOLERANCE, compare

    limit = TOLERANCE if tolerance is None else tolerance
    found = compare(model, x, eps, norm, methods=methods, seed=seed)
    failures = [line for one in found for line in one.failures(limit)]
    assert not failures, "\n".join(failures)
