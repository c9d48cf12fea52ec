"""Forecasts of the root: exact where they must be, of use where they may err, and never what is proved."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import bounds
import certnas
from certnas.certifier.forecast import Forecast
from certnas.certifier.prover import Prover, prover
from certnas.certifier.radius import Radii, search_radii
from certnas.data import load
from certnas.models import open_model

TOL = 1e-3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(54, 20), nn.ReLU(), nn.Linear(20, 5),
    ).eval()  # fmt: skip


def part(norm: str, method: bounds.Method, count: int = 8, model: nn.Module | None = None) -> Prover:
    model = network() if model is None else model
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    return prover(model, x, method, bounds.NORMS[norm], None, None).about(x, y, None, 5)


def searched(of: Prover, *, forecast: bool) -> Radii:
    """The forecast starts from what interval arithmetic inside proves, as the certifier's does."""
    centre, start = of.linearised()
    end = of.end(None)
    cheap = replace(of, method=bounds.CrownIBP(of.method.slope))
    start = search_radii(
        partial(cheap.lower_margin, dtype=torch.float32), centre, start, end, tol=0.05
    ).radius
    if not forecast:
        return search_radii(partial(of.lower_margin, dtype=torch.float32), centre, start, end, tol=TOL)
    told = Forecast(of, centre, end, TOL)
    return search_radii(told.lower_margin, centre, start, end, tol=TOL, foretell=told.root)


@pytest.mark.parametrize("slope", [bounds.Slope.ADAPTIVE, bounds.Slope.PARALLEL])
@pytest.mark.parametrize("norm", bounds.NORMS)
def test_the_radii_are_those_of_the_search_without(norm: str, slope: bounds.Slope) -> None:
    of = part(norm, bounds.Crown(slope))
    plain, foretold = searched(of, forecast=False), searched(of, forecast=True)
    margins = of.lower_margin(foretold.radius, torch.arange(8), torch.float32)
    assert bool((margins > 0).all())
    ratio = foretold.radius / plain.radius
    assert float(ratio.min()) > 1 - 1.5 * TOL and float(ratio.max()) < 1 + 1.5 * TOL
    assert int(foretold.evaluations.max()) <= 6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_trained_network_takes_fewer_evaluations(norm: str) -> None:
    digits, model = load("digits", count=12, seed=0), open_model("digits-cnn").module
    with torch.no_grad():
        right = (model(digits.x).argmax(1) == digits.y).nonzero().flatten()
    x, y = digits.x[right], digits.y[right]
    of = prover(model, x, bounds.Crown(), bounds.NORMS[norm], (0.0, 1.0), None).about(x, y, None, 10)
    plain, foretold = (searched(of, forecast=f).evaluations.double().mean() for f in (False, True))
    assert float(foretold) < 0.8 * float(plain)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_forecast_agrees_with_what_was_evaluated(norm: str) -> None:
    """The forecast margin is the evaluated one at the two radii that it stands on, and nearly so between them."""
    of = part(norm, bounds.Crown())
    centre, _ = of.linearised()
    told, image = Forecast(of, centre, of.end(None), TOL), torch.tensor([1, 4, 6])
    root = searched(of, forecast=False).radius[image]
    low, high = 0.9 * root, 1.1 * root
    margins = [told.lower_margin(eps, image) for eps in (low, high)]
    for eps, margin in zip((low, high), margins, strict=True):
        torch.testing.assert_close(told._margin(eps, image), margin, rtol=1e-4, atol=1e-4)
    middle = (low + high) / 2
    there = of.lower_margin(middle, image, torch.float32)
    assert bool(((told._margin(middle, image) - there).abs() < 0.05 * (margins[0] - margins[1]).abs()).all())


def test_an_affine_network_is_foretold_exactly() -> None:
    torch.manual_seed(0)
    of = part("l2", bounds.Crown(), model=nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval())
    centre, exact = of.linearised()
    told, image = Forecast(of, centre, of.end(None), TOL), torch.arange(8)
    told.lower_margin(0.7 * exact, image)
    told.lower_margin(0.9 * exact, image)
    assert bool(((told.root(image) / exact - 1).abs() < TOL).all())


def test_an_images_radius_does_not_depend_on_its_company() -> None:
    model = network()
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    together = certnas.certify(model, x, y, attack=False)
    alone = [certnas.certify(model, x[n : n + 1], y[n : n + 1], attack=False) for n in range(5)]
    assert together.radius_lower.tolist() == pytest.approx(
        [float(a.radius_lower[0]) for a in alone], rel=1e-5
    )
    assert together.evaluations.tolist() == [int(a.evaluations[0]) for a in alone]


CENTRE = torch.linspace(0.5, 5, 20, dtype=torch.float64)
FREE = torch.full_like(CENTRE, torch.inf)


def cubic(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] - eps**3


ROOT = CENTRE ** (1 / 3)


def test_a_true_forecast_takes_two_evaluations() -> None:
    radii = search_radii(cubic, CENTRE, 0.3 * ROOT, FREE, foretell=lambda image: ROOT[image])
    assert int(radii.evaluations.max()) == 2
    assert bool(((radii.radius / ROOT - 1) < 0).all() and ((radii.radius / ROOT) > 1 - TOL).all())


@pytest.mark.parametrize("factor", [math.nan, math.inf, 10.0, 1.2, 0.9, 0.1, 0.0])
def test_a_false_forecast_costs_evaluations_and_proves_nothing(factor: float) -> None:
    """Whatever is foretold, each radius was evaluated and positive; what lies above the root costs no tightness."""
    seen: list[Tensor] = []

    def margin(eps: Tensor, image: Tensor) -> Tensor:
        seen.append(torch.stack([eps, image.double(), cubic(eps, image)], 1))
        return cubic(eps, image)

    radii = search_radii(margin, CENTRE, 0.3 * ROOT, FREE, foretell=lambda image: factor * ROOT[image])
    proved = {(float(e), int(i)) for e, i, m in torch.cat(seen).tolist() if m > 0}
    assert all((r, i) in proved for i, r in enumerate(radii.radius.tolist()))
    if not factor <= 0.9:
        assert bool((radii.radius > ROOT * (1 - 1.01 * TOL)).all())


def test_what_is_known_is_not_asked_again() -> None:
    every = torch.arange(len(CENTRE))
    known = [(f * ROOT, every, cubic(f * ROOT, every)) for f in (0.9995, 1.0003)]
    radii = search_radii(cubic, CENTRE, ROOT, FREE, known=known)
    assert torch.equal(radii.radius, 0.9995 * ROOT) and torch.equal(radii.upper, 1.0003 * ROOT)
    assert bool((radii.evaluations == len(known)).all())
