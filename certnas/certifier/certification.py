"""Certified radius ≤ true radius ≤ attacked radius, for every image."""

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
from certnas.engine import Engine, Inline, Job, worker_device
from certnas.errors import UserError


@dataclass(frozen=True)
class CertificationProgress:
    """The progress of a certification run."""

    done: int
    """The number of images that are finished."""
    total: int
    """The number of all images."""
    stage: str
    """The stage of the running batch: attack, search or prove."""
    batch: int
    """The number of images of the running batch in this stage."""
    open: int
    """The number of these images whose search is not finished."""
    lower: float = 0.0
    """The smallest proved radius of the open images, in input units."""
    upper: float = float("inf")
    """The largest upper end of the open images' brackets, in input units."""


@dataclass(frozen=True)
class ImageBatch:
    """Images that are certified together."""

    x: Tensor
    """The images, [N, *shape]."""
    y: Tensor
    """The labels, [N]."""
    index: tuple[int, ...]
    """The index of each image in its data set."""


class Certifier:
    """Certifies one batch after another; it traces the network once, on the first batch."""

    def __init__(self, request: CertificationRequest, device: torch.device) -> None:
        self.request = replace(request, model=request.model.to(device))
        self.device = device
        self._prover: Prover | None = None
        self._constant = False

    def __call__(self, batch: ImageBatch, tell: Callable[[CertificationProgress], None]) -> Certificates:
        """The certificates of the batch; `tell` receives the progress within this batch.

        A batch that does not fit into the device's memory is split into two halves.
        Raises bounds.OutOfMemory if a single image does not fit.
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

        def report(stage: str, images: int, bracket: Bracket | None) -> None:
            tell(_progress(size, stage, images, bracket))

        try:
            return certify_batch(request, self._prover, x, y, batch.index, report)
        except bounds.OutOfMemory:
            if size == 1:
                raise
        # outside of the handler, where nothing refers to the tensors of the failed attempt any more
        return Certificates.join(
            [self(part, tell) for part in batches(batch.x, batch.y, batch.index, (size + 1) // 2)]
        )


@dataclass(frozen=True)
class Certification(Job[ImageBatch, Certificates]):
    """`certify` as a job that any process can run."""

    request: CertificationRequest
    """The resolved arguments of `certify`."""
    device: torch.device
    """The device to compute on; "cuda" without a number is resolved in each process."""
    why: tuple[str, ...] = ()
    """The choices of method "auto", as lines for the user."""

    def open(self, rank: int) -> Certifier:
        return Certifier(self.request, worker_device(self.device, rank))

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
    """Prepares the job that `certify` runs on each of the `batches` of x, y.

    The arguments are those of `certify`. device: where to compute; the model's device by default.
    Raises UserError for invalid arguments; tol, eps_max and memory are not checked here.
    """
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
    """The methods to run: the choice of `plan` for method "auto", otherwise the given method alone."""
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
    """Splits x [N, *shape], y [N] into batches of `size` images.

    The split is always the same, because the other images of a batch affect the last digits of a radius.
    """
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
    """The certified radius of every image, and the distance of its nearest known adversarial example.

    For every x' with ‖x' − x‖ ≤ radius_lower (and x' in `clip`), f_y(x') > f_j(x') for all target classes j. The
    proof is a lower bound of each margin, computed in float64 at exactly that radius, which exceeds PROOF_MARGIN · (1
    + max |logit|).

    model: a classifier in evaluation mode; a normalisation of the input belongs inside the model.
    x: images [N, *shape], pixels within `clip`.
    y: labels [N], integers.
    norm: "linf", "l2" or "l1".
    method: a bound method, a name of `bounds.METHODS`, or "auto". "auto" chooses the methods by their predicted time,
        and runs tighter methods on images that stay wide.
    eps_max: the largest radius to certify, in the units of x; None for no limit.
    tol: the relative tolerance of the radius search.
    targets: "all" (every other class), "random", "least" (likely) or "runner-up".
    attack: whether attacks search for adversarial examples.
    clip: the lower and upper limit of every input; None for no box.
    seed: the seed of attacks and random targets.
    batch_size: the number of images that are certified together.
    memory: the budget of one pass of bounds, in bytes.
    time_per_image: the time limit of "auto" per image, in seconds; 10 by default.
    index: the index of each image, [N]; 0 … N − 1 by default.
    at: radii that are proved exactly, like `eps_max`, where they lie just above the radius found.
    engine: where the batches run; this process by default. The certificates are the same on every engine.
    progress: receives the progress of the run.
    on_batch: receives the certificates of each batch when it is finished.

    Returns the certificates of the N images; radii are in the units of x.

    If the output does not depend on the input, only `eps_max` and the box limit a radius, which may be infinite. A
    note says so, as it does where nothing limits a search. The model and the caller's random state stay unchanged.

    Raises UserError for invalid arguments, bounds.UnsupportedOp for an operator without a rule, and SoundnessError,
    with the evidence, if a certified radius exceeds an adversarial distance.

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

    def report(position: int, at: CertificationProgress) -> None:
        tell(replace(at, done=sum(map(len, parts.values())), total=len(x)))

    with closing((engine or Inline()).run(job, work, report)) as results:
        for position, part in results:
            parts[position] = part
            if on_batch is not None:
                on_batch(part)
    return Certificates.join([parts[position] for position in range(len(work))])


def _progress(total: int, stage: str, batch: int, bracket: Bracket | None) -> CertificationProgress:
    """The progress within one batch; the totals are filled in by the caller."""
    if bracket is None or not bool(bracket.open.any()):
        return CertificationProgress(0, total, stage, batch, batch)
    lower, upper = bracket.lower[bracket.open], bracket.upper[bracket.open]
    return CertificationProgress(0, total, stage, batch, len(lower), float(lower.min()), float(upper.max()))
