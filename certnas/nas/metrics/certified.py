"""What the certified-bound metrics share: which bounds, of which rows, over which region."""

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
from certnas.nas.metrics.hardest import LeastRow, picked
from certnas.nas.metrics.metric import Measured, at_least, one_of

DTYPES = {"float32": torch.float32, "float64": torch.float64}
RESOLUTION = {"float32": (1e-35, 1e-4), "float64": (1e-290, 1e-9)}
"""The least radii in pixels: of interval arithmetic on l∞ boxes, which carries radii by themselves, and of bounds
in whose ends rounding would blur smaller ones."""
FAR, MOST = 40.0, 60
SUPPORTED = ("linf", "l2")


@dataclass(frozen=True, kw_only=True)
class Certified(Measured, ABC):
    """Certified bounds of the network on a ball met with [0, 1]^D, after section 3.1.1 of DSRNA.

    bn: batch normalisation by the `running` statistics, constants over the ball and in the derivative in weights and α,
    or by those of the `batch`, constants over the ball alone.  Searches with the running ones found cells of larger
    certified radii, and cost less (benchmarks/evidence).  norm: `linf` or `l2`.  method: `ibp`, `crown-ibp`,
    or `zonotope`, whose forms keep the input's D elements and `errors` error symbols a layer.  images: the bounds
    are of the first so many images of the batch (0: all); batch statistics are always of all.  rows: `hardest`
    finds each image's least row without derivatives, then follows it alone; `all` follows every row; R is the same.
    dtype: of the bounds, `float32`, `float64`, or `auto`: float64, but for the radius by `ibp` over l∞ float32, which
    reaches far enough for bounds that grow 10^60-fold from input to output, as in a supernet of eight cells.
    keep_none: let mass on `none` shrink the bounds.
    """

    bn: str = "running"
    norm: str = "linf"
    method: str = "ibp"
    errors: int = 0
    images: int = 0
    rows: str = "hardest"
    dtype: str = "auto"
    keep_none: bool = False

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
        """The least radius that is tried, in pixels."""
        apart = self.norm == "linf" and self.method != "zonotope"
        return RESOLUTION["float32" if self.precision == torch.float32 else "float64"][0 if apart else 1]

    def bound_method(self) -> bounds.Method:
        if self.method == "zonotope":
            return bounds.Zonotope(self.errors)
        return bounds.IBP() if self.method == "ibp" else bounds.CrownIBP()

    def some(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The images whose bounds are taken."""
        return (x[: self.images], y[: self.images]) if self.images else (x, y)


class Margins:
    """Lower bounds of rows of one bound network on balls round images: x [n,C,H,W], rows [n,S,K].

    clean: the least of each image's rows on the image itself, with derivatives.  [n]
    """

    def __init__(self, metric: Certified, network: bounds.Network, x: Tensor, rows: Tensor) -> None:
        self.metric = metric
        self.network = network
        self.x = laid_out(x.detach().to(network.dtype))
        self.rows = rows
        said = network(self.x) if network.batch_output is None else network.batch_output[: len(x)]
        self.clean = torch.einsum("nsk,nk->ns", rows, said).amin(1)

    def lower(self, eps: Tensor, image: Tensor, rows: Tensor, method: bounds.Method) -> Tensor:
        """Bounds of rows [m,S,K] on the balls of radius eps [m] round some images [m].  [m, rows of the method]"""
        region = bounds.NORMS[self.metric.norm](self.x[image], eps.to(self.x), 0.0, 1.0)
        return bounds.lower_bounds(self.network, region, rows, method)

    def tried(self, eps: Tensor, image: Tensor) -> Tensor:
        """The least of each image's rows, without derivatives.  eps [m] of some images [m] -> [m]"""
        with torch.no_grad():
            return self.lower(eps, image, self.rows[image], self.metric.bound_method()).amin(1)

    def least(self, eps: Tensor, image: Tensor, *, steady: bool = False) -> Tensor:
        """The same with derivatives; with `rows` = hardest, of each image's least row alone.  [m]

        steady: of interval arithmetic, without the spikes of the derivative.
        """
        method, rows, hardest = self.metric.bound_method(), self.rows[image], self.metric.rows == "hardest"
        if isinstance(method, bounds.IBP):
            method = LeastRow(hardest, steady)
        elif hardest:
            rows = self.hardest(eps, image)
        return self.lower(eps, image, rows, method).amin(1)

    def hardest(self, eps: Tensor, image: Tensor) -> Tensor:
        """The rows of the least bounds.  [m,1,K]"""
        rows = self.rows[image]
        with torch.no_grad():
            return picked(rows, self.lower(eps, image, rows, self.metric.bound_method()))


class RootSearch:
    """The radii ε at which least margins m(ε) reach zero: steps on h(log ε) = log((m(0) − m(ε))/m(0)), h = 0 there.

    h is a line of slope 1 for an affine network, and nearly one wherever interval bounds multiply, so a step takes
    it for one until two points of an image say better.  Each batch starts where the last one's log_gain says, the
    mean of log(m(0)/ε*), which varies less from image to image than ε* does.
    evaluations: bounds per image that the last search took.
    """

    def __init__(self, first: float) -> None:
        self.first = first
        self.log_gain: float | None = None
        self.evaluations = 0

    def __call__(self, margins: Margins, image: Tensor, *, steps: int = 0, tol: float = math.inf) -> Tensor:
        """ε [m] of images that are classified right, between the least and the greatest radius there is.

        After `steps` steps, or with `tol` as soon as |h| ≤ tol or ε rests at a limit for every image.  The first
        batch, of which nothing is known, is searched until |h| ≤ 1.
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
        while self.evaluations < (steps if math.isinf(tol) else MOST):
            h = excess(clean, margins.tried(where.exp(), image).double())
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
        """Keeps what the next batch starts from: log(m(0)/ε*) of each image.  [m]"""
        self.log_gain = float(log_gain.double().mean())


def excess(clean: Tensor, margin: Tensor) -> Tensor:
    """h of m(0) and m(ε); a bound that is lost counts as e^FAR times too wide, one that has hardly moved as e^−7."""
    fallen = torch.where(torch.isfinite(margin), (clean - margin) / clean, math.exp(FAR))
    return fallen.clamp(min=1e-3).log()


def limit(margins: Margins) -> float:
    """The radius of a ball that holds all of [0, 1]^D from any of its points: 1 in l∞, √D in l2."""
    return 1.0 if margins.metric.norm == "linf" else float(margins.x[0].numel() ** 0.5)


def optional(state: Mapping[str, Any], name: str) -> float | None:
    """A number of a state, or None."""
    return None if state[name] is None else float(state[name])
