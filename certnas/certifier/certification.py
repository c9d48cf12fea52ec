"""certified ≤ true ≤ attacked: the radius of every image, from below and from above."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.certifier.batch import BATCH, CertificationRequest, certify_batch
from certnas.certifier.certificates import Certificates
from certnas.certifier.constant import certify_constant
from certnas.certifier.planning import AUTO, SECONDS, MethodPlan, plan
from certnas.certifier.prover import Prover, prover
from certnas.certifier.radius import Bracket
from certnas.certifier.request import (
    TARGETS,
    Box,
    check_box,
    check_images,
    check_model,
    check_numbers,
    chosen,
    resolve_method,
)
from certnas.engine import Engine, Inline, Job, placed
from certnas.errors import UserError


@dataclass(frozen=True)
class CertificationProgress:
    """Where a run stands: `done` of `total` images; of the running `batch`, `open` are still at `stage`."""

    done: int
    total: int
    stage: str
    batch: int
    open: int
    lower: float = 0.0
    upper: float = float("inf")


@dataclass(frozen=True)
class ImageBatch:
    """Images x [N, *shape] of labels y [N], proved together, and their names."""

    x: Tensor
    y: Tensor
    index: tuple[int, ...]


class Certifier:
    """`certify` on one batch after another, the network traced once, on the first."""

    def __init__(self, request: CertificationRequest, device: torch.device) -> None:
        self.request = replace(request, model=request.model.to(device))
        self.device = device
        self._prover: Prover | None = None
        self._constant = False

    def __call__(self, batch: ImageBatch, tell: Callable[[CertificationProgress], None]) -> Certificates:
        """The certificates of the batch; `tell` is given where it stands, as if it were all.

        Where the device has no room for it, those of its two halves.  Raises bounds.OutOfMemory for a single image.
        """
        request, size = self.request, len(batch.index)
        x, y = batch.x.detach().to(self.device), batch.y.detach().to(self.device, torch.long)
        if self._prover is None and not self._constant:
            ball = bounds.NORMS[request.norm]
            try:
                self._prover = prover(request.model, x, request.method, ball, request.clip, request.memory)
            except bounds.ConstantOutput:
                self._constant = True
        if self._prover is None:
            return certify_constant(request, x, y, batch.index)
        self._prover.check(x, request.eps_max)

        def told(stage: str, images: int, bracket: Bracket | None) -> None:
            tell(_progress(size, stage, images, bracket))

        try:
            return certify_batch(request, self._prover, x, y, batch.index, told)
        except bounds.OutOfMemory:
            if size == 1:
                raise
        # here, where nothing refers to the tensors of the failed attempt any more
        return Certificates.join(
            [self(part, tell) for part in batches(batch.x, batch.y, batch.index, (size + 1) // 2)]
        )


@dataclass(frozen=True)
class Certification(Job[ImageBatch, Certificates]):
    """`certify` as work for any process, on the device that the process has."""

    request: CertificationRequest
    device: torch.device
    why: tuple[str, ...] = ()
    """What `auto` chose, in lines for the user."""

    def open(self, rank: int) -> Certifier:
        return Certifier(self.request, placed(self.device, rank))

    def describe(self, item: ImageBatch) -> str:
        return f"images {item.index[0]} to {item.index[-1]}"


def certification(
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
    memory: int | None = None,
    time_per_image: float | None = None,
    device: torch.device | None = None,
    at: Sequence[float] = (),
) -> Certification:
    """What `certify` does to `batches` of x, y; all is checked but numbers; on `device`, or the model's."""
    chosen("norm", norm, bounds.NORMS)
    target = chosen("targets", targets, TARGETS)
    check_box(clip, attack)
    check_images(x, y, clip)
    own = check_model(model)
    planned = _planned(model, x, method, time_per_image, memory)
    request = CertificationRequest(
        model, norm, planned.method, eps_max, tol, target, attack, clip, seed, memory, planned.then, tuple(at)
    )
    return Certification(request, own if device is None else device, planned.why)


def _planned(
    model: nn.Module, x: Tensor, method: bounds.Method | str, seconds: float | None, memory: int | None
) -> MethodPlan:
    if method == AUTO:
        try:
            network = bounds.trace(model, x[:1].to(check_model(model))).bind()
        except bounds.ConstantOutput:
            return MethodPlan(resolve_method("ibp"))  # no bound is computed
        return plan(network, seconds=SECONDS if seconds is None else seconds, memory=memory)
    if seconds is not None:
        raise UserError(f"time per image is {seconds:g}, but only method {AUTO} chooses by it")
    return MethodPlan(resolve_method(method))


def batches(x: Tensor, y: Tensor, index: Sequence[int], size: int) -> list[ImageBatch]:
    """x [N, *shape], y [N] in parts of `size` images: the same parts always, since an image's company decides the
    last digits of its radius."""
    rows = [slice(first, first + size) for first in range(0, len(x), size)]
    return [ImageBatch(x[part].clone(), y[part].clone(), tuple(index[part])) for part in rows]


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
    time_per_image: float | None = None,
    index: Sequence[int] | None = None,
    at: Sequence[float] = (),
    engine: Engine | None = None,
    progress: Callable[[CertificationProgress], None] | None = None,
    on_batch: Callable[[Certificates], None] | None = None,
) -> Certificates:
    """The largest proved radius of every image, and the distance of its nearest known adversarial example.

    For every x' with ‖x' − x‖ ≤ radius_lower (and x' in `clip`), f_y(x') > f_j(x') for all targets j: a lower
    bound of each margin, in float64 and at exactly that radius, exceeded PROOF_MARGIN · (1 + max |logit|).

    model: classifier in eval mode, its normalisation inside; x [N, *shape] pixels in `clip`; y [N] labels;
    norm linf, l2 or l1; method an object, a name of `bounds.METHODS`, or "auto", which chooses methods by their
    predicted time, `time_per_image` seconds at most (10 by default), and climbs for images that stay wide; radii in
    x's units, at most `eps_max`, searched to the relative tolerance `tol`, but `eps_max` and the radii `at` tried
    exactly where they lie so near above what was found; targets all (every other class), random,
    least (likely) or runner-up; memory in bytes for one pass of bounds; index names the images (0 … N−1).  engine:
    where batches are proved, this process by default; the certificates are the same.  `on_batch` is given each batch
    as it finishes.
    Where the output does not depend on the input, radii end with `eps_max` or the box alone and may be infinite; a note
    says so, as it does where nothing limits a search.  The model and the caller's random state are left as they were.

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
    check_numbers(tol, eps_max, batch_size, memory)
    kept: dict[str, Any] = {
        "eps_max": eps_max,
        "tol": tol,
        "attack": attack,
        "clip": clip,
        "seed": seed,
        "memory": memory,
        "time_per_image": time_per_image,
        "at": at,
    }
    job = certification(model, x, y, norm, method=method, targets=targets, **kept)
    names = list(range(len(x))) if index is None else list(index)
    if len(names) != len(x):
        raise UserError(f"index names {len(names)} images, there are {len(x)}")
    tell = progress or (lambda _: None)
    work = batches(x, y, names, batch_size)
    parts: dict[int, Certificates] = {}

    def told(position: int, at: CertificationProgress) -> None:
        tell(replace(at, done=sum(map(len, parts.values())), total=len(x)))

    with closing((engine or Inline()).run(job, work, told)) as results:
        for position, part in results:
            parts[position] = part
            if on_batch is not None:
                on_batch(part)
    return Certificates.join([parts[position] for position in range(len(work))])


def _progress(total: int, stage: str, batch: int, bracket: Bracket | None) -> CertificationProgress:
    if bracket is None or not bool(bracket.open.any()):
        return CertificationProgress(0, total, stage, batch, batch)
    lower, upper = bracket.lower[bracket.open], bracket.upper[bracket.open]
    return CertificationProgress(0, total, stage, batch, len(lower), float(lower.min()), float(upper.max()))
