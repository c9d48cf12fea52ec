"""What the certified-bound metrics share: which bounds, of which rows, over which region."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import bounds
from certnas.certifier.radius import search_radii
from certnas.errors import UserError
from certnas.layout import laid_out
from certnas.metrics.evaluation import BN
from certnas.metrics.metric import Measured, at_least, one_of

DTYPES = {"float32": torch.float32, "float64": torch.float64}
RESOLUTION = {"float32": 1e-4, "float64": 1e-9}
"""Radii in pixels below which rounding in the centre of an interval would blur its width."""
NORMS: dict[str, type[bounds.Region]] = {"linf": bounds.Linf, "l2": bounds.L2}


@dataclass(frozen=True, kw_only=True)
class Certified(Measured, ABC):
    """Certified bounds of the network on a ball met with [0, 1]^D, after section 3.1.1 of DSRNA.

    bn: batch normalisation by the statistics of the `batch`, constants over the ball but not in the derivative in
    weights and α, or by the `running` ones, constants in both.  norm: `linf` or `l2`.  method: `ibp`, `crown-ibp`,
    or `zonotope`, whose forms keep the input's D elements and `errors` error symbols a layer.  images: the bounds
    are of the first so many images of the batch (0: all); batch statistics are always of all.  rows: `hardest`
    finds each image's least row without derivatives, then follows it alone; `all` follows every row; R is the same.
    dtype: of the bounds; those of a supernet reach zero at radii that single precision cannot resolve.
    keep_none: let mass on `none` shrink the bounds.
    """

    bn: str = "batch"
    norm: str = "linf"
    method: str = "ibp"
    errors: int = 0
    images: int = 0
    rows: str = "hardest"
    dtype: str = "float64"
    keep_none: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("bn", self.bn, BN)
        one_of("norm", self.norm, tuple(NORMS))
        one_of("method", self.method, ("ibp", "crown-ibp", "zonotope"))
        one_of("rows", self.rows, ("hardest", "all"))
        one_of("dtype", self.dtype, tuple(DTYPES))
        at_least("images", self.images, 0)
        at_least("errors", self.errors, 0)
        if self.errors and self.method != "zonotope":
            raise UserError(f"metric: errors are a zonotope's; method is {self.method!r}, give errors = 0")

    def bound_method(self) -> bounds.Method:
        if self.method == "zonotope":
            return bounds.Zonotope(self.errors)
        return bounds.IBP() if self.method == "ibp" else bounds.CrownIBP()

    def some(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The images whose bounds are taken."""
        return (x[: self.images], y[: self.images]) if self.images else (x, y)


class Margins:
    """Lower bounds of rows of one bound network on balls round images: x [n,C,H,W], rows [n,S,K]."""

    def __init__(self, metric: Certified, network: bounds.Network, x: Tensor, rows: Tensor) -> None:
        self.metric = metric
        self.network = network
        self.x = laid_out(x.detach().to(network.dtype))
        self.rows = rows
        with torch.no_grad():
            clean = torch.einsum("nsk,nk->ns", rows, network(self.x))
        self.clean = clean.amin(1)
        self.hardest = clean.argmin(1)

    def lower(self, eps: Tensor, image: Tensor, rows: Tensor) -> Tensor:
        """Bounds of rows [m,S,K] on the balls of radius eps [m] round some images [m].  [m,S]"""
        region = NORMS[self.metric.norm](self.x[image], eps.to(self.x), 0.0, 1.0)
        return bounds.lower_bounds(self.network, region, rows, self.metric.bound_method())

    def tried(self, eps: Tensor, image: Tensor, *, note: bool = False) -> Tensor:
        """The least of each image's rows, without derivatives; with `note`, or where it is positive, its row is noted.

        eps [m] of some images [m] -> [m]
        """
        with torch.no_grad():
            lower, row = self.lower(eps, image, self.rows[image]).min(1)
        self.hardest[image] = row if note else torch.where(lower > 0, row, self.hardest[image])
        return lower

    def noted(self, image: Tensor) -> Tensor:
        """The row noted as the hardest of each image.  [m,1,K]"""
        rows = self.rows[image]
        return rows.gather(1, self.hardest[image, None, None].expand(-1, 1, rows.shape[2]))

    def least(self, eps: Tensor, image: Tensor) -> Tensor:
        """The least of each image's rows with derivatives; with `rows` = hardest, the bound of the row noted.  [m]"""
        rows = self.noted(image) if self.metric.rows == "hardest" else self.rows[image]
        return self.lower(eps, image, rows).amin(1)

    def clean_margin(self, image: Tensor) -> Tensor:
        """The noted row of the image itself, with derivatives.  [m]"""
        return torch.einsum("nsk,nk->ns", self.noted(image), self.network(self.x[image])).squeeze(1)


class RadiusSearch:
    """The radii at which least margins reach zero; each batch starts where the last one's say.

    log_gain: the mean of log(m(0)/ε*) of the last batch, which varies less from image to image than ε* does.
    evaluations: bounds per image that the last search took.
    """

    def __init__(self, first: float, tol: float) -> None:
        self.first = first
        self.tol = tol
        self.log_gain: float | None = None
        self.evaluations = 0.0

    def __call__(self, margins: Margins) -> Tensor:
        """ε [n] float64: proved and within tol of the root of ε ↦ least margin, or at `limit`.

        0 where the image is classified wrong or its bound is not finite; where nothing is proved at the least radius
        that the arithmetic resolves, that.
        """
        clean, least = margins.clean.double(), RESOLUTION[margins.metric.dtype]
        radius = torch.zeros_like(clean)
        right = (clean > 0).nonzero().flatten()
        self.evaluations = float(len(right) > 0)
        if len(right) == 0:
            return radius
        lower = margins.tried(torch.full_like(clean[right], least), right, note=True)
        radius[right] = torch.where(torch.isfinite(lower), least, radius[right])
        proved = right[lower > 0]
        if len(proved) == 0:
            return radius
        start = torch.full_like(clean, self.first)
        if self.log_gain is not None:
            start = clean * torch.exp(torch.tensor(-self.log_gain, dtype=clean.dtype))
        found = search_radii(
            lambda eps, image: margins.tried(eps, proved[image]),
            clean[proved],
            start[proved].clamp(min=least),
            torch.full_like(clean[proved], limit(margins)),
            tol=self.tol,
        )
        radius[proved] = found.radius.clamp(min=least)
        self.evaluations += float(found.evaluations.double().mean())
        self.log_gain = float((clean / radius)[proved].log().mean())
        return radius


def limit(margins: Margins) -> float:
    """The radius of a ball that holds all of [0, 1]^D from any of its points: 1 in l∞, √D in l2."""
    return 1.0 if margins.metric.norm == "linf" else float(margins.x[0].numel() ** 0.5)


def optional(state: Mapping[str, Any], name: str) -> float | None:
    """A number of a state, or None."""
    return None if state[name] is None else float(state[name])
