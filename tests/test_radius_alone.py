"""The batched search of radii against the same search of one image in plain numbers, ε by ε."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from certnas.certifier.radius import Bracket, search_radii

N = 10
CENTRE = torch.linspace(0.3, 4, N, dtype=torch.float64)
SLOPE = torch.linspace(40, 2, N, dtype=torch.float64)
ROOT = CENTRE / SLOPE
EVERY = torch.arange(N)
FREE = torch.full((N,), torch.inf, dtype=torch.float64)
Margin = Callable[[Tensor, Tensor], Tensor]


class Alone:
    """The search of one image: what it evaluates, one number after the other."""

    def __init__(self, centre: float, start: float, upper: float, tol: float) -> None:
        self.centre, self.tol, self.end = np.float64(centre), tol, min(np.float64(upper), np.float64(1e30))
        self.lo, self.hi = np.float64(0), np.float64(upper)
        self.g_lo, self.g_hi, self.root = np.float64(-np.inf), np.float64(np.nan), np.float64(np.nan)
        self.begin = np.float64(start if math.isfinite(start) and start > 0 else 1.0)
        self.floor = min(self.begin, self.hi) / 1e12
        self.open = bool(centre > 0 and math.isfinite(centre) and upper > 0)
        self.failed = self.finite = False
        self.last = self.stalled = self.evaluations = 0
        self.width = np.float64(np.inf)
        self.asked: list[float] = []

    def next(self) -> float:
        aim = self.root * (1 - 0.35 * self.tol)
        told = math.isfinite(aim)
        if self.lo > 0 and self.failed:
            log_lo, log_hi = np.log(self.lo), np.log(self.hi)
            log = log_lo - self.g_lo / (self.g_hi - self.g_lo) * (log_hi - log_lo) - 0.4 * self.tol
            if math.isfinite(self.root):
                log = np.log(self.root) - 0.35 * self.tol
            if self.stalled >= 3 or not math.isfinite(log):
                log = (log_lo + log_hi) / 2
            eps = between(np.exp(log), self.lo * (1 + 0.9 * self.tol), self.hi * (1 - 0.9 * self.tol))
        elif self.lo > 0:
            eps = aim if told else self.lo / np.exp(self.g_lo)
            eps = between(eps, self.lo * (1 + self.tol), self.lo * 16)
        elif self.failed:
            eps = between(self.hi / np.exp(self.g_hi), self.hi / 256, self.hi / 1.25)
            eps = eps if math.isfinite(self.g_hi) else self.hi / 16
            eps = between(aim, self.hi / 256, self.hi * (1 - 0.9 * self.tol)) if told else eps
        else:
            eps = self.begin
        return float(np.float32(eps)) if eps < self.end else float(self.end)

    def tell(self, eps: float, margin: float) -> None:
        self.evaluations += 1
        number = math.isfinite(margin)
        self.finite |= number
        g = np.log(max((self.centre - margin) / self.centre, 1e-3)) if number else np.float64(np.nan)
        if number and margin > 0:
            self.g_hi *= damping(g, self.g_lo) if self.last == 1 else 1
            self.lo, self.g_lo, self.last = np.float64(eps), g, 1
        else:
            self.g_lo *= damping(g, self.g_hi) if self.last == -1 else 1
            self.hi, self.g_hi, self.last, self.failed = np.float64(eps), g, -1, True
        width = np.log(self.hi / self.lo) if self.lo > 0 else np.float64(np.inf)
        self.stalled = 0 if width < self.width / 2 else (self.stalled + 1) % 4
        self.width = width
        if self.failed:
            self.open &= bool(width > self.tol) and not (self.lo == 0 and self.hi < self.floor)
        else:
            self.open &= bool(self.lo < self.end)

    def run(
        self, margin: Callable[[float], float], foretold: float | None, known: list[tuple[float, float]]
    ) -> None:
        for eps, value in known:
            self.tell(eps, value)
        while self.open and self.evaluations < 60:
            self.asked.append(self.next())
            self.tell(self.asked[-1], margin(self.asked[-1]))
            if foretold is not None and self.open:
                self.root = np.float64(foretold)
                self.open = not (self.last == 1 and foretold <= self.lo * (1 + self.tol))


def between(eps: float, least: float, most: float) -> float:
    """eps moved to least … most; NaN is the most."""
    return most if math.isnan(eps) else min(max(eps, least), most)


def damping(new: float, old: float) -> float:
    factor = 1 - new / old
    return factor if math.isfinite(factor) and factor > 0.1 else 0.5


def affine(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] - SLOPE[image] * eps


def rooted(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] - SLOPE[image] * eps.sqrt()


def steep(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] - SLOPE[image] * torch.expm1(60 * eps)


def cliff(value: float) -> Margin:
    return lambda eps, image: torch.where(eps < ROOT[image] / 7, CENTRE[image], value)


def kinked(eps: Tensor, image: Tensor) -> Tensor:
    return affine(eps, image) - 1e5 * (eps - 0.3 * ROOT[image]).clamp(min=0)


def waved(eps: Tensor, image: Tensor) -> Tensor:
    """Below zero and above it by turns, NaN at some ε."""
    margin = affine(eps, image) + 0.4 * CENTRE[image] * torch.sin(40 * eps.log())
    return torch.where(torch.cos(17 * eps.log()) > 0.9, torch.nan, margin)


def flat(eps: Tensor, image: Tensor) -> Tensor:
    return CENTRE[image] + 0 * eps


ENDS = ROOT * torch.linspace(0.1, 2.0, N, dtype=torch.float64)
CASES: dict[str, tuple[Margin, Tensor, Tensor, float, Tensor | None, list[Tensor]]] = {
    # margin, start, end, tolerance, what is foretold, what is known
    "affine": (affine, 0.3 * ROOT, FREE, 1e-3, None, []),
    "affine from far above": (affine, 1e4 * ROOT, FREE, 1e-3, None, []),
    "affine from far below": (affine, 1e-5 * ROOT, FREE, 1e-2, None, []),
    "affine to an end": (affine, 0.3 * ROOT, ENDS, 1e-3, None, []),
    "no start": (affine, torch.linspace(-1, 1, N).log().double(), FREE, 0.1, None, []),
    "square root": (rooted, ROOT, FREE, 1e-4, None, []),
    "steep": (steep, ROOT, FREE, 1e-3, None, []),
    "kinked": (kinked, ROOT, FREE, 1e-3, None, []),
    "cliff": (cliff(-1e30), ROOT, FREE, 1e-3, None, []),
    "cliff to NaN": (cliff(math.nan), 0.01 * ROOT, FREE, 1e-2, None, []),
    "waves": (waved, 0.3 * ROOT, FREE, 1e-3, None, []),
    "never": (lambda eps, image: flat(eps, image) * math.nan, ROOT, FREE, 1e-3, None, []),
    "never and finite": (lambda eps, image: -flat(eps, image), ROOT, 2 * ROOT, 1e-3, None, []),
    "infinite": (lambda eps, image: flat(eps, image) + math.inf, ROOT, FREE, 1e-3, None, []),
    "always": (flat, ROOT, FREE, 1e-3, None, []),
    "always to an end": (flat, ROOT, 100 * ROOT, 1e-3, None, []),
    "foretold": (affine, 0.3 * ROOT, FREE, 1e-3, ROOT, []),
    "foretold too high": (affine, 0.3 * ROOT, FREE, 1e-2, 1.2 * ROOT, []),
    "foretold too low": (affine, 0.3 * ROOT, FREE, 1e-2, 0.9 * ROOT, []),
    "foretold from above": (steep, ROOT, FREE, 1e-2, torch.log1p(ROOT) / 60, []),
    "foretold far off": (affine, 2 * ROOT, FREE, 1e-2, 1e-4 * ROOT, []),
    "foretold where a proof is": (affine, 0.8 * ROOT, FREE, 1e-2, 0.805 * ROOT, []),
    "known": (steep, ROOT, FREE, 1e-3, None, [0.2 * ROOT, 0.9 * ROOT]),
    "known from above": (affine, ROOT, FREE, 1e-3, None, [40 * ROOT, 30 * ROOT]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_that_of_the_image_alone(name: str) -> None:
    margin, start, upper, tol, foretold, known = CASES[name]
    asked: list[list[float]] = [[] for _ in range(N)]

    def lower_margin(eps: Tensor, image: Tensor) -> Tensor:
        for e, i in zip(eps.tolist(), image.tolist(), strict=True):
            asked[i].append(e)
        return margin(eps, image)

    told = [(eps, EVERY, margin(eps, EVERY)) for eps in known]
    foretell = None if foretold is None else (lambda image: foretold[image])
    seen: list[Bracket] = []
    found = search_radii(
        lower_margin, CENTRE, start, upper, tol=tol, known=told, foretell=foretell, progress=seen.append
    )
    with np.errstate(all="ignore"):
        for i in range(N):
            one = Alone(float(CENTRE[i]), float(start[i]), float(upper[i]), tol)
            one.run(
                lambda eps, i=i: float(margin(torch.tensor([eps]).double(), torch.tensor([i]))),
                None if foretold is None else float(foretold[i]),
                [(float(eps[i]), float(value[i])) for eps, _, value in told],
            )
            assert asked[i] == pytest.approx(one.asked, rel=1e-6)
            got = (found.radius[i], found.upper[i], found.evaluations[i], found.finite[i])
            expected = (one.lo, one.hi, one.evaluations, one.finite)
            assert [float(value) for value in got] == pytest.approx([float(v) for v in expected], rel=1e-6)
            assert bool(found.unlimited[i]) == (
                one.lo > 0 and not one.failed and (one.open or one.lo >= 1e30)
            )
    assert len(seen) == max(map(len, asked))
    for before, after in pairwise(seen):
        assert bool((after.open <= before.open).all()), "what is closed stays so"
    if seen:
        assert torch.equal(seen[-1].lower, found.radius) and torch.equal(seen[-1].upper, found.upper)


def test_what_cannot_be_searched_is_not() -> None:
    centre = torch.tensor([1.0, 0.0, -1.0, math.nan, math.inf, 1.0, 1.0], dtype=torch.float64)
    upper = torch.tensor([9.0, 9, 9, 9, 9, 0, 0.25], dtype=torch.float64)
    found = search_radii(lambda eps, image: 1 - eps, centre, torch.ones_like(centre), upper)
    assert found.radius[1:].tolist() == [0, 0, 0, 0, 0, 0.25]
    assert found.evaluations[1:].tolist() == [0, 0, 0, 0, 0, 1] and not bool(found.unlimited.any())


@pytest.mark.parametrize(("share", "evaluations"), [(1.0, 1), (1 + 1e-9, 2)])
def test_a_root_foretold_at_the_tolerance_ends_the_search(share: float, evaluations: int) -> None:
    asked: list[Tensor] = []

    def margin(eps: Tensor, image: Tensor) -> Tensor:
        asked.append(eps)
        return affine(eps, image)

    def foretell(image: Tensor) -> Tensor:
        return asked[-1] * (1 + 1e-3) * (share if len(asked) == 1 else 1)

    found = search_radii(margin, CENTRE[:1], 0.5 * ROOT[:1], FREE[:1], foretell=foretell)
    assert found.evaluations.tolist() == [evaluations]
