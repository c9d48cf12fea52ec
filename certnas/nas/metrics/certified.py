"""Settings, specification bounds and root search shared by the certified-bound metrics."""

import math
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certnas import bounds
from certnas.errors import UserError
from certnas.layout import laid_out
from certnas.nas.metrics.evaluation import BN
from certnas.nas.metrics.hardest import LeastRow, hardest_row
from certnas.nas.metrics.metric import Measured, at_least, one_of

DTYPES = {"float32": torch.float32, "float64": torch.float64}
"""Name -> floating type of the bounds."""
RESOLUTION = {"float32": (1e-35, 1e-4), "float64": (1e-290, 1e-9)}
"""Floating type -> the smallest radii to try, in pixels: (interval arithmetic on l∞ boxes, other methods).

Interval arithmetic on a box propagates the radius separately from the centre, so tiny radii survive. Other
methods compute with the endpoints, where rounding hides small radii.
"""
LOG_LOST = 40.0
"""The log excess that a bound without a finite value counts as."""
MAX_EVALUATIONS = 60
"""Upper limit on the evaluations of a root search that runs until `tol`."""
SUPPORTED = ("linf", "l2")
"""Norms of the ball."""


@dataclass(frozen=True, kw_only=True)
class CertifiedMetric(Measured, ABC):
    """A metric from certified bounds over a ball intersected with [0, 1]^D (DSRNA, section 3.1.1).

    Raises UserError for a value that a setting does not accept.
    """

    bn: str = "running"
    """Statistics of batch normalisation: `running` or `batch`.

    Running statistics are constants, over the ball and in the derivative. Batch statistics are constants
    over the ball only. In our searches, running statistics found cells with larger certified radii at lower
    cost (benchmarks/evidence).
    """
    norm: str = "linf"
    """Norm of the ball: `linf` or `l2`."""
    method: str = "ibp"
    """Bound method: `ibp`, `crown-ibp` or `zonotope`."""
    errors: int = 0
    """Number of error symbols that a zonotope keeps for each layer (0: all errors go into a box). Requires
    method `zonotope`.
    """
    images: int = 0
    """Number of images to bound, from the start of the batch (0: all). Batch statistics always cover the
    whole batch.
    """
    rows: str = "hardest"
    """`hardest`: find each image's hardest specification row without derivatives, then bound that row only
    with derivatives. `all`: bound every row with derivatives. R is the same.
    """
    dtype: str = "auto"
    """Floating type of the bounds: `float32`, `float64` or `auto`.

    `auto` means float64, except for the radius by `ibp` over l∞, where it means float32. There float32 is
    enough for bounds that grow 10^60-fold from input to output, as in a supernet of eight cells.
    """
    keep_none: bool = False
    """True: the operator `none` keeps its share of softmax(α), which shrinks the bounds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("bn", self.bn, BN)
        one_of("norm", self.norm, SUPPORTED)
        one_of("method", self.method, ("ibp", "crown-ibp", "zonotope"))
        one_of("rows", self.rows, ("hardest", "all"))
        one_of("dtype", self.dtype, ("auto", *DTYPES))
        at_least("images", self.images, 0)
        at_least("errors", self.errors, 0)
        if self.errors and self.method != "zonotope":
            raise UserError(f"metric: errors are a zonotope's; method is {self.method!r}, give errors = 0")

    @property
    def precision(self) -> torch.dtype:
        """The floating type of the bounds."""
        return DTYPES["float64" if self.dtype == "auto" else self.dtype]

    @property
    def resolution(self) -> float:
        """The smallest radius to try, in pixels."""
        apart = self.norm == "linf" and self.method != "zonotope"
        return RESOLUTION["float32" if self.precision == torch.float32 else "float64"][0 if apart else 1]

    def bound_method(self) -> bounds.Method:
        """The bound method with its settings."""
        if self.method == "zonotope":
            return bounds.Zonotope(self.errors)
        return bounds.IBP() if self.method == "ibp" else bounds.CrownIBP()

    def selected(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The images to bound and their labels."""
        return (x[: self.images], y[: self.images]) if self.images else (x, y)


class Margins:
    """Lower bounds of specification rows over balls around the images, for one bound network.

    x [n,C,H,W] are the images and rows [n,S,K] the specification. `clean` [n] is each image's smallest
    margin at the image itself, with derivatives.
    """

    def __init__(self, metric: CertifiedMetric, network: bounds.Network, x: Tensor, rows: Tensor) -> None:
        self.metric = metric
        self.network = network
        self.x = laid_out(x.detach().to(network.dtype))
        self.rows = rows
        logits = network(self.x) if network.batch_output is None else network.batch_output[: len(x)]
        self.clean = torch.einsum("nsk,nk->ns", rows, logits).amin(1)

    def lower(self, eps: Tensor, image: Tensor, rows: Tensor, method: bounds.Method) -> Tensor:
        """Lower bounds of specification rows over balls around selected images.

        eps [m] are the radii, image [m] the indices of the images, rows [m,S,K]. [m, number of rows that
        the method returns]
        """
        region = bounds.NORMS[self.metric.norm](self.x[image], eps.to(self.x), 0.0, 1.0)
        return bounds.lower_bounds(self.network, region, rows, method)

    def probe(self, eps: Tensor, image: Tensor) -> Tensor:
        """Each image's smallest lower bound, without derivatives. eps [m], image [m] -> [m]"""
        with torch.no_grad():
            return self.lower(eps, image, self.rows[image], self.metric.bound_method()).amin(1)

    def least(self, eps: Tensor, image: Tensor, *, steady: bool = False) -> Tensor:
        """Each image's smallest lower bound, with derivatives. eps [m], image [m] -> [m]

        With `rows` = hardest, only the hardest row of each image is bounded with derivatives. `steady`
        limits the spikes of the derivative of interval arithmetic (see `without_spikes`).
        """
        method, rows, hardest = self.metric.bound_method(), self.rows[image], self.metric.rows == "hardest"
        if isinstance(method, bounds.IBP):
            method = LeastRow(hardest, steady)
        elif hardest:
            rows = self.hardest(eps, image)
        return self.lower(eps, image, rows, method).amin(1)

    def hardest(self, eps: Tensor, image: Tensor) -> Tensor:
        """The row with the smallest lower bound of each image. [m,1,K]"""
        rows = self.rows[image]
        with torch.no_grad():
            return hardest_row(rows, self.lower(eps, image, rows, self.metric.bound_method()))


class RootSearch:
    """Searches the radius ε of each image at which its smallest margin m(ε) reaches zero.

    The search steps on h(log ε) = log((m(0) − m(ε))/m(0)), which is 0 at the root. For an affine network h
    is a line of slope 1, and it is nearly a line wherever interval bounds multiply. A step therefore
    assumes slope 1 until two points of an image give a secant.

    Each batch starts from `log_gain`, the mean of log(m(0)/ε*) in the previous batch; this varies less
    between images than ε* does. `evaluations` counts the bound evaluations per image of the last search.
    `first` is the starting radius of the first batch, in pixels.
    """

    def __init__(self, first: float) -> None:
        self.first = first
        self.log_gain: float | None = None
        self.evaluations = 0

    def __call__(self, margins: Margins, image: Tensor, *, steps: int = 0, tol: float = math.inf) -> Tensor:
        """Radii ε [m] of the selected images [m], between the smallest and the largest radius allowed.

        The images must be classified correctly. The search ends after `steps` evaluations. With a finite
        `tol` it ends when every image has |h| ≤ tol or rests at a limit. The first batch has no starting
        estimate and is searched until |h| ≤ 1.
        """
        clean = margins.clean[image].detach().double()
        low, high = math.log(margins.metric.resolution), math.log(limit(margins))
        if self.log_gain is None:
            where, tol = torch.full_like(clean, math.log(self.first)), min(tol, 1.0)
        else:
            where = clean.log() - self.log_gain
        where, slope = where.clamp(low, high), torch.ones_like(clean)
        before: tuple[Tensor, Tensor] | None = None
        self.evaluations = 0
        while self.evaluations < (steps if math.isinf(tol) else MAX_EVALUATIONS):
            h = excess(clean, margins.probe(where.exp(), image).double())
            self.evaluations += 1
            if before is not None:
                moved = where - before[0]
                secant = (h - before[1]) / torch.where(moved == 0, 1, moved)
                slope = torch.where((moved != 0) & (secant > 0.2) & (secant < 5), secant, 1)
            before = where, h
            where = (where - h / slope).clamp(low, high)
            if bool(((h.abs() <= tol) | (where == before[0])).all()) and not math.isinf(tol):
                break
        return where.exp()

    def learn(self, log_gain: Tensor) -> None:
        """Store the starting point for the next batch: log(m(0)/ε*) of each image. [m]"""
        self.log_gain = float(log_gain.double().mean())


def excess(clean: Tensor, margin: Tensor) -> Tensor:
    """h for the margins m(0) and m(ε).

    A bound without a finite value counts as h = LOG_LOST. A bound that has hardly moved counts as h = −7.
    """
    fallen = torch.where(torch.isfinite(margin), (clean - margin) / clean, math.exp(LOG_LOST))
    return fallen.clamp(min=1e-3).log()


def limit(margins: Margins) -> float:
    """The radius at which a ball contains [0, 1]^D from any of its points: 1 in l∞, √D in l2."""
    return 1.0 if margins.metric.norm == "linf" else float(margins.x[0].numel() ** 0.5)


def optional(state: Mapping[str, Any], name: str) -> float | None:
    """The number stored in a state under `name`, or None."""
    return None if state[name] is None else float(state[name])
