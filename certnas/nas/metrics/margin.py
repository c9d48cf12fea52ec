"""The certified bound read as a bound at a given radius: of the label's logit, or of the least margin."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.errors import UserError
from certnas.nas.metrics.certified import Certified, Margins, RootSearch, limit, optional
from certnas.nas.metrics.metric import Session, State, at_least, one_of, positive
from certnas.nas.metrics.traced import Traced

ROOT = 0.05
ADAPTIVE = ("step", "eps_min", "eps_max", "width")


@dataclass(frozen=True, kw_only=True)
class CertifiedBound(Certified):
    """R = (1/N) Σ_i min_j of a lower bound of row j of f on the ball of radius ε round x_i, in logits.

    schedule:

    * `fixed`: ε = eps, in [0, 1] pixels, throughout.
    * `adaptive`: DSRNA's "linearly increased or decreased based on the global difference between the certified
      upper bound and lower bound", whose constants it does not give.  ε_0 = eps and

          ε_{t+1} = clip(ε_t·(1 ± step), eps_min, eps_max),  + where w_t ≤ width, − where w_t > width,

      w_t the mean over the images of upper minus lower bound of the row that counts, in logits.
    * `radius`: for each image the ε at which this R's own bound of it vanishes (to a twentieth of the image's margin;
      0 where the image itself fails), a constant of the derivative; eps is where the first batch's search starts.

    ε should follow the network: bounds grow exponentially with depth, so at a fixed ε a deep supernet's R is huge
    and drives the search to cells without parameters.
    """

    eps: float = 0.03
    schedule: str = "fixed"
    step: float = 0.05
    eps_min: float = 1e-12
    eps_max: float = 0.1
    width: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("eps", self.eps, 0)
        one_of("schedule", self.schedule, ("fixed", "adaptive", "radius"))
        if self.schedule == "adaptive":
            positive("step", self.step)
            positive("eps_min", self.eps_min)
            at_least("eps_max", self.eps_max, self.eps_min)
            positive("width", self.width)
        else:
            if self.schedule == "radius":
                positive("eps", self.eps)
            changed = [
                f.name for f in fields(self) if f.name in ADAPTIVE and getattr(self, f.name) != f.default
            ]
            if changed:
                raise UserError(
                    f"metric: {changed[0]} is of the adaptive schedule; schedule is {self.schedule!r}"
                )

    @abstractmethod
    def bounded_rows(self, y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """The rows of which the least counts.  [N,S,K]"""

    def session(self) -> Session:
        return _Bounds(self)


@dataclass(frozen=True, kw_only=True)
class CertifiedMargin(CertifiedBound):
    """The rows are the margins f_y − f_j over the other classes j: R > 0 for an image proves its label."""

    def bounded_rows(self, y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        return bounds.margins(y, classes, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class CertifiedLower(CertifiedBound):
    """The one row is the label's logit f_y, the most literal reading of DSRNA's "global lower bound"."""

    def bounded_rows(self, y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        return torch.eye(classes, dtype=dtype, device=y.device)[y].unsqueeze(1)


class _Bounds(Session):
    def __init__(self, metric: CertifiedBound) -> None:
        super().__init__()
        self.metric = metric
        self.traced = Traced(metric.bn, metric.keep_none)
        self.eps = metric.eps
        self.search = RootSearch(metric.eps)

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        bound = self.traced.bind(network, x, self.metric.precision)
        x, y = self.metric.some(x, y)
        rows = self.metric.bounded_rows(y, bound.graph.output_shape[0], bound.dtype)
        margins = Margins(self.metric, bound, x, rows)
        everything = torch.arange(len(x), device=x.device)
        if self.metric.schedule == "radius":
            eps = self._roots(margins)
        else:
            eps = torch.full((len(x),), min(self.eps, limit(margins)), device=x.device).double()
        lower = margins.least(eps, everything)
        self.figures = {"eps": float(eps.mean())}
        if self.metric.schedule == "adaptive":
            self._adapt(margins, eps, everything)
        return lower.mean().to(x.dtype)

    def _roots(self, margins: Margins) -> Tensor:
        """ε at which the bound vanishes; 0 where the image itself fails.  [N]"""
        eps = torch.zeros(len(margins.x), dtype=torch.float64, device=margins.x.device)
        right = (margins.clean > 0).nonzero().flatten()
        if len(right):
            eps[right] = self.search(margins, right, tol=ROOT)
            self.search.learn(margins.clean[right].detach().log() - eps[right].log())
        return eps

    def _adapt(self, margins: Margins, eps: Tensor, image: Tensor) -> None:
        """The next step's ε from this one's width of the row that counts."""
        metric, row = self.metric, margins.hardest(eps, image)
        with torch.no_grad():
            both = margins.lower(eps, image, torch.cat([row, -row], 1), metric.bound_method())
        width = float(-both.sum(1).mean())
        grown = self.eps * (1 + metric.step if width <= metric.width else 1 - metric.step)
        self.eps = min(max(grown, metric.eps_min), metric.eps_max)
        self.figures["width"] = width

    def state_dict(self) -> State:
        return {"eps": self.eps, "log_gain": self.search.log_gain}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.eps = float(state["eps"])
        self.search.log_gain = optional(state, "log_gain")
