"""What a test of one's own network may assert about its bounds."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.testing.points import reached

SLACK = 1e-9
METHODS: dict[str, bounds.Method] = {
    name: bounds.METHODS[name] for name in ("ibp", "crown-ibp", "zonotope", "crown")
}


def assert_bounds_sound(
    model: nn.Module,
    x: Tensor,
    region: bounds.Region,
    *,
    methods: Mapping[str, bounds.Method] = METHODS,
    samples: int = 100,
    seed: int = 0,
) -> None:
    """Asserts that no point of the region that a search finds has a logit outside of its bounds, by any method.

    model maps [N, *shape] to [N, K] and is copied to float64, never changed; x [M, *shape] images on which the traced
    network must evaluate to what the model does; region e.g. bounds.Linf(x, eps, 0.0, 1.0).  Points are random ones,
    extreme points and the ends of descents, the same for the same seed.
    Raises AssertionError that names the method, the image, the output and by how much; bounds.UnsupportedOp for an
    operator without a rule.
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
    """Asserts that certnas's bounds of every logit are sound and in the mean no looser than auto_LiRPA's.

    x [N, *shape], eps in x's units, norm linf, l2 or l1; tolerance in shares of auto_LiRPA's width (1e-2 by default).
    Where auto_LiRPA is known to be wrong, or cannot bound the network, only certnas's soundness is asserted.
    Raises AssertionError, one line a failure; UserError where auto_LiRPA is not installed.
    """
    from certnas.crosscheck.comparison import TOLERANCE, compare

    limit = TOLERANCE if tolerance is None else tolerance
    found = compare(model, x, eps, norm, methods=methods, seed=seed)
    failures = [line for one in found for line in one.failures(limit)]
    assert not failures, "\n".join(failures)
