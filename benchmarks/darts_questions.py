"""The measurements of one published genotype at one size: bounds, radii, and auto_LiRPA's result for comparison."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import bounds
from benchmarks.cells import linear_width, looseness, warmed
from benchmarks.record import measured
from certnas.certifier.batch import certify_batch
from certnas.certifier.certification import certification
from certnas.certifier.prover import Prover
from certnas.crosscheck import OracleUnusable, auto_lirpa_bounds
from certnas.crosscheck.auto_lirpa import ConvMode
from certnas.faithful import Faithful
from certnas.nas.space import GENOTYPES, DiscreteNetwork

SHAPE, CLASSES, EPS, IMAGES, TOL = (3, 32, 32), 10, 1e-3, 2, 0.05
POINTS, STEPS = 64, 5
TOGETHER = 4
"""Number of points per evaluation: in double precision, twenty would fill 8 GiB at 36 channels and 20
cells.
"""
SIZES: dict[str, tuple[int, int]] = {"8,4": (8, 4), "16,8": (16, 8), "36,20": (36, 20)}
"""Size name -> channels and cells."""
METHODS: dict[str, bounds.Method] = {
    "ibp": bounds.IBP(),
    "crown-ibp": bounds.CrownIBP(),
    "zonotope, 64 kept": bounds.Zonotope(errors=64),
    "crown": bounds.Crown(),
}
SCALES_WITH = {name: name for name in METHODS} | {"zonotope, 64 kept": "ibp"}
"""Method -> the method of `bounds.estimates` whose cost grows in the same proportion from size to size.

A zonotope with few errors has little more generators than the image has elements.
"""
RUNS, ENOUGH = 5, 10.0
"""Largest number of runs of a bound, and the seconds after which no other run starts."""
LIRPA_SHAPE, LIRPA_SIZE = (3, 16, 16), (4, 3)
LIRPA_MODES: tuple[ConvMode, ...] = ("matrix", "patches")


@dataclass(frozen=True)
class Subject:
    """A warmed network in both precisions, images [IMAGES, *SHAPE] with predicted labels, and logits [M, K]
    of points in the ball around the first image.
    """

    model: nn.Module
    single: bounds.Network
    double: bounds.Network
    x: Tensor
    y: Tensor
    points: Tensor


def network(name: str, sizes: tuple[int, int], shape: tuple[int, int, int]) -> nn.Module:
    """The network, with weights of one seeded draw."""
    torch.manual_seed(0)
    return warmed(DiscreteNetwork(GENOTYPES[name], *sizes, CLASSES), shape, batch=32)


@lru_cache(maxsize=1)
def subject(name: str, size: str, device: str) -> Subject:
    """The subject of a genotype and size; the last one is cached for its other methods."""
    model = network(name, SIZES[size], SHAPE).to(device)
    x = torch.rand(IMAGES, *SHAPE).to(device)
    graph = bounds.trace(model, x[:1])
    single, double = (graph.bind(dtype=dtype, device=x.device) for dtype in (torch.float32, torch.float64))
    with torch.no_grad():
        y = double(x.double()).argmax(1)
    return Subject(model, single, double, x, y, reached(double, x[:1].double(), EPS))


def reached(network: bounds.Network, x: Tensor, eps: float) -> Tensor:
    """Logits [M, K] at points of the l∞ ball: uniform ones, corners, and gradient-sign ascents of ±logits."""
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand(2 * POINTS, *x.shape[1:], generator=generator, dtype=x.dtype).to(x) - 1
    noise[POINTS:] = noise[POINTS:].sign()
    found = [_outputs(network, x + eps * noise)]
    signs = torch.cat([torch.eye(CLASSES), -torch.eye(CLASSES)]).to(x)
    shift = torch.zeros(len(signs), *x.shape[1:]).to(x)
    for step in range(STEPS):
        slopes = []
        for moved, sign in zip(shift.split(TOGETHER), signs.split(TOGETHER), strict=True):
            point = (x + moved).requires_grad_(True)
            slopes += torch.autograd.grad((sign * network(point)).sum(), point)
        rate = eps if step == 0 else eps / 2
        shift = (shift + rate * torch.cat(slopes).sign()).clamp(-eps, eps)
        found.append(_outputs(network, x + shift))
    return torch.cat(found)


def _outputs(network: bounds.Network, points: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(some) for some in points.split(TOGETHER)])


def opened(name: str, size: str, device: str) -> dict[str, Any]:
    """Build the subject, and return the multiplications of one bound of all its logits by each method."""
    costs = bounds.estimates(subject(name, size, device).single, 2 * CLASSES)
    return {"multiplications": {method: costs[key].multiplications for method, key in SCALES_WITH.items()}}


def bounded(name: str, size: str, device: str, method: str) -> dict[str, Any]:
    """Bounds of all logits of one image in float32, tested at points evaluated in float64; medians of `runs`.

    ratio is width over local-linear width, inside is true if every point lies within the bounds, and filled
    is the largest share of a bound's width that the points span.
    """
    it = subject(name, size, device)
    x, points = it.x[:1], it.points
    times: list[dict[str, float]] = []
    while len(times) < RUNS and sum(cost["seconds"] for cost in times) < ENOUGH:
        with costing(device) as cost, torch.no_grad():
            lower, upper = bounds.output_bounds(it.single, bounds.Linf(x, EPS), METHODS[method])
        times.append(cost)
    usual = {name: median(cost[name] for cost in times) for name in ("seconds", "cpu_seconds")}
    lower, upper = lower.double(), upper.double()
    span = points.amax(0) - points.amin(0)
    return usual | {
        "gib": max(cost["gib"] for cost in times),  # later ones may find what the first has left
        "runs": len(times),
        "finite": bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()),
        "inside": bool(((points >= lower) & (points <= upper)).all()),
        "points": len(points),
        "ratio": looseness(lower, upper, linear_width(it.double, x.double(), EPS)),
        "filled": float((span / (upper - lower)).max()),
    }


def certified(name: str, size: str, device: str, method: str) -> dict[str, Any]:
    """The mean l∞ radius of IMAGES images with their predicted labels, proved in float64, no attack above;
    and the total cost.
    """
    it = subject(name, size, device)
    own = METHODS[method]
    request = certification(it.model, it.x, it.y, method=own, attack=False, tol=TOL).request
    nothing = it.x[:0]
    faithful = Faithful(it.model, it.single.graph)
    prove = Prover(
        it.single, it.double, own, bounds.NORMS["linf"], request.clip, None, nothing, nothing, faithful
    )
    with costing(device) as cost:
        found = certify_batch(request, prove, it.x, it.y, range(IMAGES), lambda *_: None)
    return cost | {
        "radius": float(found.radius_lower.mean()),
        "status": found.status,
        "evaluations": float(found.evaluations.mean()),
    }


@contextmanager
def costing(device: str) -> Iterator[dict[str, float]]:
    """Context manager: seconds of the block, and the increase of GPU or process memory in GiB."""
    on_gpu, found = torch.device(device).type == "cuda", dict[str, float]()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with measured() as held:
        pass
    with measured() as cost:
        yield found
        if on_gpu:
            torch.cuda.synchronize(device)
    grown = cost.peak_gib - held.peak_gib
    if on_gpu:
        grown = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    found |= {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "gib": grown}


def lirpa(name: str) -> dict[str, Any]:
    """auto_LiRPA's CROWN result for a small network of the genotype, by its mode of convolutions."""
    model, x = network(name, LIRPA_SIZE, LIRPA_SHAPE), torch.rand(1, *LIRPA_SHAPE)
    said = {}
    for mode in LIRPA_MODES:
        ask = partial(auto_lirpa_bounds, model, x, EPS, "linf", method="CROWN", conv_mode=mode)
        try:
            found = ask(allow_unsound=True)
            said[mode] = f"bounds of mean width {float((found.upper - found.lower).mean()):.3g}"
            ask()
        except OracleUnusable as error:
            said[mode] = f"{said[mode]}, but {error.why}" if mode in said else error.why
    return said
