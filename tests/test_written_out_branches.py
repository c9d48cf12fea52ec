"""Branches that meet, against plain matrices: a sum, a join, a constant, and an operand that nothing perturbs twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.chunking import budget
from bounds.passes.early_stop import EarlyStop
from bounds.passes.zonotope import AffineForm, ZonotopePass
from bounds.relaxation import Slope
from bounds.state import BoundState


class Branches(nn.Module):
    """h = A x;  z = B σ(h) + C h;  y = D [σ(z), h] + E σ(z)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5, bias=False)
        self.d, self.e = nn.Linear(9, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        z = self.b(h.relu()) + self.c(h)
        r = z.relu()
        return self.d(torch.cat([r, h], 1)) + self.e(r)


@pytest.fixture(scope="module")
def subject() -> tuple[Branches, bounds.Network, bounds.Region, Tensor]:
    torch.manual_seed(5)
    model = Branches().double().requires_grad_(False)
    x = torch.rand(3, 3, dtype=torch.float64)
    rows = torch.randn(3, 4, 2, dtype=torch.float64)
    return model, bounds.trace(model, x).bind(), bounds.L2(x, torch.tensor([0.3, 0.6, 0.9]).double()), rows


def state(
    network: bounds.Network, region: bounds.Region, slope: Slope = Slope.ADAPTIVE, room: int | None = None
) -> BoundState:
    return BoundState(network, region, budget(room, torch.float64, network.device), slope)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def planes(low: Tensor, high: Tensor, slope: Slope) -> tuple[Tensor, Tensor, Tensor]:
    open_ = (low < 0) & (high > 0)
    across = torch.where(open_, high / torch.where(open_, high - low, 1), (high > 0).double())
    free = across if slope is Slope.PARALLEL else torch.where(open_, (high >= -low).double(), across)
    return free.unsqueeze(1), across.unsqueeze(1), torch.where(open_, -across * low, 0).unsqueeze(1)


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64).expand(3, -1, -1)


@pytest.mark.parametrize("room", [None, 3_000])
@pytest.mark.parametrize("slope", [Slope.ADAPTIVE, Slope.PARALLEL])
def test_crown(subject, slope: Slope, room: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        EarlyStop, "is_due", lambda *_: False
    )  # intervals on the way settle units that rows leave open
    model, network, region, rows = subject

    def relu(coef: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        below, above, lift = planes(low, high, slope)
        down = coef.clamp(max=0)
        return coef.clamp(min=0) * below + down * above, (down * lift).sum(-1)

    def of_h(coef: Tensor) -> Tensor:
        return coef @ model.a.bias + region.minimum(coef @ model.a.weight)

    def of_z(coef: Tensor, onto_h: Tensor | float = 0.0) -> Tensor:
        pulled, const = relu(coef @ model.b.weight, *h)
        return coef @ model.b.bias + const + of_h(pulled + coef @ model.c.weight + onto_h)

    def of_y(coef: Tensor) -> Tensor:
        weight = model.d.weight[:, :5] + model.e.weight
        pulled, const = relu(coef @ weight, *z)
        return coef @ (model.d.bias + model.e.bias) + const + of_z(pulled, coef @ model.d.weight[:, 5:])

    h = of_h(eye(4)), -of_h(-eye(4))
    low, high = (side.clamp(min=0) for side in h)
    b, c = model.b.weight, model.c.weight
    middle, spread = (low + high) / 2 @ b.T + model.b.bias, (high - low) / 2 @ b.abs().T
    # C h is affine in the image, and so bounded against the ball itself
    boxed = middle - spread + of_h(eye(5) @ c), middle + spread - of_h(-eye(5) @ c)
    z = boxed
    one_pass = bounds.CrownIBP(slope).lower(state(network, region, slope, room), rows)

    def from_boxes(coef: Tensor) -> Tensor:
        """The bounds of rows follow from the intervals of both ReLUs and of h, which is the input's."""
        low, high = (side.clamp(min=0).unsqueeze(1) for side in z)
        pulled = coef @ (model.d.weight[:, :5] + model.e.weight)
        const = (pulled.clamp(min=0) * low + pulled.clamp(max=0) * high).sum(-1)
        return coef @ (model.d.bias + model.e.bias) + const + of_h(coef @ model.d.weight[:, 5:])

    same(one_pass, torch.fmax(from_boxes(rows), of_y(rows)))
    same(bounds.IBP().lower(state(network, region, slope, room), rows), from_boxes(rows))
    open_ = (z[0] < 0) & (z[1] > 0)
    new = torch.maximum(z[0], of_z(eye(5))), torch.minimum(z[1], -of_z(-eye(5)))
    above, below = open_ & (new[0] >= 0), open_ & (new[1] <= 0)
    open_ = open_ & ~above & ~below
    z = (
        torch.where(above, z[0].clamp(min=0), torch.where(open_, new[0], z[0])),
        torch.where(below, z[1].clamp(max=0), torch.where(open_, new[1], z[1])),
    )
    found = bounds.Crown(slope).lower(state(network, region, slope, room), rows)
    assert bool((new[0] > boxed[0] + 1e-3).any()) and bool(open_.any())
    same(found, torch.fmax(from_boxes(rows), of_y(rows)))


@pytest.mark.parametrize("errors", [None, 0, 2])
def test_a_zonotope(subject, errors: int | None) -> None:
    """One branch has errors that the other has not."""
    model, network, region, rows = subject
    linear, center = model.a.weight.expand(3, -1, -1), model.a.bias.expand(3, -1)

    def split(error: Tensor) -> tuple[Tensor, Tensor]:
        top = error.topk(error.shape[1] if errors is None else errors, 1).indices
        kept = torch.zeros_like(error).scatter(1, top, 1.0) * error
        return torch.diag_embed(kept), error - kept

    low, high = center + region.minimum(linear), center - region.minimum(-linear)
    slope, _, lift = (t.squeeze(1) for t in planes(low, high, Slope.PARALLEL))
    symbols, rest = split(lift / 2)
    b, c = model.b.weight, model.c.weight
    onto_z = (b * slope.unsqueeze(1) + c) @ linear
    at_z = (slope * center + lift / 2) @ b.T + model.b.bias + center @ c.T
    symbols, rest = b @ symbols, rest @ b.abs().T
    spread = symbols.abs().sum(2) + rest
    form = at_z - spread + region.minimum(onto_z), at_z + spread - region.minimum(-onto_z)
    relus = low.clamp(min=0), high.clamp(min=0)
    middle = (relus[0] + relus[1]) / 2 @ b.T + model.b.bias + center @ c.T
    wide = (relus[1] - relus[0]) / 2 @ b.abs().T
    side = region.minimum(c @ linear), -region.minimum(-c @ linear)
    z = torch.maximum(form[0], middle - wide + side[0]), torch.minimum(form[1], middle + wide + side[1])
    slope_z, _, lift_z = (t.squeeze(1) for t in planes(*z, Slope.PARALLEL))
    fresh, more = split(lift_z / 2)
    d, e = model.d.weight, model.e.weight
    weight = d[:, :5] + e
    onto_y = (weight * slope_z.unsqueeze(1)) @ onto_z + d[:, 5:] @ linear
    at_y = (slope_z * at_z + lift_z / 2) @ weight.T + center @ d[:, 5:].T + model.d.bias + model.e.bias
    all_symbols = torch.cat([weight @ (slope_z.unsqueeze(2) * symbols), weight @ fresh], 2)
    box = (slope_z * rest + more) @ (d[:, :5].abs() + e.abs()).T
    analysis = state(network, region)
    found = ZonotopePass(analysis, errors).run()
    assert isinstance(found, AffineForm) and found.linear is not None
    range_ = found.interval(region)
    reach = all_symbols.abs().sum(2) + box
    same(range_.lower, at_y - reach + region.minimum(onto_y))
    same(range_.upper, at_y + reach - region.minimum(-onto_y))
    same(analysis.intervals["add"].lower, z[0])
    same(analysis.intervals["add"].upper, z[1])
    formed = (rows @ at_y.unsqueeze(2)).squeeze(2) - (rows.abs() @ box.unsqueeze(2)).squeeze(2)
    formed = formed - (rows @ all_symbols).abs().sum(2) + region.minimum(rows @ onto_y)
    assert bool((bounds.Zonotope(errors).lower(state(network, region), rows) >= formed - 1e-10).all())
    same(ZonotopePass(state(network, region), errors).lower(found, rows), formed)
