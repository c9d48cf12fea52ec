"""Rows kept as windows: the same bounds, and the same derivatives, as rows written out from the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, Phase, given, seed, settings
from random_networks import Recipe, build, recipes
from test_random_networks import Place, places
from torch import Tensor, nn

import bounds
from bounds import patch
from bounds.chunking import budget
from bounds.cost_model import row_cost
from bounds.operators import RULES, Nonlinear
from bounds.passes import patches
from bounds.passes.patches import receptive_field_of
from bounds.patch import ELEMENTWISE
from bounds.state import BoundState

METHODS = (bounds.Crown(), bounds.Crown(bounds.Slope.PARALLEL), bounds.AlphaCrown(iterations=1, step=0.3))
NEVER, ALWAYS = 0.0, 1e9
"""`patch.LARGEST_SHARE`: no window is small enough, every window is."""


def with_windows(monkeypatch: pytest.MonkeyPatch, largest: float, work: Callable[[], Tensor]) -> Tensor:
    with monkeypatch.context() as context:
        context.setattr(patch, "LARGEST_SHARE", largest)
        return work()


@pytest.mark.parametrize("chunk", range(4))
def test_random_networks_have_the_same_bounds_by_windows_and_written_out(chunk: int) -> None:
    @seed(chunk)
    @settings(
        max_examples=examples(25, 60),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=recipes(), place=places)
    def check(recipe: Recipe, place: Place) -> None:
        model = build(recipe).double().eval()
        region = place.region(recipe.shape)
        rows = torch.eye(recipe.classes, dtype=torch.float64).expand(2, -1, -1)
        network = bounds.trace(model, region.x[:1]).bind()
        for method in METHODS:
            found = []
            for largest in (NEVER, ALWAYS):
                with pytest.MonkeyPatch.context() as context:
                    context.setattr(patch, "LARGEST_SHARE", largest)
                    with torch.no_grad():
                        found.append(bounds.lower_bounds(network, region, rows, method))
            written, windows = found
            finite = torch.isfinite(written)
            assert torch.equal(finite, torch.isfinite(windows))
            assert torch.allclose(written[finite], windows[finite], rtol=1e-7, atol=1e-7), (
                recipe,
                place,
                method,
            )

    check()


def dense_cell() -> nn.Module:
    """Branches of different reach that meet in sums and concatenations, as in a DARTS cell, with a shifted slice."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(2, 4, 3, padding=1)
            self.separable = nn.Sequential(
                nn.ReLU(), nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            )
            self.dilated = nn.Sequential(
                nn.ReLU(), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(4)
            )
            self.average = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
            self.maximum = nn.MaxPool2d(3, 1, 1)
            self.even = nn.Conv2d(12, 3, 1, stride=2)
            self.odd = nn.Conv2d(12, 3, 1, stride=2)
            self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.ReLU())
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            s = self.stem(x)
            a = self.separable(s) + self.dilated(s)
            b = self.average(s) - 0.5 * self.maximum(torch.relu(a))
            y = torch.relu(torch.cat([a, b, s], 1))
            shifted = nn.functional.pad(y[:, :, 1:, 1:], (0, 1, 0, 1))
            z = torch.cat([self.even(y), self.odd(shifted)], 1)
            return self.head(self.last(z).mean((2, 3)))

    torch.manual_seed(3)
    return Cell().double().eval()


@pytest.mark.parametrize("norm", bounds.NORMS)
@pytest.mark.parametrize("size", [9, 12])
def test_a_cell_has_the_same_bounds_and_derivatives(
    monkeypatch: pytest.MonkeyPatch, norm: str, size: int
) -> None:
    model = dense_cell()
    x = torch.rand(2, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    graph = bounds.trace(model, x[:1])
    rows = bounds.margins(torch.tensor([0, 2]), 3, dtype=torch.float64)

    def derivatives() -> Tensor:
        eps = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
        found = bounds.lower_bounds(graph.bind(), bounds.NORMS[norm](x, eps, 0.0, 1.0), rows, bounds.Crown())
        gradients = torch.autograd.grad(found.square().sum(), [eps, *model.parameters()])
        return torch.cat([found.flatten(), *(g.flatten() for g in gradients)])

    written, windows = (with_windows(monkeypatch, largest, derivatives) for largest in (NEVER, ALWAYS))
    assert torch.allclose(written, windows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("start", "end"), [(0, 6), (1, 4), (-3, 5), (2, 6)])
def test_slices_of_channels_keep_windows(monkeypatch: pytest.MonkeyPatch, start: int, end: int) -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Conv2d(1, 6, 3), nn.Conv2d(len(range(6)[start:end]), 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.stem(x).relu()[:, start:end])

    torch.manual_seed(0)
    model, x = Sliced().double(), torch.rand(2, 1, 9, 9, dtype=torch.float64)
    network = bounds.trace(model, x).bind()
    seen, honest = [], patches.minimum
    monkeypatch.setattr(patches, "minimum", lambda region, p: seen.append(p.shape) or honest(region, p))

    def lower() -> Tensor:
        plenty = budget(None, network.dtype, network.device)
        state = BoundState(network, bounds.Linf(x, 0.1), plenty, bounds.Slope.ADAPTIVE)
        return state.unit_bounds(network.graph.output, torch.arange(50).expand(2, -1))[0]

    written, windows = (with_windows(monkeypatch, largest, lower) for largest in (NEVER, ALWAYS))
    assert seen and torch.allclose(written, windows, rtol=0, atol=1e-12)


CURVES = {
    "relu": torch.relu,
    "mish": nn.functional.mish,
    "sign": torch.sign,
    "rsqrt": lambda h: torch.rsqrt(1.5 + torch.sigmoid(h)),
}
"""What each does to tensors of both signs; those that are defined for some alone are given such."""


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("slope", [bounds.Slope.ADAPTIVE, bounds.Slope.PARALLEL])
def test_curves_keep_windows(monkeypatch: pytest.MonkeyPatch, curve: str, slope: bounds.Slope) -> None:
    class Curved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(CURVES[curve](self.stem(x)))

    torch.manual_seed(0)
    model, x = Curved().double(), torch.rand(2, 1, 9, 9, dtype=torch.float64)
    network = bounds.trace(model, x).bind()
    operators = {node.op for node in network.graph.nodes.values()}
    written, windows, seen, _ = last_windows(model, x, monkeypatch, slope)
    assert f"aten.{curve}.default" in operators
    # every row of the output reaches the image as a window, and none is written out on the way
    assert seen and set(seen) == {(1, 9, 9)}
    assert torch.isfinite(written).all() and torch.allclose(written, windows, rtol=1e-12, atol=1e-12)


PADS = {
    "zeros": lambda x: nn.functional.pad(x, (0, 1, 0, 1)),
    "a constant": lambda x: nn.functional.pad(x, (2, 0, 1, 1), value=-0.7),
    "one axis": lambda x: nn.functional.pad(x, (1, 2)),
    "cropped": lambda x: nn.functional.pad(x, (-2, 1, 1, -1)),
    "after a shift": lambda x: nn.functional.pad(x[:, :, 1:, 1:], (0, 1, 0, 1)),
}


def last_windows(
    model: nn.Module,
    x: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    slope: bounds.Slope = bounds.Slope.ADAPTIVE,
) -> tuple[Tensor, Tensor, list[tuple[int, ...]], list[str]]:
    """Rows of the output written out and as windows, the images that windows reached, and the padding operators."""
    network = bounds.trace(model, x).bind()
    seen, honest = [], patches.minimum
    monkeypatch.setattr(patches, "minimum", lambda region, p: seen.append(p.shape) or honest(region, p))
    units = prod(network.graph.output_shape)

    def lower() -> Tensor:
        plenty = budget(None, network.dtype, network.device)
        state = BoundState(network, bounds.Linf(x, 0.1), plenty, slope)
        return torch.cat(state.unit_bounds(network.graph.output, torch.arange(units).expand(len(x), -1)))

    written, windows = (with_windows(monkeypatch, largest, lower) for largest in (NEVER, ALWAYS))
    return written, windows, seen, [node.op for node in network.graph.nodes.values() if "pad" in node.op]


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("size", [7, 9])
def test_padding_keeps_windows(monkeypatch: pytest.MonkeyPatch, pad: str, size: int) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(PADS[pad](self.stem(x).relu()))

    torch.manual_seed(0)
    x = torch.rand(2, 1, size, size, dtype=torch.float64)
    written, windows, seen, pads = last_windows(Padded().double(), x, monkeypatch)
    assert pads and seen and torch.allclose(written, windows, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_by_copies_is_written_out(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.functional.pad(self.stem(x).relu(), (1, 1, 1, 1), mode=mode))

    torch.manual_seed(0)
    x = torch.rand(2, 1, 7, 7, dtype=torch.float64)
    written, windows, seen, _ = last_windows(Padded().double(), x, monkeypatch)
    assert not seen and torch.allclose(written, windows, rtol=0, atol=1e-12)


def test_an_operator_without_a_patch_rule_is_written_out() -> None:
    """Those whose rule says that they work element by element do so: by trial."""
    probe = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    tried = 0
    for target, rule in RULES.items():
        if isinstance(rule, Nonlinear) and rule.patches is ELEMENTWISE:
            options = {"weight": torch.tensor([0.3]).double()} if "prelu" in str(target) else {}
            options |= {"min": -0.1, "max": 0.1} if target is torch.ops.aten.clamp.default else {}
            options |= {"min": -0.1} if "clamp_min" in str(target) else {}
            options |= {"max": 0.1} if "clamp_max" in str(target) else {}
            (gradient,) = torch.autograd.grad(target(probe, **options)[0, 1, 1, 2], probe, allow_unused=True)
            elsewhere = gradient.clone()
            elsewhere[0, 1, 1, 2] = 0
            assert not elsewhere.any(), target
            tried += 1
    assert tried >= 28
    model, x = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)), torch.rand(1, 1, 5, 5)
    network = bounds.trace(model, x).bind()
    (node,) = (node for node in network.graph.nodes.values() if node.op == "aten.relu.default")
    assert receptive_field_of(network.call(node)) is not None
    assert RULES[torch.ops.aten.softmax.int].patches is None
    assert receptive_field_of(network.call(replace(node, target=torch.ops.aten.softmax.int))) is None


def test_the_windows_of_a_cell_reach_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator of the cell lets windows through: none is written out before the input."""
    model, seen = dense_cell(), []
    x = torch.rand(1, 2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = bounds.trace(model, x).bind()
    rows = torch.eye(3, dtype=torch.float64).expand(1, -1, -1)
    honest = patches.minimum
    monkeypatch.setattr(patches, "minimum", lambda region, p: seen.append(p.shape) or honest(region, p))
    monkeypatch.setattr(patch, "LARGEST_SHARE", ALWAYS)
    bounds.lower_bounds(network, bounds.Linf(x, 0.1), rows, bounds.Crown(intersect=False))
    facts = bounds.graph.facts.facts_of(network.graph)
    refined = [name for name in facts.readers if name not in facts.prefix]
    exact = facts.prefix - facts.plain  # affine in the input, and not read off a box
    assert refined and exact and len(seen) == len(refined) + len(exact)
    assert set(seen) == {(2, 12, 12)}


def test_a_window_costs_less_than_the_image() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    network = bounds.trace(model, torch.rand(1, 1, 16, 16)).bind()
    target = [name for name in network.graph.nodes if "conv2d" in name][1]
    assert row_cost(network, target, unit=False) == 2 * 8 * 16 * 16
    assert row_cost(network, target, unit=True) == 8 * 9 + 8 * 9


@pytest.mark.parametrize("first", [(1, 7), (7, 1), (1, 3), (5, 3)])
def test_windows_of_unlike_height_and_width(first: tuple[int, int]) -> None:
    """Padding and kernel differ by axis, as in the space's 1×7 then 7×1: windows change no bound."""
    torch.manual_seed(6)
    second = first[::-1]
    model = nn.Sequential(
        nn.Conv2d(1, 2, first, stride=(1, 2), padding=(first[0] // 2, first[1] // 2)), nn.ReLU(),
        nn.Conv2d(2, 2, second, padding=(second[0] // 2, second[1] // 2)), nn.ReLU(),
        nn.AvgPool2d((1, 3), 1, (0, 1)), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3),
    ).double().eval()  # fmt: skip
    x = torch.rand(2, 1, 9, 11, dtype=torch.float64)
    with torch.no_grad():
        model(x)
    network = bounds.trace(model, x).bind()
    rows = torch.eye(3, dtype=torch.float64).expand(2, -1, -1)
    for method in METHODS[:2]:
        found = []
        for largest in (NEVER, ALWAYS):
            with pytest.MonkeyPatch.context() as context, torch.no_grad():
                context.setattr(patch, "LARGEST_SHARE", largest)
                found.append(bounds.lower_bounds(network, bounds.Linf(x, 0.05), rows, method))
        torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
