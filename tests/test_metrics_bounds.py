"""The certified-bound metric: sound, the root where it says, one row or all, ε that follows, cells one by one."""

import copy
import math

import pytest
import torch
from metric_networks import CLASSES, batch, measure, predicted, session, supernet
from torch import nn

import bounds
from bounds.interval import Interval
from certnas.errors import UserError
from certnas.nas.metrics import Session, build_metric
from certnas.nas.metrics.certified import Margins
from certnas.nas.metrics.evaluation import classifier
from certnas.nas.metrics.gain import cell_ends
from certnas.nas.metrics.hardest import without_spikes
from certnas.nas.metrics.sections import Arrival, sections
from certnas.nas.metrics.traced import Traced


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "zonotope"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_margins_are_sound(method: str, norm: str) -> None:
    """Below every margin at sampled points of the ball, and at points a gradient leads to."""
    network = supernet(layers=1)
    x, y = batch(2)
    eps = 0.01
    settings = {"reading": "margin", "eps": eps, "norm": norm, "method": method, "bn": "running"}
    if method == "zonotope":
        settings["errors"] = 2
    value = float(measure("cb", settings, network, x, y).detach())
    random = torch.Generator().manual_seed(0)
    rows = bounds.margins(y, CLASSES, dtype=x.dtype)
    worst = torch.full((len(x),), torch.inf).double()
    with classifier(network, "running") as f:
        for _ in range(200):
            move = torch.randn(x.shape, generator=random).double()
            if norm == "linf":
                move = eps * move.sign()
            else:
                move = eps * move / move.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            with torch.no_grad():
                margin = torch.einsum("nsk,nk->ns", rows, f((x + move).clamp(0, 1))).amin(1)
            worst = torch.minimum(worst, margin)
    assert value <= float(worst.mean())


@pytest.mark.parametrize("bn", ["batch", "running"])
def test_a_bound_on_a_point_is_the_margin(bn: str) -> None:
    network = supernet()
    x, y = batch()
    value = measure("cb", {"reading": "margin", "eps": 0.0, "bn": bn}, network, x, y)
    rows = bounds.margins(y, CLASSES, dtype=x.dtype)
    with classifier(network, bn) as f:
        margins = torch.einsum("nsk,nk->ns", rows, f(x)).amin(1)
    assert float(value.detach()) == pytest.approx(float(margins.mean().detach()), rel=1e-9)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float64"},
        {"evaluations": 0, "dtype": "float64"},
        {"reading": "margin", "eps": 1e-4},
        {"reading": "margin", "schedule": "radius"},
    ],
    ids=["radius", "exact radius", "margin", "at the radius"],
)
def test_one_row_is_as_good_as_all(method: str, settings: dict[str, object]) -> None:
    network = supernet()
    x, _ = batch()
    y = predicted(network, x, training=True)
    found = []
    for rows in ("hardest", "all"):
        value = measure("cb", {**settings, "method": method, "rows": rows}, network, x, y)
        found.append((value, torch.autograd.grad(value, network.architecture_parameters())))
    (fused, slopes), (every, others) = found
    assert float(fused.detach()) == pytest.approx(float(every.detach()), rel=1e-12)
    for slope, other in zip(slopes, others, strict=True):
        assert torch.allclose(slope, other, rtol=1e-9, atol=1e-12 * float(other.abs().max()))


def test_the_radius_is_where_the_margin_vanishes() -> None:
    network = supernet()
    x, _ = batch(1)
    y = predicted(network, x, training=False)
    running = session("cb", {"bn": "running", "evaluations": 0, "tol": 1e-7, "dtype": "float64"})
    running(network, x, y)
    radius = running.figures["radius"]
    at = {
        scale: measure("cb", {"reading": "margin", "eps": scale * radius, "bn": "running"}, network, x, y)
        for scale in (0.999, 1.001)
    }
    assert float(at[0.999].detach()) > 0 > float(at[1.001].detach())


def test_images_classified_wrong_are_left_out() -> None:
    network = supernet()
    x, _ = batch(4)
    y = predicted(network, x, training=False)
    settings = {"bn": "running", "evaluations": 0, "tol": 1e-6, "floor": 0.0}
    right = measure("cb", settings, network, x[:3], y[:3])
    wrong = y.clone()
    wrong[3] = (y[3] + 1) % CLASSES
    running = session("cb", settings)
    some = running(network, x, wrong)
    assert running.figures["images"] == 3
    assert float(some.detach()) == pytest.approx(float(right.detach()), rel=1e-9)
    running = session("cb", settings)
    none = running(network, x, (y + 1) % CLASSES)
    assert float(none) == 0 and not none.requires_grad
    assert running.state_dict() == {"log_gain": None}


def test_a_network_proved_everywhere_has_a_finite_radius() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).double()
    with torch.no_grad():
        network[1].weight.mul_(1e-9)
        network[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    x, _ = batch()
    value = measure("cb", {}, network, x, torch.zeros(len(x), dtype=torch.long))
    assert float(value.detach()) == 0  # log of 1, the whole box
    (gradient,) = torch.autograd.grad(value, network[1].weight)
    assert bool((gradient == 0).all())


def test_the_radius_of_a_linear_network() -> None:
    """ε* = m(0) / ‖row‖₁ where no pixel meets its limit."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES, bias=False)).double()
    with torch.no_grad():
        network[1].weight -= network[1].weight.mean(1, keepdim=True)
    x = 0.5 + 0.05 * (batch()[0] - 0.5)
    y = predicted(network, x, training=False)
    rows = bounds.margins(y, CLASSES, dtype=x.dtype)
    forms = torch.einsum("nsk,kd->nsd", rows, network[1].weight)
    margins = torch.einsum("nsk,nk->ns", rows, network(x))
    for norm, q in (("linf", 1), ("l2", 2)):
        expected = (margins / torch.linalg.vector_norm(forms, ord=q, dim=2)).amin(1).detach()
        assert float(expected.max()) < 0.4  # the nearest limit of a pixel
        value = measure("cb", {"dtype": "float64", "norm": norm}, network, x, y)
        assert float(value.detach()) == pytest.approx(float(expected.log().mean()), abs=1e-6)


def test_later_searches_start_where_the_last_ended() -> None:
    network = supernet()
    x, _ = batch(8)
    y = predicted(network, x, training=True)
    running = session("cb", {})
    running(network, x, y)
    first = running.figures["evaluations"]
    running(network, x, y)
    assert running.figures["evaluations"] < first


def test_adaptive_radius() -> None:
    """Shrinks while the bounds are wider than `width`, then turns; within its limits; the state is all it needs."""
    network = supernet()
    x, y = batch()
    settings = {
        "reading": "margin",
        "schedule": "adaptive",
        "eps": 1e-3,
        "step": 0.5,
        "eps_min": 1e-7,
        "width": 1.0,
        "bn": "batch",
    }
    running = session("cb", settings)
    sizes, widths = [], []
    for _ in range(20):
        running(network, x, y)
        sizes.append(running.figures["eps"])
        widths.append(running.figures["width"])
    for size, following, width in zip(sizes, sizes[1:], widths, strict=False):
        factor = 1.5 if width <= 1.0 else 0.5
        assert following == pytest.approx(max(size * factor, 1e-7))
    assert widths[0] > 1 and min(widths) <= 1


def test_another_network_of_the_same_structure_may_take_its_place() -> None:
    """As an unrolled step does: the graph is read once, the weights are the copy's."""
    network = supernet()
    x, _ = batch()
    y = predicted(network, x, training=True)
    settings = {"reading": "margin", "eps": 1e-5}
    running = build_metric("cb", settings).session()
    running(network, x, y)
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.1)
    graph = running.traced.graph(moved, x)
    assert graph is running.traced.graph(network, x)
    moved_value = float(running(moved, x, y).detach())
    assert moved_value == float(measure("cb", settings, moved, x, y).detach())
    assert moved_value != float(measure("cb", settings, network, x, y).detach())
    other = supernet(partial=2)
    assert float(running(other, x, y).detach()) == float(build_metric("cb", settings)(other, x, y).detach())


# Cell by cell


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


def test_a_network_that_cannot_be_bounded_is_named() -> None:
    class Sorts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).sort(dim=1).values[:, :CLASSES]

    x, y = batch()
    with pytest.raises(UserError, match="this network has no bounds"):
        measure("cb", {}, Sorts(), x, y)


# One evaluation a step


def gradient(running: Session, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    value = running(network, x, y)
    found = torch.autograd.grad(value, network.architecture_parameters())
    return torch.cat([part.flatten() for part in found]).double()


@pytest.mark.parametrize(("bn", "steady"), [("batch", 1e-4), ("running", 3e-3)])
def test_one_evaluation_is_as_good_as_the_root(bn: str, steady: float) -> None:
    """In single precision, on images it has not seen: log ε* within 0.03, the derivative that of the root.

    The derivative without a limit has spikes, so that those of two batches have less in common; the means agree.
    """
    network = supernet(layers=3).float()
    sessions = {
        "quick": session("cb", {"bn": bn}),
        "steady": session("cb", {"evaluations": 5, "dtype": "float64", "bn": bn}),
        "exact": session("cb", {"evaluations": 0, "tol": 1e-6, "dtype": "float64", "bn": bn}),
    }
    found: dict[str, list[torch.Tensor]] = {name: [] for name in sessions}
    for seed in range(3, 9):
        x = batch(16, seed)[0].float()
        y = predicted(network, x, training=bn == "batch")
        for name, running in sessions.items():
            found[name].append(gradient(running, network, x, y))
        values = {name: running.figures["log_radius"] for name, running in sessions.items()}
        assert values["quick"] == pytest.approx(values["exact"], abs=0.03)
        assert values["steady"] == pytest.approx(values["exact"], abs=steady)
    assert sessions["quick"].figures["evaluations"] == 1
    means = {name: torch.stack(parts).mean(0) for name, parts in found.items()}
    assert alike(means["quick"], means["steady"]) > 0.97
    assert alike(means["steady"], means["exact"]) > 0.8
    assert alike(*found["quick"][:2]) > alike(*found["exact"][:2])


def alike(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, 0))


def test_more_evaluations_come_closer() -> None:
    network = supernet()
    x, _ = batch(8)
    y = predicted(network, x, training=True)
    exact = session("cb", {"evaluations": 0, "tol": 1e-9, "dtype": "float64", "bn": "batch"})
    exact(network, x, y)
    off = []
    for evaluations in (1, 2, 3):
        running = session("cb", {"evaluations": evaluations, "dtype": "float64", "bn": "batch"})
        running.load_state_dict({"log_gain": exact.state_dict()["log_gain"] + 2.0})
        running(network, x, y)
        assert running.figures["evaluations"] == evaluations
        off.append(abs(running.figures["log_radius"] - exact.figures["log_radius"]))
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-4


def test_a_unit_on_its_kink_makes_no_spike() -> None:
    """A centre of exactly zero amid an interval of 10⁻²⁰: the derivative of log ε* would be of the order 10²⁰."""
    center = torch.tensor([[0.0, 1.0, -1.0]], requires_grad=True)
    steady = without_spikes(Interval.around(center, torch.full((1, 3), 1e-20)))
    upper = torch.relu(steady.center + steady.radius)
    radius = torch.where(steady.center >= steady.radius, steady.radius, upper / 2)
    radius.sum().log().backward()
    assert center.grad is not None
    assert 0 < float(center.grad[0, 0]) <= 3.0  # 1.5·10²⁰·10⁻²⁰ / mean|c|


def test_a_network_too_deep_for_single_precision_is_left_out_not_lost() -> None:
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(60):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    torch.manual_seed(0)
    network = nn.Sequential(*layers, nn.Linear(64, CLASSES)).double()
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.Linear):
                module.weight.mul_(4)
                module.bias.zero_()
    x, _ = batch()
    y = predicted(network, x, training=False)
    running = build_metric("cb", {"bn": "running"}).session()
    value = running(network, x, y)
    assert bool(torch.isfinite(value))
    deep = build_metric("cb", {"bn": "running", "dtype": "float64"}).session()
    found = torch.autograd.grad(deep(network, x, y), network[1].weight)[0]
    assert bool(torch.isfinite(found).all()) and deep.figures["log_radius"] < -80


@pytest.mark.parametrize("lost", [1, 3])
def test_an_image_without_a_finite_bound_is_left_out(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three images one is lost, or all."""
    least = Margins.least

    def short(self: Margins, eps: torch.Tensor, image: torch.Tensor, *, steady: bool = False) -> torch.Tensor:
        return torch.where(image < lost, -torch.inf, least(self, eps, image, steady=steady))

    network = supernet()
    x, _ = batch(3)
    y = predicted(network, x, training=False)
    running = session("cb", {"bn": "running"})
    monkeypatch.setattr(Margins, "least", short)
    value = running(network, x, y)
    assert running.figures["images"] == 3 - lost
    assert bool(torch.isfinite(value)) and (value != 0) == (lost < 3)
    if lost < 3:
        slopes = torch.autograd.grad(value, network.architecture_parameters())
        assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
