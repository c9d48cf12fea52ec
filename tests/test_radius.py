"""The radius search on margins whose root is known, on ones that misbehave, and what it promises of each."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from certnas.certifier.radius import Bracket, Radii, search_radii

N = 40
GENERATOR = torch.Generator().manual_seed(3)
CENTRE = torch.rand(N, generator=GENERATOR, dtype=torch.float64) * 5 + 0.01
SLOPE = torch.rand(N, generator=GENERATOR, dtype=torch.float64) * 50 + 1
FREE = torch.full((N,), torch.inf, dtype=torch.float64)
LINEAR = CENTRE / SLOPE

Margin = Callable[[Tensor, Tensor], Tensor]


class Witness:
    """A margin function that remembers what was proved at which ε."""

    def __init__(self, margin: Margin) -> None:
        self.margin = margin
        self.proved: set[tuple[int, float]] = set()
        self.calls = 0

    def __call__(self, eps: Tensor, image: Tensor) -> Tensor:
        self.calls += 1
        margin = self.margin(eps, image)
        for e, i, m in zip(eps.tolist(), image.tolist(), margin.tolist(), strict=True):
            if math.isfinite(m) and m > 0:
                self.proved.add((i, e))
        return margin


def found(
    margin: Margin, *, start: Tensor = LINEAR, upper: Tensor = FREE, tol: float = 1e-3
) -> tuple[Radii, Witness]:
    """The search's result, each radius seen to have been proved by an evaluation at exactly that ε."""
    witness = Witness(margin)
    radii = search_radii(witness, CENTRE, start, upper, tol=tol)
    for image, radius in enumerate(radii.radius.tolist()):
        assert radius == 0 or (image, radius) in witness.proved
        assert radius <= float(upper[image])
    return radii, witness


def affine(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] - SLOPE[image] * eps


def quadratic(eps: Tensor, image: Tensor) -> Tensor:
    return affine(eps, image) - 200 * SLOPE[image] * eps**2


def exponential(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] - SLOPE[image] * torch.expm1(60 * eps)


def kinked(eps: Tensor, image: Tensor) -> Tensor:
    return affine(eps, image) - 1e5 * (eps - 0.3 * LINEAR[image]).clamp(min=0)


def rooted(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] - SLOPE[image] * eps.sqrt()


def cliff(value: float) -> Margin:
    return lambda eps, image: torch.where(eps < LINEAR[image] / 7, CENTRE[image], value)


ROOTS = {
    "affine": (affine, LINEAR, 4),
    "quadratic": (quadratic, ((SLOPE**2 + 800 * SLOPE * CENTRE).sqrt() - SLOPE) / (400 * SLOPE), 9),
    "exponential": (exponential, torch.log1p(LINEAR) / 60, 14),
    "kinked": (kinked, (CENTRE + 3e4 * LINEAR) / (SLOPE + 1e5), 20),
    "square root": (rooted, LINEAR**2, 14),
    "cliff to -inf": (cliff(-math.inf), LINEAR / 7, 20),
    "cliff to NaN": (cliff(math.nan), LINEAR / 7, 20),
    "cliff to -1e30": (cliff(-1e30), LINEAR / 7, 40),
}


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("name", ROOTS)
def test_the_root_is_found_from_below(name: str, tol: float) -> None:
    margin, root, _ = ROOTS[name]
    radii, _ = found(margin, tol=tol)
    assert bool((radii.radius < root * (1 + 1e-6)).all())
    assert bool((radii.radius >= root * (1 - 1.01 * tol)).all())


@pytest.mark.parametrize("name", ROOTS)
def test_evaluations_are_few(name: str) -> None:
    margin, _, most = ROOTS[name]
    radii, witness = found(margin)
    assert int(radii.evaluations.max()) <= most
    assert witness.calls == int(radii.evaluations.max()), "images are evaluated together"


@pytest.mark.parametrize("factor", [1e-6, 1e-2, 1.0, 1e2, 1e6, math.inf, math.nan, 0.0])
def test_any_guess_will_do(factor: float) -> None:
    radii, _ = found(quadratic, start=LINEAR * factor)
    root = ROOTS["quadratic"][1]
    assert bool(((radii.radius / root - 1).abs() < 1.01e-3).all())


def test_the_end_is_evaluated_and_never_passed() -> None:
    end = LINEAR * torch.linspace(0.1, 2.0, N, dtype=torch.float64)
    radii, _ = found(affine, upper=end)
    inside = end < LINEAR
    assert bool((radii.radius[inside] == end[inside]).all()), "an end that holds is the radius, exactly"
    assert bool(((radii.radius / LINEAR)[~inside] > 1 - 1.01e-3).all())


def test_a_margin_that_is_never_finite_gives_zero_and_says_so() -> None:
    radii, _ = found(lambda eps, image: torch.full_like(eps, torch.nan))
    assert bool((radii.radius == 0).all()) and not bool(radii.finite.any())
    radii, _ = found(lambda eps, image: torch.full_like(eps, torch.inf))
    assert bool((radii.radius == 0).all()), "an infinite lower bound proves nothing"


def test_a_margin_of_zero_proves_nothing() -> None:
    radii, _ = found(lambda eps, image: torch.zeros_like(eps))
    assert bool((radii.radius == 0).all()) and bool(radii.finite.all())


def test_a_margin_that_never_falls_reaches_the_end_or_stops() -> None:
    radii, _ = found(lambda eps, image: CENTRE[image], upper=torch.full_like(FREE, 0.3))
    assert bool((radii.radius == 0.3).all())
    radii, _ = found(lambda eps, image: CENTRE[image])
    assert bool((radii.radius > 1e3).all())


@pytest.mark.parametrize("seed", range(5))
def test_a_wild_margin_is_proved_where_it_is_reported(seed: int) -> None:
    """Noise around the root: `found` checks that every radius is an ε whose own margin was positive."""
    generator = torch.Generator().manual_seed(seed)

    def wild(eps: Tensor, image: Tensor) -> Tensor:
        noise = torch.randn(len(eps), generator=generator, dtype=torch.float64)
        return torch.where(noise > 1.5, torch.nan, affine(eps, image) + noise * CENTRE[image])

    radii, _ = found(wild)
    assert bool((radii.radius > 0).any())


def test_images_not_right_at_the_centre_are_not_evaluated() -> None:
    centre = torch.tensor([1.0, 0.0, -1.0, math.nan])
    one = torch.ones(4, dtype=torch.float64)
    witness = Witness(lambda eps, image: 1 - eps)
    radii = search_radii(witness, centre, one, one * 9)
    assert radii.evaluations[1:].tolist() == [0, 0, 0] and radii.radius[1:].tolist() == [0, 0, 0]
    assert radii.finite.tolist() == [True, True, True, False], "a tie is not for want of a bound"
    assert radii.radius[0] > 0.999 * 0.999
    assert len(search_radii(witness, centre[:0], one[:0], one[:0]).radius) == 0


def test_progress_is_told_the_brackets() -> None:
    told: list[Bracket] = []
    radii = search_radii(affine, CENTRE, LINEAR, FREE, progress=told.append)
    assert len(told) == int(radii.evaluations.max())
    assert not bool(told[-1].open.any()) and torch.equal(told[-1].lower, radii.radius)
    assert all(bool((bracket.lower <= bracket.upper).all()) for bracket in told)
