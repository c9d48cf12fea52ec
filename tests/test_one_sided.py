"""One side of a unit first: fewer rows and the same bounds; planes that rarely part are pulled as all others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bounds
from bounds import relaxation
from bounds import state as state_module
from bounds.chunking import budget
from bounds.state import BoundState
from tests.test_early_stop import NORMS, PLAIN, Residual, subject


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many units were asked for one side, call by call; one side is asked first whatever the work."""
    monkeypatch.setattr(state_module, "ONE_SIDED_COEFFICIENTS", 0)
    counts: list[int] = []
    signed_unit_bounds = BoundState.signed_unit_bounds

    def watched(
        self: BoundState, target: str, units: Tensor, signs: Tensor, node_alphas, each, early_stop
    ) -> Tensor:
        counts.append(sum(each))
        return signed_unit_bounds(self, target, units, signs, node_alphas, each, early_stop)

    monkeypatch.setattr(BoundState, "signed_unit_bounds", watched)
    return counts


def two_sided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "ONE_SIDED_COEFFICIENTS", 10**18)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", [PLAIN, bounds.Crown()], ids=["newer", "met"])
def test_the_bounds_are_those_of_both_sides_at_once(
    norm: str, method: bounds.Method, asked: list[int], monkeypatch
) -> None:
    network, x, rows = subject()
    region = bounds.NORMS[norm](x, NORMS[norm] / 3)
    found = bounds.lower_bounds(network, region, rows, method)
    assert len(asked) >= 4 and min(asked) < 0.5 * max(asked), "some call left most units settled"
    two_sided(monkeypatch)
    calls = len(asked)
    both = bounds.lower_bounds(network, region, rows, method)
    assert len(asked) == calls
    torch.testing.assert_close(found, both, rtol=0, atol=1e-12)


def test_where_little_is_settled_both_sides_go_at_once_again(asked: list[int]) -> None:
    network, x, rows = subject()
    bounds.lower_bounds(network, bounds.Linf(x, 0.5), rows, PLAIN)
    assert len(asked) == 2, "the first tensor's first and second side, and no more"


def intervals(network: bounds.Network, x: Tensor, eps: float) -> dict[str, bounds.Interval]:
    """Refines every tensor that a nonlinear operator reads."""
    state = BoundState(network, bounds.Linf(x, eps), budget(None, x.dtype, x.device), bounds.Slope.ADAPTIVE)
    for target in state.facts.readers:
        state.refine(target)
    return {target: state.intervals[target] for target in state.facts.readers}


def test_intervals_do_not_depend_on_the_way(asked: list[int], monkeypatch) -> None:
    network, x, _ = subject()
    found = intervals(network, x, 0.02)
    assert asked
    two_sided(monkeypatch)
    for target, (lower, upper) in intervals(network, x, 0.02).items():
        torch.testing.assert_close(found[target].lower, lower, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[target].upper, upper, rtol=0, atol=1e-12)


def test_intervals_hold_what_is_reached(asked: list[int]) -> None:
    network, x, _ = subject()
    known = intervals(network, x, 0.02)
    assert asked
    draw = torch.Generator().manual_seed(0)
    for step in range(40):
        shift = 2 * torch.rand(x.shape, generator=draw, dtype=x.dtype) - 1
        for target, value in intervals(
            network, x + 0.02 * (shift.sign() if step % 2 else shift), 0.0
        ).items():
            assert bool((value.lower >= known[target].lower - 1e-9).all()), target
            assert bool((value.upper <= known[target].upper + 1e-9).all()), target


@pytest.mark.parametrize("images", [1, 3])
def test_planes_that_rarely_part_pull_as_all_others(images: int, monkeypatch) -> None:
    """Values, and derivatives in the weights."""
    torch.manual_seed(0)
    model, x = Residual().double(), torch.rand(images, 2, 8, 8, dtype=torch.float64)
    graph = bounds.trace(model, x[:1])
    rows = bounds.margins(model(x).argmax(1), 4).double()
    taken: list[bool] = []
    few = relaxation.Relaxation._few_unstable

    def watched(self: relaxation.Relaxation, coef: Tensor) -> Tensor | None:
        found = few(self, coef)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(relaxation.Relaxation, "_few_unstable", watched)

    def bound(large: int) -> tuple[Tensor, list[Tensor]]:
        monkeypatch.setattr(relaxation, "SPARSE_COEFFICIENTS", large)
        monkeypatch.setattr(relaxation, "SPARSE_SHARE", 1.0)
        found = bounds.lower_bounds(
            graph.bind(dict(model.state_dict(keep_vars=True))), bounds.Linf(x, 0.01), rows, PLAIN
        )
        return found, list(torch.autograd.grad(found.sum(), list(model.parameters()), allow_unused=True))

    plain, slopes = bound(10**18)
    assert not any(taken)
    found, others = bound(0)
    assert any(taken)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
    for one, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
