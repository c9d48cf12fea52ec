"""Methods on a small network against the same passes on plain matrices: intervals, rows, zonotopes, one step of α."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.chunking import budget
from bounds.interval import Interval
from bounds.methods import alpha_crown as alpha
from bounds.passes.early_stop import EarlyStop
from bounds.passes.zonotope import AffineForm, ZonotopePass, _split
from bounds.relaxation import Slope
from bounds.state import BoundState

SIZES = (3, 7, 6, 5, 2)
REGIONS = {
    "linf": ("linf", 0.35, (None, None)),
    "l2 in a box": ("l2", 0.5, (0.0, 1.0)),
    "l1": ("l1", 0.9, (None, None)),
    "narrow": ("linf", 0.02, (None, None)),
}


@dataclass(frozen=True)
class Subject:
    network: bounds.Network
    weights: list[Tensor]
    biases: list[Tensor]
    x: Tensor


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for a, b in pairwise(SIZES):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double().requires_grad_(False)
    for layer in model[::2]:
        layer.weight.mul_(1.6)
    x = torch.rand(3, SIZES[0], dtype=torch.float64) * 0.6 + 0.2
    linear = model[::2]
    network = bounds.trace(model, x).bind()
    return Subject(network, [m.weight for m in linear], [m.bias for m in linear], x)


def region_of(s: Subject, name: str) -> bounds.Region:
    norm, eps, box = REGIONS[name]
    return bounds.NORMS[norm](s.x, eps, *box)


def rows_of(s: Subject) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, 4, SIZES[-1], generator=generator, dtype=torch.float64)


def adaptive(low: Tensor, high: Tensor) -> Tensor:
    return (high >= -low).double()


Slopes = dict[tuple[int, int], Tensor]
"""For the rows of layer k (−1: of the output) at the ReLU after layer i: numbers in [0, 1]."""


class WrittenOut:
    """CROWN by dense matrices; `low`, `high`: what is held of each layer's output before its ReLU."""

    def __init__(self, s: Subject, region: bounds.Region, slope: Slope, intersect: bool = True) -> None:
        self.s, self.region, self.slope, self.intersect = s, region, slope, intersect
        self.low: list[Tensor] = []
        self.high: list[Tensor] = []

    def planes(self, i: int, chosen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Lower slope, upper slope, upper intercept of the ReLU after layer i, [N, 1 or S, units]."""
        low, high = self.low[i].unsqueeze(1), self.high[i].unsqueeze(1)
        unstable = (low < 0) & (high > 0)
        across = torch.where(unstable, high / torch.where(unstable, high - low, 1), (high > 0).double())
        free = {
            Slope.ADAPTIVE: adaptive(low, high), Slope.ZERO: torch.zeros_like(low),
            Slope.ONE: torch.ones_like(low), Slope.PARALLEL: across,
        }[self.slope]  # fmt: skip
        free = free if chosen is None else chosen
        return torch.where(unstable, free, across), across, torch.where(unstable, -across * low, 0)

    def back(self, coef: Tensor, last: int, target: int = -1, slopes: Slopes | None = None) -> Tensor:
        """Lower bounds of rows of layer `last`'s output, before its ReLU.  [N, S, units] -> [N, S]"""
        const: Tensor = torch.zeros(1, dtype=torch.float64)
        for i in range(last, -1, -1):
            const = const + coef @ self.s.biases[i]
            coef = coef @ self.s.weights[i]
            if i:
                chosen = None if slopes is None else slopes[target, i - 1]
                below, above, lift = self.planes(i - 1, chosen)
                const = const + (coef.clamp(max=0) * lift).sum(-1)
                coef = coef.clamp(min=0) * below + coef.clamp(max=0) * above
        return const + self.region.minimum(coef)

    def arithmetic(self, k: int) -> tuple[Tensor, Tensor]:
        """The bounds of layer k's output follow from those that are held of the layer before."""
        a, b = self.low[k - 1].clamp(min=0), self.high[k - 1].clamp(min=0)
        w = self.s.weights[k]
        middle, spread = (a + b) / 2 @ w.T + self.s.biases[k], (b - a) / 2 @ w.abs().T
        return middle - spread, middle + spread

    def refined(self, k: int, slopes: Slopes | None = None) -> tuple[Tensor, Tensor]:
        """Rows of every unit, [N, units] each."""
        eye = torch.eye(SIZES[k + 1], dtype=torch.float64).expand(3, -1, -1)
        return self.back(eye, k, k, slopes), -self.back(-eye, k, k, slopes)

    def run(self, refine: bool = True, slopes: Slopes | None = None) -> WrittenOut:
        """Fills in the layers; of units that rows settle the interval before, cut at zero, stays."""
        eye = torch.eye(SIZES[1], dtype=torch.float64).expand(3, -1, -1)
        self.low, self.high = [self.back(eye, 0)], [-self.back(-eye, 0)]
        for k in range(1, len(SIZES) - 2):
            low, high = self.arithmetic(k)
            if refine:
                open_ = (low < 0) & (high > 0)
                new_low, new_high = self.refined(k, slopes)
                if self.intersect:
                    new_low, new_high = torch.maximum(low, new_low), torch.minimum(high, new_high)
                if slopes is None:
                    above, below = open_ & (new_low >= 0), open_ & (new_high <= 0)
                    new_low, new_high = (
                        torch.where(above, low.clamp(min=0), torch.where(below, low, new_low)),
                        torch.where(below, high.clamp(max=0), torch.where(above, high, new_high)),
                    )
                low, high = torch.where(open_, new_low, low), torch.where(open_, new_high, high)
            self.low.append(low)
            self.high.append(high)
        return self

    def boxed(self, coef: Tensor) -> Tensor:
        """Rows of the output from the intervals of the last ReLU."""
        pulled, const = coef @ self.s.weights[-1], coef @ self.s.biases[-1]
        low, high = (side[-1].clamp(min=0).unsqueeze(1) for side in (self.low, self.high))
        return const + (pulled.clamp(min=0) * low + pulled.clamp(max=0) * high).sum(-1)


def state_of(
    s: Subject, region: bounds.Region, slope: Slope = Slope.ADAPTIVE, room: int | None = None
) -> BoundState:
    return BoundState(s.network, region, budget(room, torch.float64, s.network.device), slope)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("room", [None, 4_000])
@pytest.mark.parametrize("intersect", [True, False])
@pytest.mark.parametrize("slope", list(Slope))
@pytest.mark.parametrize("name", REGIONS)
def test_crown(
    subject: Subject,
    name: str,
    slope: Slope,
    intersect: bool,
    room: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every interval that is held and every row, in one block and in many."""
    if slope is Slope.ONE:  # so loose that intervals on the way settle units which rows leave open
        monkeypatch.setattr(EarlyStop, "is_due", lambda *_: False)
    region, rows = region_of(subject, name), rows_of(subject)
    reference = WrittenOut(subject, region, slope, intersect).run()
    state = state_of(subject, region, slope, room)
    found = bounds.Crown(slope, intersect).lower(state, rows)
    same(found, torch.fmax(reference.boxed(rows), reference.back(rows, 3)))
    for k, target in enumerate(state.facts.readers):
        held = state.intervals[target]
        same(held.lower, reference.low[k])
        same(held.upper, reference.high[k])
    if name != "narrow":
        assert any(
            bool(((low < 0) & (high > 0)).any())
            for low, high in zip(reference.low[1:], reference.high[1:], strict=True)
        )


@pytest.mark.parametrize("slope", [Slope.ADAPTIVE, Slope.PARALLEL])
@pytest.mark.parametrize("name", REGIONS)
def test_intervals_and_one_backward_pass(subject: Subject, name: str, slope: Slope) -> None:
    region, rows = region_of(subject, name), rows_of(subject)
    reference = WrittenOut(subject, region, slope).run(refine=False)
    boxed = reference.boxed(rows)
    same(bounds.IBP().lower(state_of(subject, region), rows), boxed)
    both = bounds.CrownIBP(slope).lower(state_of(subject, region, slope), rows)
    same(both, torch.fmax(boxed, reference.back(rows, 3)))
    low, high = bounds.output_bounds(subject.network, region, bounds.CrownIBP(slope))
    eye = torch.eye(2, dtype=torch.float64).expand(3, -1, -1)
    same(low, torch.fmax(reference.boxed(eye), reference.back(eye, 3)))
    same(high, -torch.fmax(reference.boxed(-eye), reference.back(-eye, 3)))


@pytest.mark.parametrize("errors", [None, 0, 2])
@pytest.mark.parametrize("name", REGIONS)
def test_zonotopes(subject: Subject, name: str, errors: int | None) -> None:
    """Generators written out: x = A·input + Σ E·ε + c ± box; each layer met with interval arithmetic."""
    region, rows = region_of(subject, name), rows_of(subject)
    reference = WrittenOut(subject, region, Slope.PARALLEL)
    linear = torch.eye(3, dtype=torch.float64).expand(3, -1, -1)  # [N, units, inputs]
    center = torch.zeros(3, 3, dtype=torch.float64)
    symbols = torch.zeros(3, 3, 0, dtype=torch.float64)  # [N, units, errors]
    rest = torch.zeros(3, 3, dtype=torch.float64)
    for k, (w, b) in enumerate(zip(subject.weights, subject.biases, strict=True)):
        linear, center, symbols, rest = w @ linear, center @ w.T + b, w @ symbols, rest @ w.abs().T
        if k == len(SIZES) - 2:
            break
        spread = symbols.abs().sum(2) + rest
        low, high = center - spread + region.minimum(linear), center + spread - region.minimum(-linear)
        if k:
            boxed = reference.arithmetic(k)
            low, high = torch.maximum(low, boxed[0]), torch.minimum(high, boxed[1])
        reference.low.append(low)
        reference.high.append(high)
        slope, _, lift = (t.squeeze(1) for t in reference.planes(k, None))
        error = lift / 2
        linear, symbols = slope.unsqueeze(2) * linear, slope.unsqueeze(2) * symbols
        center, rest = slope * center + error, slope * rest
        units = error.shape[1]
        kept = units if errors is None else errors
        top = torch.zeros_like(error).scatter(1, error.topk(kept, 1).indices, 1.0)
        symbols = torch.cat([symbols, torch.diag_embed(error * top)], 2)
        rest = rest + error * (1 - top)
    formed = (rows @ center.unsqueeze(2)).squeeze(2) - (rows.abs() @ rest.unsqueeze(2)).squeeze(2)
    formed = formed - (rows @ symbols).abs().sum(2) + region.minimum(rows @ linear)
    formed = torch.fmax(formed, reference.boxed(rows))
    state = state_of(subject, region)
    same(bounds.Zonotope(errors).lower(state, rows), formed)
    for k, target in enumerate(state.facts.readers):
        same(state.intervals[target].lower, reference.low[k])
        same(state.intervals[target].upper, reference.high[k])
    reference.slope = Slope.ADAPTIVE
    both = bounds.ZonotopeCrown(errors).lower(state_of(subject, region), rows)
    same(both, torch.fmax(formed, reference.back(rows, 3)))
    form = ZonotopePass(state_of(subject, region), errors).run()
    found = form.interval(region)
    spread = symbols.abs().sum(2) + rest
    same(found.lower, center - spread + region.minimum(linear))
    same(found.upper, center + spread - region.minimum(-linear))


@pytest.mark.parametrize("room", [None, 4_000])
def test_crown_at_given_slopes(subject: Subject, room: int | None) -> None:
    """Slopes of each row of the output and of each unit that is asked for, in one block and in many."""
    region, rows = region_of(subject, "linf"), rows_of(subject)
    plain = WrittenOut(subject, region, Slope.ADAPTIVE).run(refine=False)
    generator = torch.Generator().manual_seed(9)
    readers = list(state_of(subject, region).facts.readers)
    relus = [subject.network.graph.nodes[name].name for name in subject.network.graph.nodes if "relu" in name]
    asked = [(low < 0) & (high > 0) for low, high in zip(plain.low, plain.high, strict=True)]
    slopes: Slopes = {}
    given: dict[str, dict[str, tuple[Tensor, ...]]] = {}
    for k in (1, 2, -1):
        most = rows.shape[1] if k == -1 else int(asked[k].sum(1).max())
        target = subject.network.graph.output if k == -1 else readers[k]
        for i in range(3 if k == -1 else k):
            chosen = torch.rand(3, most, SIZES[i + 1], generator=generator, dtype=torch.float64)
            given.setdefault(target, {})[relus[i]] = (chosen,)
            if k == -1:
                slopes[k, i] = chosen
                continue
            spread = torch.zeros(3, SIZES[k + 1], SIZES[i + 1], dtype=torch.float64)
            for n in range(3):
                places = asked[k][n].nonzero().flatten()
                spread[n, places] = chosen[n, : len(places)]
            slopes[k, i] = spread
    reference = WrittenOut(subject, region, Slope.ADAPTIVE).run(refine=False)
    for k in (1, 2):
        low, high = reference.arithmetic(k)
        new_low, new_high = reference.refined(k, slopes)
        reference.low[k] = torch.where(asked[k], torch.maximum(low, new_low), low)
        reference.high[k] = torch.where(asked[k], torch.minimum(high, new_high), high)
    state = state_of(subject, region, room=room)
    found = alpha._AlphaSet(given, {readers[k]: asked[k] for k in (1, 2)}).bound(state, rows)
    for k in (1, 2):
        same(state.intervals[readers[k]].lower, reference.low[k])
        same(state.intervals[readers[k]].upper, reference.high[k])
    same(found, reference.back(rows, 3, -1, slopes))


@pytest.mark.parametrize("iterations", [1, 2])
def test_steps_of_alpha(subject: Subject, iterations: int) -> None:
    """Shared slopes: Adam by hand, of rate 0.4 and 0.4·0.9, on the sum of the bounds of plain matrices."""
    region, rows = region_of(subject, "linf"), rows_of(subject)
    crown = WrittenOut(subject, region, Slope.ADAPTIVE).run()
    start = [adaptive(low, high).unsqueeze(1) for low, high in zip(crown.low, crown.high, strict=True)]
    slopes: Slopes = {
        (k, i): start[i].repeat(1, rows.shape[1] if k == -1 else 1, 1).requires_grad_()
        for k in (1, 2, -1)
        for i in range(3 if k == -1 else k)
    }
    asked = [(low < 0) & (high > 0) for low, high in zip(crown.low, crown.high, strict=True)]

    def evaluated() -> Tensor:
        again = WrittenOut(subject, region, Slope.ADAPTIVE)
        again.low, again.high = list(crown.low), list(crown.high)
        for k in (1, 2):
            new_low, new_high = again.refined(k, slopes)
            for side, new, better in (
                (again.low, new_low, torch.maximum),
                (again.high, new_high, torch.minimum),
            ):
                met = better(side[k], new)
                steered = new + (met - new).detach()
                side[k] = torch.where(asked[k], steered, side[k])
        return again.back(rows, 3, -1, slopes)

    best = torch.fmax(crown.boxed(rows), crown.back(rows, 3)).detach()
    first, second = ([torch.zeros_like(t) for t in slopes.values()] for _ in range(2))
    sums, iterates = [], []
    for step in range(iterations + 1):
        bound = evaluated()
        iterates.append({key: leaf.detach().clone() for key, leaf in slopes.items()})
        best = torch.fmax(best, bound.detach())
        sums.append(bound.detach().sum(1))
        gradients = torch.autograd.grad(-bound.sum(), list(slopes.values()), allow_unused=True)
        rate = 0.4 * 0.9**step
        with torch.no_grad():
            for leaf, g, m, v in zip(slopes.values(), gradients, first, second, strict=True):
                if g is None:
                    continue
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.999).add_(g * g, alpha=0.001)
                size = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                leaf.sub_(rate * m / (1 - 0.9 ** (step + 1)) / size).clamp_(0, 1)
    method = bounds.AlphaCrown(iterations=iterations, step=0.4, decay=0.9, shared=True)
    found = method.lower(state_of(subject, region), rows)
    same(found, best)
    assert bool((found > torch.fmax(crown.boxed(rows), crown.back(rows, 3)) + 1e-4).any())
    found_alphas = method.optimise(state_of(subject, region), rows)
    assert isinstance(found_alphas, bounds.CrownAtAlphas) and found_alphas.slope is Slope.ADAPTIVE
    of_image = torch.stack(sums).argmax(0)
    nodes = subject.network.graph
    relus, targets = (
        [name for name in nodes.nodes if "relu" in name],
        {1: "linear_1", 2: "linear_2", -1: nodes.output},
    )
    assert len(set(of_image.tolist())) > 1
    for (k, i), _ in slopes.items():
        (kept,) = found_alphas.alphas[targets[k]][relus[i]]
        same(kept, torch.stack([iterates[step][k, i][n] for n, step in enumerate(of_image.tolist())]))


def test_alpha_says_how_many_slopes_there_are(subject: Subject) -> None:
    region = region_of(subject, "linf")
    state = state_of(subject, region)
    bounds.Crown().lower(state, rows_of(subject))
    _, second, third = state.facts.readers
    assert alpha._alphas_per_row(state) == {second: 7, third: 13}
    each = alpha._alphas_per_row(state)
    owners = alpha._units_with_own_alphas(state, each)
    assert set(owners) == {second, third}
    for name, mask in owners.items():
        x = state.interval(name)
        assert torch.equal(mask, (x.lower < 0) & (x.upper > 0))
    numbers = sum(each[name] * int(mask.sum(1).max()) for name, mask in owners.items())
    assert alpha._groups(each, owners, 5) == [slice(0, 5)]
    choice = alpha._initial(state, 4, owners)
    output = subject.network.graph.output
    shapes = {t: [s[0].shape[1] for s in node_alphas.values()] for t, node_alphas in choice.alphas.items()}
    most = {name: int(mask.sum(1).max()) for name, mask in owners.items()}
    assert shapes == {second: [most[second]], third: [most[third]] * 2, output: [4] * 3}
    shared = alpha._initial(state, 4, {})
    assert [s[0].shape[1] for s in shared.alphas[third].values()] == [1, 1]
    assert len(choice.parameters()) == 6 and numbers > 0
    groups = alpha._parameters_by_step(state, choice.alphas, 0.5)
    assert [(g["lr"], len(g["params"])) for g in groups] == [(0.5, 6), (0.5 * 0.2, 0)]


def test_images_are_grouped_by_their_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpha, "ALPHAS_AT_ONCE", 100)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert alpha._groups({"a": 20}, {"a": mask}, 5) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert alpha._groups({"a": 200}, {"a": mask}, 2) == [slice(0, 1), slice(1, 2)]
    assert alpha._groups({}, {}, 3) == [slice(0, 3)]
    assert alpha._groups({"a": 20}, {"a": mask & False}, 300)[0] == slice(0, 100)


def test_curves_take_smaller_steps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    x = torch.rand(1, 2, dtype=torch.float64)
    network = bounds.trace(model, x).bind()
    state = BoundState(
        network, bounds.Linf(x, 0.5), budget(None, torch.float64, network.device), Slope.ADAPTIVE
    )
    choice = alpha._initial(state, 2, {})
    groups = alpha._parameters_by_step(state, choice.alphas, 0.5)
    assert [(g["lr"], len(g["params"])) for g in groups] == [(0.5, 1), (pytest.approx(0.1), 4)]


def test_a_met_interval_has_the_new_ones_derivative() -> None:
    old = Interval(torch.tensor([0.0, 0.0, -5.0]), torch.tensor([2.0, 2.0, 5.0]))
    low = torch.tensor([-1.0, 1.0, -torch.inf], requires_grad=True)
    high = torch.tensor([3.0, 1.5, torch.inf], requires_grad=True)
    met = alpha._intersect_keeping_gradient(old, Interval(low, high))
    assert met.lower.tolist() == [0.0, 1.0, -5.0] and met.upper.tolist() == [2.0, 1.5, 5.0]
    finite = torch.tensor([True, True, False])
    for side, leaf in ((met.lower, low), (met.upper, high)):
        (slope,) = torch.autograd.grad(side[finite].sum(), leaf)
        assert slope.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "settings",
    [dict(iterations=-1), dict(step=0.0), dict(decay=0.0), dict(decay=1.1), dict(step=-1.0)],
    ids=str,
)
def test_settings_of_alpha_that_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(bounds.InvalidInput, match="alpha-crown: needs iterations ≥ 0"):
        bounds.AlphaCrown(**settings)


def test_settings_at_their_ends() -> None:
    assert bounds.AlphaCrown(iterations=0, decay=1.0).iterations == 0
    assert bounds.AlphaCrown() == bounds.AlphaCrown(20, 0.5, 0.98, Slope.ADAPTIVE, False)
    for kind in (bounds.Zonotope, bounds.ZonotopeCrown):
        assert kind(0).errors == 0 and kind().errors is None
        with pytest.raises(bounds.InvalidInput, match="zonotope: errors must be None or at least 0, got -1"):
            kind(-1)


def test_the_largest_errors_become_symbols() -> None:
    error = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 5.0, 0.0, 0.0]])
    symbols, rest = _split(error, 2)
    assert symbols is not None and rest is not None
    assert symbols.tolist() == [[[3, 0, 0, 0], [0, 0, 0, 2]], [[0, 5, 0, 0], symbols[1, 1].tolist()]]
    assert not symbols[1, 1].any() and rest.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    symbols, rest = _split(error, None)
    assert symbols is not None and symbols.shape == (2, 3, 4) and rest is None
    same(symbols.sum(1), error)
    symbols, rest = _split(error, 0)
    assert symbols is None and rest is error
    assert _split(torch.zeros(2, 3), None) == (None, None) == _split(torch.zeros(2, 0), 3)
    symbols, rest = _split(error.reshape(2, 2, 2), 9)
    assert symbols is not None and symbols.shape == (2, 3, 2, 2) and rest is None


def test_the_range_of_a_form() -> None:
    x = torch.tensor([[0.5, 0.25], [0.1, 0.2]], dtype=torch.float64)
    linear = torch.tensor([[[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]]], dtype=torch.float64)  # [1, inputs, units]
    symbols = {
        "a": torch.tensor([[[1.0, -2.0, 0.0]]]).double(),
        "b": torch.tensor([[[0.0, 1.0, 0.5]]]).double(),
    }
    center, box = torch.tensor([[1.0, 2.0, 3.0]]).double(), torch.tensor([[0.25, 0.0, 0.0]]).double()
    found = AffineForm(linear, symbols, center, box).interval(bounds.Linf(x, 0.5))
    middle = center + torch.einsum("ni,iu->nu", x, linear[0])
    reach = torch.tensor([[0.5 + 1 + 0.25, 0.5 + 3, 1.5 + 0.5]], dtype=torch.float64)
    same(found.lower, middle - reach)
    same(found.upper, middle + reach)
    alone = AffineForm(None, {}, center, None).interval(bounds.Linf(x, 0.5))
    assert alone.lower.tolist() == alone.upper.tolist() == [[1.0, 2.0, 3.0]] * 2
