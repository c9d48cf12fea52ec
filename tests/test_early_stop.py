"""Units of known sign are let go on the way; what stays is bounded as if none had been."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.chunking import budget
from bounds.interval import Interval
from bounds.passes import early_stop
from bounds.state import BoundState

PLAIN = bounds.Crown(intersect=False)
NORMS = {"linf": 0.03, "l2": 0.3, "l1": 0.6}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.inner, self.skip = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(6, 8, 1, 2)
        self.last, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        z = self.inner(self.down(y).relu()) + self.skip(y)
        z = nn.functional.leaky_relu(self.last(z.relu()), 0.1)
        return self.head(z.flatten(1))


def subject(images: int = 3) -> tuple[bounds.Network, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = Residual().double(), torch.rand(images, 2, 8, 8, dtype=torch.float64)
    network = bounds.trace(model, x[:1]).bind()
    return network, x, bounds.margins(network(x).argmax(1), 4).double()


def looked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(units, those of them that stay open) of every look that is made from now on."""
    seen: list[tuple[int, int]] = []
    look = early_stop.EarlyStop.check_signs

    def watched(self: early_stop.EarlyStop, *arguments: object) -> object:
        before = int(self._undecided.sum())
        found = look(self, *arguments)  # type: ignore[arg-type]
        seen.append((before, int(self._undecided.sum())))
        return found

    monkeypatch.setattr(early_stop.EarlyStop, "check_signs", watched)
    return seen


@pytest.mark.parametrize("norm", NORMS)
def test_the_bounds_are_those_without_it(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, rows = subject()
    region = bounds.NORMS[norm](x, NORMS[norm])
    seen = looked(monkeypatch)
    found = bounds.lower_bounds(network, region, rows, PLAIN)
    assert sum(before - after for before, after in seen) > 50
    monkeypatch.setattr(BoundState, "_by_sign", lambda *_: False)
    calls = len(seen)
    plain = bounds.lower_bounds(network, region, rows, PLAIN)
    assert len(seen) == calls
    assert torch.allclose(found, plain, rtol=0, atol=1e-12)


def test_intervals_keep_signs_and_open_units_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, _ = subject()
    region = bounds.Linf(x, 0.03)

    def intervals() -> dict[str, Interval]:
        state = BoundState(
            network, region, budget(None, network.dtype, network.device), bounds.Slope.ADAPTIVE
        )
        for target in state.facts.readers:
            state.refine(target, meet=lambda _, new: new)
        return {name: state.intervals[name] for name in state.facts.readers}

    with torch.no_grad():
        found = intervals()
        monkeypatch.setattr(BoundState, "_by_sign", lambda *_: False)
        plain = intervals()
        inside = [network.run(x + 0.03 * way) for way in (torch.rand_like(x), -torch.rand_like(x))]
        points = [dict(run) for run in inside]
    looser = 0
    for name, (lower, upper) in plain.items():
        mine = found[name]
        open_ = (lower < 0) & (upper > 0)
        assert torch.equal((mine.lower < 0) & (mine.upper > 0), open_)
        assert torch.allclose(mine.lower[open_], lower[open_], rtol=0, atol=1e-12)
        assert torch.allclose(mine.upper[open_], upper[open_], rtol=0, atol=1e-12)
        looser += int((mine.upper - mine.lower > upper - lower + 1e-9).sum())
        assert all(bool(((mine.lower <= p[name]) & (p[name] <= mine.upper)).all()) for p in points)
    assert looser > 0


def test_an_image_has_its_bounds_whatever_its_company_and_the_blocks() -> None:
    network, x, rows = subject(5)
    whole = bounds.lower_bounds(network, bounds.Linf(x, 0.03), rows, bounds.Crown())
    for image in range(5):
        one = slice(image, image + 1)
        alone = bounds.lower_bounds(network, bounds.Linf(x[one], 0.03), rows[one], bounds.Crown())
        assert torch.allclose(whole[one], alone, rtol=0, atol=1e-12)
    small = bounds.lower_bounds(network, bounds.Linf(x, 0.03), rows, bounds.Crown(), memory=300_000)
    assert torch.allclose(whole, small, rtol=0, atol=1e-12)


def test_its_bounds_have_their_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, rows = subject(1)
    seen = looked(monkeypatch)

    def least(eps: Tensor) -> Tensor:
        return bounds.lower_bounds(network, bounds.Linf(x, eps), rows, bounds.Crown()).sum()

    eps = torch.tensor(0.0303, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(least(eps), eps)
    step = 1e-8
    with torch.no_grad():
        expected = (least(eps + step) - least(eps - step)) / (2 * step)
    assert any(after < before for before, after in seen)
    assert float(slope) == pytest.approx(float(expected), rel=1e-5)


def test_smooth_functions_let_no_unit_go(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
    network = bounds.trace(model, torch.rand(1, 4)).bind()
    seen = looked(monkeypatch)
    rows = torch.eye(8).unsqueeze(0)
    assert bool(
        torch.isfinite(bounds.lower_bounds(network, bounds.Linf(torch.rand(1, 4), 0.1), rows, PLAIN)).all()
    )
    assert not seen
