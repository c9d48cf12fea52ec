"""certified ≤ true ≤ attacked: the radius of every image, from below and from above."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import bounds
from certnas.certifier.batch import Request, certify_batch
from certnas.certifier.certificates import Certificates
from certnas.certifier.prover import prover
from certnas.certifier.radius import Bracket
from certnas.certifier.request import (
    NORMS,
    TARGETS,
    Box,
    check_box,
    check_images,
    check_model,
    check_numbers,
    chosen,
    resolve_method,
)
from certnas.errors import UserError

BATCH = 16


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `done` of `total` images; of the running `batch`, `open` are still at `stage`."""

    done: int
    total: int
    stage: str
    batch: int
    open: int
    lower: float = 0.0
    upper: float = float("inf")


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str = "linf",
    *,
    method: bounds.Method | str = "crown",
    eps_max: float | None = None,
    tol: float = 1e-3,
    targets: str = "all",
    attack: bool = True,
    clip: Box | None = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = BATCH,
    memory: int | None = None,
    index: Sequence[int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_batch: Callable[[Certificates], None] | None = None,
) -> Certificates:
    """The largest proved radius of every image, and the distance of its nearest known adversarial example.

    For every x' with ‖x' − x‖ ≤ radius_lower (and x' in `clip`), f_y(x') > f_j(x') for all targets j: a lower
    bound of each margin, in float64 and at exactly that radius, exceeded PROOF_MARGIN · (1 + max |logit|).

    model: classifier in eval mode, its normalisation inside; x [N, *shape] pixels in `clip`; y [N] labels;
    norm linf, l2 or l1; method an object or name of `bounds.METHODS`; radii in x's units, at most `eps_max`,
    searched to the relative tolerance `tol`; targets all (every other class), random, least (likely) or
    runner-up; memory in bytes for one pass of bounds; index names the images (0 … N−1).  `on_batch` is given
    each finished batch.  The model and the caller's random state are left as they were.

    Raises UserError for a request that makes no sense, bounds.UnsupportedOp for an operator without a rule,
    and SoundnessError, with the evidence, where a certified radius exceeds an adversarial distance.

    >>> import certnas
    >>> from certnas.data import load
    >>> from certnas.models import open_model
    >>> digits = load("digits")
    >>> network = open_model("digits-cnn").module
    >>> certificates = certnas.certify(network, digits.x[:4], digits.y[:4], norm="l2", attack=False)
    >>> bool((certificates.radius_lower > 0.1).all())
    True
    """
    chosen("norm", norm, NORMS)
    target = chosen("targets", targets, TARGETS)
    check_numbers(tol, eps_max, batch_size, memory)
    check_box(clip, attack)
    check_images(x, y, clip)
    device = check_model(model)
    names = list(range(len(x))) if index is None else list(index)
    if len(names) != len(x):
        raise UserError(f"index names {len(names)} images, there are {len(x)}")
    request = Request(model, norm, resolve_method(method), eps_max, tol, target, attack, clip, seed, memory)
    tell = progress or (lambda _: None)
    x, y = x.detach().to(device), y.detach().to(device, torch.long)
    prove = prover(model, x, request.method, NORMS[norm], clip, memory)
    parts = []
    for first in range(0, len(x), batch_size):
        rows = slice(first, first + batch_size)

        def told(stage: str, batch: int, bracket: Bracket | None, first: int = first) -> None:
            tell(_progress(first, len(x), stage, batch, bracket))

        parts.append(certify_batch(request, prove, x[rows], y[rows], names[rows], told))
        if on_batch is not None:
            on_batch(parts[-1])
    return Certificates.join(parts)


def _progress(done: int, total: int, stage: str, batch: int, bracket: Bracket | None) -> Progress:
    if bracket is None or not bool(bracket.open.any()):
        return Progress(done, total, stage, batch, batch)
    lower, upper = bracket.lower[bracket.open], bracket.upper[bracket.open]
    return Progress(done, total, stage, batch, len(lower), float(lower.min()), float(upper.max()))
