"""One batch of images: attacked, searched, proved again in float64, and checked against itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

import bounds
from certnas.attacks import Adversarial, smallest_adversarial
from certnas.certifier.certificates import Certificates
from certnas.certifier.prover import Prover
from certnas.certifier.radius import Bracket, LowerMargin, search_radii
from certnas.certifier.request import Box, Target, check_logits, describe
from certnas.certifier.soundness import Evidence, SoundnessError

PROOF_MARGIN = 1e-9
"""A radius is reported where the float64 lower bound of every margin exceeds this × (1 + max |logit|):
several orders above what float64 rounding adds up to in a bound."""
SHRINKS = 12
ROUGH = 0.05
"""The relative tolerance to which a cheaper method looks for the place to start."""


@dataclass(frozen=True)
class Request:
    """What `certify` was asked for, resolved."""

    model: nn.Module
    norm: str
    method: bounds.Method
    eps_max: float | None
    tol: float
    target: Target | None
    attack: bool
    clip: Box | None
    seed: int
    memory: int | None


def certify_batch(
    request: Request,
    prove: Prover,
    x: Tensor,
    y: Tensor,
    index: Sequence[int],
    tell: Callable[[str, int, Bracket | None], None],
) -> Certificates:
    """`certify` on one batch that fits together."""
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
    spent = torch.full((len(right),), shared, dtype=torch.float64)

    def lower_margin(eps: Tensor, image: Tensor) -> Tensor:
        began = perf_counter()
        margin = part.lower_margin(eps, image, torch.float32)
        spent[image.cpu()] += (perf_counter() - began) / len(image)
        return margin

    centre, start = part.linearised()
    end = part.farthest()
    if request.eps_max is not None:
        end = end.clamp(max=request.eps_max)
    # one step beyond the adversarial example: a bound that proves too much must be able to show it
    end = torch.minimum(end, found.distance.to(end) * (1 + 1e-6))
    cheaper = _cheaper(part)
    if cheaper is not None:
        found_before = search_radii(cheaper, centre, start, end, tol=ROUGH)
        start = torch.where(found_before.radius > 0, found_before.radius * (1 + 2 * ROUGH), start)
    searched = search_radii(
        lower_margin,
        centre,
        start,
        end,
        tol=request.tol,
        progress=lambda bracket: tell("search", len(right), bracket),
    )
    tell("prove", len(right), None)
    began = perf_counter()
    radius, proved = _prove(part, searched.radius, logits[right], request.tol)
    spent += (perf_counter() - began) / max(len(right), 1)
    _check_sound(request, part, x[right], y[right], [index[i] for i in right.tolist()], radius, proved, found)

    status = ["misclassified"] * len(x)
    for row, r, finite in zip(right.tolist(), radius.tolist(), searched.finite.tolist(), strict=True):
        status[row] = "certified" if r > 0 else "zero" if finite else "failed: no finite bound at any radius"
    scatter = {
        "radius_lower": (radius, 0.0),
        "radius_upper": (found.distance, 0.0 if request.attack else float("inf")),
        "seconds": (spent, shared),
        "evaluations": (searched.evaluations, 0),
    }
    return Certificates(
        norm=request.norm,
        method=describe(request.method),
        index=np.asarray(index, dtype=np.int64),
        label=y.cpu().numpy().copy(),
        prediction=prediction.cpu().numpy().copy(),
        status=tuple(status),
        notes=found.failed,
        **{name: _spread(values, right, len(x), other) for name, (values, other) in scatter.items()},
    )


def _cheaper(part: Prover) -> LowerMargin | None:
    """For a method that optimises: the same without, whose radius is a good place to start from."""
    if not isinstance(part.method, bounds.AlphaCrown):
        return None
    plain = replace(part, method=bounds.Crown(part.method.slope))
    return lambda eps, image: plain.lower_margin(eps, image, torch.float32)


def _spread(values: Tensor, rows: Tensor, n: int, other: float) -> np.ndarray:
    """[n], `values` at `rows` and `other` elsewhere."""
    full = torch.full((n,), other, dtype=values.dtype)
    full[rows.cpu()] = values.cpu()
    return full.numpy()


def _attack(request: Request, x: Tensor, y: Tensor, target: Tensor | None) -> Adversarial:
    """The nearest adversarial examples of the images, all right; at infinity where none are asked for."""
    if request.attack and len(x):
        return smallest_adversarial(request.model, x, y, request.norm, seed=request.seed, targets=target)
    nowhere = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    return Adversarial(nowhere, x.double(), ("",) * len(x), ())


def _prove(part: Prover, radius: Tensor, logits: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """The radii [N] proved again in float64 with the stated margin, shrunk where needed, and the margins."""
    needed = PROOF_MARGIN * (1 + logits.abs().amax(1)) if len(logits) else radius
    proved_radius, proved_margin = torch.zeros_like(radius), torch.zeros_like(radius)
    radius = radius.clone()
    pending = (radius > 0).nonzero().flatten()
    for attempt in range(SHRINKS):
        if not len(pending):
            break
        margin = part.lower_margin(radius[pending], pending, torch.float64)
        holds = torch.isfinite(margin) & (margin > needed[pending])
        proved_radius[pending[holds]] = radius[pending[holds]]
        proved_margin[pending[holds]] = margin[holds]
        pending = pending[~holds]
        radius[pending] *= max(1 - tol * 2**attempt, 0.5)
    return proved_radius, proved_margin


def _check_sound(
    request: Request,
    part: Prover,
    x: Tensor,
    y: Tensor,
    index: Sequence[int],
    radius: Tensor,
    margin: Tensor,
    found: Adversarial,
) -> None:
    """Raises SoundnessError where a proved radius exceeds the distance of an adversarial example."""
    beyond = (radius > found.distance.to(radius)).nonzero().flatten().tolist()
    if not beyond:
        return
    at = beyond[0]
    raise SoundnessError(
        Evidence(
            index=index[at],
            label=int(y[at]),
            norm=request.norm,
            method=describe(request.method),
            image=x[at].double().cpu().numpy(),
            example=found.example[at].cpu().numpy(),
            radius=float(radius[at]),
            distance=float(found.distance[at]),
            margin_proved=float(margin[at]),
            margin_found=float(part.margin(found.example)[at]),
        )
    )
