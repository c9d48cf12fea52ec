"""The certified-bound metric: sound margins, one row against all, schedules of ε, unsupported networks."""

import copy

import pytest
import torch
from metric_networks import CLASSES, batch, measure, predicted, session, supernet
from torch import nn

import bounds
from certnas.errors import UserError
from certnas.nas.metrics import build_metric
from certnas.nas.metrics.evaluation import classifier


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
    """A copy, which an unrolled step makes, does not read the graph again, and the weights are the copy's."""
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


def test_a_network_that_cannot_be_bounded_is_named() -> None:
    class Sorts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).sort(dim=1).values[:, :CLASSES]

    x, y = batch()
    with pytest.raises(UserError, match="this network has no bounds"):
        measure("cb", {}, Sorts(), x, y)


# One evaluation a step
