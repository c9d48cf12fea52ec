"""The reading `radius` of `cb`: roots, their derivatives, and images without a finite radius."""

import pytest
import torch
from metric_networks import CLASSES, batch, measure, predicted, session, supernet
from torch import nn

import bounds
from bounds.interval import Interval
from certnas.nas.metrics import Session, build_metric
from certnas.nas.metrics.certified import Margins
from certnas.nas.metrics.hardest import without_spikes


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
    """One of three images is lost, or all of them."""
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
