"""The reading `gain` of `cb`: bounds of sections, and the growth of a cell's width."""

import math

import pytest
import torch
from metric_networks import CLASSES, batch, measure, supernet
from torch import nn

import bounds
from certnas.errors import UserError
from certnas.nas.metrics.gain import cell_ends
from certnas.nas.metrics.sections import Arrival, sections
from certnas.nas.metrics.traced import Traced


def test_windows_hold_sampled_points() -> None:
    """Every cell, evaluated alone from points of its inputs' zonotopes, stays in the zonotope that leaves it."""
    network = supernet(layers=3)
    x, _ = batch(2)
    traced = Traced("running", keep_none=True)
    bound = traced.bind(network, x, torch.float64)
    entrances, exits = cell_ends(bound.graph)
    assert len(exits) == 3 and len(entrances) == 1
    given: dict[str, torch.Tensor] = {}

    def generators(name: str, value: torch.Tensor) -> torch.Tensor:
        random = torch.Generator().manual_seed(len(given))
        shape = (len(value), 3, *value.shape[1:])
        given[name] = 0.02 * torch.randn(shape, generator=random).to(value)
        return given[name]

    with torch.no_grad():
        arrivals = sections(bound, x, entrances | set(exits), generators, errors=1)
        stem = next(iter(entrances))
        assert float(arrivals[stem].radius.abs().max()) == 0
        names, mixtures = [stem, stem, *exits], (network._mixture("normal"), network._mixture("reduce"))
        for index, cell in enumerate(network.cells):
            for seed in range(30):
                t = torch.rand(3, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
                t = t.sign() if seed % 2 else t
                inputs = [
                    arrivals[name].value + torch.einsum("k,nk...->n...", t, given[name])
                    for name in names[index : index + 2]
                ]
                leaving = arrivals[exits[index]]
                off = (cell(*inputs, mixtures[int(cell.reduction)]) - leaving.center).abs()
                assert bool((off <= leaving.radius + 1e-9).all())


def test_gain_of_a_linear_cell_by_hand() -> None:
    """A cell that multiplies by a matrix: the radius is the sum over generators of |A·g|, nothing is lost."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 5)
            self.cells = nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for cell in self.cells:
                x = cell(x)
            return x

    torch.manual_seed(0)
    network = Net().double()
    x = torch.rand(2, 4).double()
    bound = bounds.trace(network, x).bind()
    entrances, exits = cell_ends(bound.graph)
    given: dict[str, torch.Tensor] = {}

    def generators(name: str, value: torch.Tensor) -> torch.Tensor:
        given[name] = torch.randn(2, 4, *value.shape[1:]).double()
        return given[name]

    arrivals: dict[str, Arrival] = sections(bound, x, entrances | set(exits), generators)
    names = [*entrances, *exits]
    for before, after, cell in zip(names, names[1:], network.cells, strict=False):
        expected = torch.einsum("oi,nki->nko", cell.weight, given[before]).abs().sum(1)
        assert torch.allclose(arrivals[after].radius, expected)
        assert torch.allclose(arrivals[after].value, cell(arrivals[before].value))


def test_cells_that_double_the_relative_width_read_minus_log_two_each() -> None:
    """v − v/2 of a constant v keeps the width and halves the value: R = −Σ_c log 2, the figure is the mean factor."""

    class Shift(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.tensor(by))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - self.by

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(64, CLASSES)
            nn.init.zeros_(self.stem.weight)
            nn.init.ones_(self.stem.bias)
            self.cells = nn.ModuleList([Shift(0.5), Shift(0.25), Shift(0.125)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x.flatten(1))
            for cell in self.cells:
                x = cell(x)
            return x

    network, x = Net().double(), torch.rand(3, 1, 8, 8).double()
    found = measure(
        "cb", {"reading": "gain", "dtype": "float64"}, network, x, torch.zeros(3, dtype=torch.long)
    )
    assert float(found.detach()) == pytest.approx(-3 * math.log(2), rel=1e-6)


def test_small_outputs_gain_nothing() -> None:
    """Mass moved to `none`, which shrinks every output, leaves the gain almost where it was; R without it, exactly."""
    network = supernet()
    x, y = batch()
    column = list(network.candidates["normal"][0]).index("none")
    settings = [{"reading": "gain", "dtype": "float64", "keep_none": keep} for keep in (True, False)]
    before = [float(measure("cb", s, network, x, y).detach()) for s in settings]
    with torch.no_grad():
        for alpha in (network.alpha_normal, network.alpha_reduce):
            alpha[:, column] += 3
    after = [float(measure("cb", s, network, x, y).detach()) for s in settings]
    assert abs(after[0] - before[0]) < 0.3  # nats; the edges' own outputs shrink by 1 nat and more each
    assert after[1] == pytest.approx(before[1], rel=1e-9)


def test_a_network_without_cells_has_no_gain() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).double()
    x, y = batch()
    with pytest.raises(UserError, match="has no cells"):
        measure("cb", {"reading": "gain"}, network, x, y)
