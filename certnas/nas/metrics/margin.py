"""The readings `margin` and `lower` of `cb`: lower bounds at a given radius."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.errors import UserError
from certnas.nas.metrics.certified import CertifiedMetric, Margins, RootSearch, limit, optional
from certnas.nas.metrics.metric import Session, State, at_least, one_of, positive
from certnas.nas.metrics.traced import Traced

ROOT = 0.05
"""Tolerance of the schedule `radius`, on |h| (see `RootSearch`)."""
ADAPTIVE = ("step", "eps_min", "eps_max", "width")
"""Settings of the schedule `adaptive`."""


@dataclass(frozen=True, kw_only=True)
class CertifiedBound(CertifiedMetric):
    """R = (1/N) Σ_i min_j (lower bound of specification row j of f over the ball of radius ε around x_i), in logits.

    The setting `schedule` determines ε:

    * `fixed`: ε = eps throughout.
    * `adaptive`: DSRNA's "linearly increased or decreased based on the global difference between the certified
      upper bound and lower bound".  The paper gives no constants.  ε_0 = eps and

          ε_{t+1} = clip(ε_t·(1 ± step), eps_min, eps_max),  + if w_t ≤ width, − if w_t > width,

      where w_t is the mean over the images of (upper − lower bound) of the hardest row, in logits.
    * `radius`: ε of an image is the root of its own bound, up to a twentieth of the image's clean margin, and 0 if the
      image is misclassified.  ε is a constant of the derivative; the search of the first batch starts at eps.

    ε should follow the network. Bounds grow exponentially with depth, so R of a deep supernet is huge at a
    fixed ε and drives the search to cells without parameters.
    """

    eps: float = 0.03
    """Radius, or the initial radius of the schedule, in [0, 1] pixels."""
    schedule: str = "fixed"
    """`fixed`, `adaptive` or `radius`."""
    step: float = 0.05
    """Relative change of ε per step of the schedule `adaptive`."""
    eps_min: float = 1e-12
    """Smallest ε of the schedule `adaptive`, in pixels."""
    eps_max: float = 0.1
    """Largest ε of the schedule `adaptive`, in pixels."""
    width: float = 2.0
    """Target width w of the schedule `adaptive`, in logits."""

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
                    f"metric: {changed[0]} is a setting of the adaptive schedule; schedule is {self.schedule!r}"
                )

    @abstractmethod
    def bounded_rows(self, y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """The specification rows; the smallest bound counts. [N,S,K]"""

    def session(self) -> Session:
        return _Bounds(self)


@dataclass(frozen=True, kw_only=True)
class CertifiedMargin(CertifiedBound):
    """The specification rows are the margins f_y − f_j over the other classes j.

    R > 0 for an image proves its label.
    """

    def bounded_rows(self, y: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        return bounds.margins(y, classes, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class CertifiedLower(CertifiedBound):
    """The only specification row is the label's logit f_y, the most literal reading of DSRNA's "global lower bound"."""

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
        x, y = self.metric.selected(x, y)
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
        """The ε at which each image's bound reaches 0; 0 for a misclassified image. [N]"""
        eps = torch.zeros(len(margins.x), dtype=torch.float64, device=margins.x.device)
        right = (margins.clean > 0).nonzero().flatten()
        if len(right):
            eps[right] = self.search(margins, right, tol=ROOT)
            self.search.learn(margins.clean[right].detach().log() - eps[right].log())
        return eps

    def _adapt(self, margins: Margins, eps: Tensor, image: Tensor) -> None:
        """Set the next step's ε from the width of the hardest row in this step."""
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
