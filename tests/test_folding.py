"""Batch normalisation folded into the operator before it: the same bounds and derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.graph.folding import folded
from bounds.methods import method as methods

METHODS = (
    bounds.IBP(),
    bounds.CrownIBP(),
    bounds.Zonotope(),
    bounds.Crown(),
    bounds.AlphaCrown(iterations=2),
)


class Normalised(nn.Module):
    """Normalisations that can be folded, and four that cannot: of an input, a sum, two readers, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.Conv2d(4, 4, 3, 2, 1, groups=2),
        )
        self.line, self.head = nn.Linear(4 * 9, 6), nn.Linear(6, 3)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(c, affine=a) for c, a in [(2, True), (4, False), (4, True), (4, True)]
        )
        self.joined, self.flat = nn.BatchNorm2d(8), nn.BatchNorm1d(6)
        self.again = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.first(self.norms[0](x))).relu()
        z = self.second(y)
        z = self.norms[2](z).relu() + self.norms[3](z)
        z = self.again(self.joined(torch.cat([z, z.relu()], 1)))
        return self.head(self.flat(self.line(z.flatten(1))).relu())


def subject() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Normalised().double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    for _ in range(5):
        model(torch.rand(32, 2, 6, 6, dtype=torch.float64))
    x = torch.rand(2, 2, 6, 6, dtype=torch.float64)
    return model.eval(), x, torch.eye(3, dtype=torch.float64).expand(2, -1, -1)


def test_it_is_the_same_function_of_fewer_operators() -> None:
    model, x, _ = subject()
    network = bounds.trace(model, x[:1]).bind()
    less = folded(network)
    gone = [node.op for name, node in network.graph.nodes.items() if name not in less.graph.nodes]
    assert gone == ["aten.conv2d.default", "aten.linear.default"]
    assert torch.allclose(less(x), model(x), rtol=0, atol=1e-12)
    assert folded(less) is less


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_bounds_and_derivatives_are_the_same(method: bounds.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the network was first bounded without derivatives."""
    model, x, rows = subject()
    network, region = bounds.trace(model, x[:1]).bind(dict(model.named_parameters())), bounds.Linf(x, 0.01)

    def slopes() -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            bounds.lower_bounds(network, region, rows, method)
        lower = bounds.lower_bounds(network, region, rows, method)
        return lower, list(torch.autograd.grad(lower.square().sum(), list(model.parameters())))

    mine, own = slopes()
    monkeypatch.setattr(methods, "folded", lambda network: network)
    plain, expected = slopes()
    assert torch.allclose(mine, plain, rtol=0, atol=1e-10)
    for one, other in zip(own, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("data", [False, True], ids=["in place", "by data"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_bounds_follow_weights_that_change_in_place(method: bounds.Method, data: bool) -> None:
    """A frozen network is bounded before and after; a write through `.data` raises no version."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    model, x = model.double().eval().requires_grad_(False), torch.rand(2, 1, 6, 6).double()
    graph = bounds.trace(model, x)
    network, region = graph.bind(), bounds.Linf(x, 0.01)
    bounds.output_bounds(network, region, method)
    (model[0].weight.data if data else model[0].weight).mul_(-3)
    found, fresh = (bounds.output_bounds(n, region, method) for n in (network, graph.bind()))
    assert torch.equal(found.lower, fresh.lower) and torch.equal(found.upper, fresh.upper)
    assert torch.equal(network(x), model(x))
    assert (found.lower <= model(x)).all() and (model(x) <= found.upper).all()
