"""Certifies one batch of images: attacks, radius search, float64 proof, and the soundness check."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.attacks import AdversarialExamples, smallest_adversarial
from certnas.certifier.certificates import Certificates, targets
from certnas.certifier.forecast import Forecast
from certnas.certifier.prover import Prover
from certnas.certifier.radius import Bracket, LowerMargin, Radii, search_radii
from certnas.certifier.request import Box, Target, check_logits, describe
from certnas.certifier.soundness import Evidence, SoundnessError

BATCH = 16
"""The default number of images that are certified together."""
PROOF_MARGIN = 1e-9
"""A radius is certified only if the float64 lower bound of every margin exceeds this × (1 + max |logit|).
The float64 rounding of a bound adds up to several orders of magnitude less.
"""
SHRINKS = 12
"""How often the float64 proof is tried, each time at a smaller radius."""
ROUGH = 0.05
"""The relative tolerance of the search with a cheaper method, which only finds a starting radius."""
BEYOND = 32.0
"""The search starts at no less than the root of the linearised margin divided by this factor. Few radii lie below."""
REACH = 2.0
"""Radii up to this many tolerances above the result of the search may still hold, and are worth a try."""
UNLIMITED = "nothing limits some radii, so their search gave up; set eps-max or a box to limit them"
WIDE = 0.05
"""A tighter method is run on an image whose certified radius is less than (1 − WIDE) of its attacked radius."""


@dataclass(frozen=True)
class CertificationRequest:
    """The arguments of `certify`, checked and resolved."""

    model: nn.Module
    """The classifier in evaluation mode."""
    norm: str
    """The name of the norm, a key of `bounds.NORMS`."""
    method: bounds.Method
    """The bound method that is run on every image."""
    eps_max: float | None
    """The largest radius to certify, in input units; None if there is no limit."""
    tol: float
    """The relative tolerance of the radius search."""
    target: Target | None
    """Chooses one target class for each image; None certifies against all other classes."""
    attack: bool
    """Whether attacks search for adversarial examples."""
    clip: Box | None
    """The lower and upper limit of every input; None for no box."""
    seed: int
    """The seed of the attacks and of random targets."""
    memory: int | None
    """The budget of one pass of bounds, in bytes; None for the memory that is free."""
    then: tuple[bounds.Method, ...] = ()
    """Further methods, in order, for images whose radius the earlier methods leave wide."""
    at: tuple[float, ...] = ()
    """Radii that are proved exactly where possible, like `eps_max`."""

    @property
    def methods(self) -> tuple[bounds.Method, ...]:
        """All methods, in the order in which they run."""
        return (self.method, *self.then)

    @property
    def exactly(self) -> list[float]:
        """The finite radii to prove exactly, in descending order."""
        most = math.inf if self.eps_max is None else self.eps_max
        return sorted({eps for eps in (*self.at, most) if 0 < eps <= most and eps < math.inf}, reverse=True)

    @property
    def name(self) -> str:
        """The methods as the command line names them."""
        return ", then ".join(describe(method) for method in self.methods)


@dataclass
class _Found:
    """The results of the radius search for N images."""

    radius: Tensor
    """The radius found, [N]."""
    upper: Tensor
    """Radii up to this one are worth a try, [N]."""
    place: Tensor
    """The index of the method that found the radius, [N]."""
    seconds: Tensor
    """The time spent on each image, [N]."""
    evaluations: Tensor
    """How many bounds were computed for each image, [N]."""
    finite: Tensor
    """Whether any bound of the image was finite, [N]."""
    unlimited: Tensor
    """Whether the search gave up without any limit above it, [N]."""


def certify_batch(
    request: CertificationRequest,
    prove: Prover,
    x: Tensor,
    y: Tensor,
    index: Sequence[int],
    tell: Callable[[str, int, Bracket | None], None],
) -> Certificates:
    """Runs `certify` on one batch of images that fits into memory.

    request: the resolved arguments of `certify`.
    prove: the traced network with its region.
    x, y, index: images [N, *shape], labels [N], and the index of each image.
    tell: receives the stage, the number of images in it, and the state of the radius search if there is one.
    Returns the certificates of the N images.
    Raises UserError for scores that cannot be certified, and SoundnessError where a radius exceeds an adversarial
    distance.
    """
    started = perf_counter()
    logits = prove.logits(x)
    check_logits(logits, y, index)
    prediction = logits.argmax(1)
    target = None if request.target is None else request.target(logits, y, index, request.seed)
    right = (prediction == y).nonzero().flatten()
    part = prove.about(x[right], y[right], None if target is None else target[right], logits.shape[1])

    tell("attack", len(right), None)
    found = _attack(request, x[right], y[right], None if target is None else target[right])
    shared = (perf_counter() - started) / len(x)
    climbed = _climb(request, part, found.distance, lambda bracket: tell("search", len(right), bracket))
    climbed.seconds += shared
    tell("prove", len(right), None)
    began = perf_counter()
    radius, proved = torch.zeros_like(climbed.radius), torch.zeros_like(climbed.radius)
    for place, method in enumerate(request.methods):
        own = torch.where(climbed.place == place, climbed.radius, 0)
        at, margin = _prove(
            replace(part, method=method), own, climbed.upper, request.exactly, logits[right], request.tol
        )
        radius, proved = radius + at, proved + margin
    climbed.seconds += (perf_counter() - began) / max(len(right), 1)
    names = [describe(method) for method in request.methods]
    by = [names[place] for place in climbed.place.tolist()]
    _check_sound(
        request, part, x[right], y[right], [index[i] for i in right.tolist()], by, radius, proved, found
    )

    status = ["misclassified"] * len(x)
    for row, r, finite in zip(right.tolist(), radius.tolist(), climbed.finite.tolist(), strict=True):
        status[row] = "certified" if r > 0 else "zero" if finite else "failed: no finite bound at any radius"
    scatter = {
        "radius_lower": (radius, 0.0),
        "radius_upper": (found.distance, 0.0 if request.attack else float("inf")),
        "seconds": (climbed.seconds, shared),
        "evaluations": (climbed.evaluations, 0),
    }
    proved_by = dict(zip(right.tolist(), by, strict=True))
    return Certificates(
        norm=request.norm,
        method=request.name,
        proved_by=tuple(proved_by.get(row, names[0]) for row in range(len(x))),
        proof=("",) * len(x),
        index=np.asarray(index, dtype=np.int64),
        label=y.cpu().numpy().copy(),
        prediction=prediction.cpu().numpy().copy(),
        target=targets(target, len(x)),
        status=tuple(status),
        notes=(*found.failed, *((UNLIMITED,) if bool(climbed.unlimited.any()) else ())),
        **{name: _spread(values, right, len(x), other) for name, (values, other) in scatter.items()},
    )


def _climb(
    request: CertificationRequest, part: Prover, attacked: Tensor, tell: Callable[[Bracket], None]
) -> _Found:
    """Searches radii with the first method, then with each further method for the images that are still wide."""
    centre, start = part.linearised()
    end = part.end(request.eps_max)
    # the search may go one step beyond the adversarial example, so that an unsound bound shows itself
    end = torch.minimum(end, attacked.to(end) * (1 + 1e-6))
    none = torch.zeros_like(centre)
    found = _Found(
        none,
        none,
        none.long(),
        torch.zeros(len(centre), dtype=centre.dtype),
        none.long(),
        none.bool(),
        none.bool(),
    )
    for place, method in enumerate(request.methods):
        wide = found.radius < (1 - WIDE) * torch.minimum(end, attacked.to(end))
        image = wide.nonzero().flatten()
        if not len(image):
            break
        some = replace(part, method=method, x=part.x[image], rows=part.rows[image])
        began = perf_counter()
        begin = start[image]
        if place == 0:
            begin = _start(some, centre[image], begin, end[image])
        searched, seconds = _search(some, centre[image], begin, end[image], request.tol, tell)
        better = searched.radius > found.radius[image]
        found.place = found.place.index_put((image[better],), torch.tensor(place, device=image.device))
        found.radius = found.radius.index_put((image[better],), searched.radius[better])
        reach = torch.minimum(searched.upper, searched.radius * (1 + REACH * request.tol))
        found.upper = found.upper.index_put((image[better],), reach[better])
        found.unlimited = found.unlimited.index_put((image[better],), searched.unlimited[better])
        found.seconds[image.cpu()] += seconds + (perf_counter() - began - float(seconds.sum())) / len(image)
        found.evaluations = found.evaluations.index_add(0, image, searched.evaluations)
        found.finite = found.finite.index_put((image,), found.finite[image] | searched.finite)
        start = torch.where(found.radius > 0, found.radius * (1 + ROUGH), start)
    return found


def _search(
    part: Prover,
    centre: Tensor,
    start: Tensor,
    end: Tensor,
    tol: float,
    tell: Callable[[Bracket], None] | None = None,
) -> tuple[Radii, Tensor]:
    """Searches the radii of all images of `part` with its method; returns them and the seconds per image."""
    forecast = (
        Forecast(part, centre, end, tol) if isinstance(part.method, bounds.Crown) and len(centre) else None
    )
    evaluate: LowerMargin = partial(part.lower_margin, dtype=torch.float32)
    if forecast is not None:
        evaluate = forecast.lower_margin
    seconds = torch.zeros(len(centre), dtype=torch.float64)

    def lower_margin(eps: Tensor, image: Tensor) -> Tensor:
        began = perf_counter()
        margin = evaluate(eps, image)
        seconds[image.cpu()] += (perf_counter() - began) / len(image)
        return margin

    foretell = None if forecast is None else forecast.root
    found = search_radii(lower_margin, centre, start, end, tol=tol, foretell=foretell, progress=tell)
    return found, seconds


def _start(part: Prover, centre: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Chooses where each search starts: at `start`, or at the radius that a cheaper method proves, if that is larger.
    The result is at least a fixed share of `start`.
    """
    cheaper = _cheaper(part.method)
    if cheaper is None:
        return start
    plain = replace(part, method=cheaper)
    radius = _search(plain, centre, _start(plain, centre, start, end), end, ROUGH)[0].radius
    return torch.where(radius > 0, torch.maximum(radius, start / BEYOND), start)


def _cheaper(method: bounds.Method) -> bounds.Method | None:
    """The next cheaper method: CROWN for α-CROWN, and CROWN with interval bounds inside for CROWN; otherwise None."""
    if isinstance(method, bounds.AlphaCrown):
        return bounds.Crown(method.slope)
    return bounds.CrownIBP(method.slope) if isinstance(method, bounds.Crown) else None


def _spread(values: Tensor, rows: Tensor, n: int, other: float) -> np.ndarray:
    """Places `values` at `rows` of an array [n] and `other` everywhere else."""
    full = torch.full((n,), other, dtype=values.dtype)
    full[rows.cpu()] = values.cpu()
    return full.numpy()


def _attack(
    request: CertificationRequest, x: Tensor, y: Tensor, target: Tensor | None
) -> AdversarialExamples:
    """The nearest adversarial examples of correctly classified images; the distances are infinite without attacks."""
    if request.attack and len(x):
        return smallest_adversarial(request.model, x, y, request.norm, seed=request.seed, targets=target)
    nowhere = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    return AdversarialExamples(nowhere, x.double(), ("",) * len(x), ())


def _prove(
    part: Prover, radius: Tensor, upper: Tensor, exactly: Sequence[float], logits: Tensor, tol: float
) -> tuple[Tensor, Tensor]:
    """Proves the radii [N] again in float64 with the stated margin, and shrinks a radius whose proof fails.

    exactly: radii in descending order; each is tried where it lies above the next radius to try and not above `upper`
        [N].
    `upper` is the largest radius worth a try, and afterwards the radius that failed last.
    Returns the proved radii (0 where no proof succeeds) and the lower bounds of their margins.
    """
    needed = PROOF_MARGIN * (1 + logits.abs().amax(1)) if len(logits) else radius
    proved_radius, proved_margin = torch.zeros_like(radius), torch.zeros_like(radius)

    def tried(eps: Tensor) -> None:
        """Tries the radii eps [N] above 0 of images that have no proof yet."""
        pending = ((eps > 0) & (proved_radius == 0)).nonzero().flatten()
        if not len(pending):
            return
        margin = part.lower_margin(eps[pending], pending, torch.float64)
        holds = torch.isfinite(margin) & (margin > needed[pending])
        proved_radius[pending[holds]] = eps[pending[holds]]
        proved_margin[pending[holds]] = margin[holds]

    for attempt in range(SHRINKS):
        for eps in exactly:
            tried(
                torch.where((radius > 0) & (radius < eps) & (eps <= upper), torch.full_like(radius, eps), 0)
            )
        tried(radius)
        radius, upper = radius * max(1 - tol * 2**attempt, 0.5), radius
    return proved_radius, proved_margin


def _check_sound(
    request: CertificationRequest,
    part: Prover,
    x: Tensor,
    y: Tensor,
    index: Sequence[int],
    by: Sequence[str],
    radius: Tensor,
    margin: Tensor,
    found: AdversarialExamples,
) -> None:
    """Raises SoundnessError where a certified radius exceeds the distance of an adversarial example."""
    beyond = (radius > found.distance.to(radius)).nonzero().flatten().tolist()
    if not beyond:
        return
    at = beyond[0]
    raise SoundnessError(
        Evidence(
            index=index[at],
            label=int(y[at]),
            norm=request.norm,
            method=by[at],
            image=x[at].double().cpu().numpy(),
            example=found.example[at].cpu().numpy(),
            radius=float(radius[at]),
            distance=float(found.distance[at]),
            margin_proved=float(margin[at]),
            margin_found=float(part.margin(found.example)[at]),
        )
    )
