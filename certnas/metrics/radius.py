"""The certified bound read as a radius: the largest ball that the bounds prove."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import bounds
from certnas.metrics.certified import DTYPES, Certified, Margins, RadiusSearch, limit, optional
from certnas.metrics.metric import Session, State, at_least, positive
from certnas.metrics.traced import Traced


@dataclass(frozen=True, kw_only=True)
class CertifiedRadius(Certified):
    """R = mean over the images that are classified right of log ε_i*, m_i(ε_i*) = 0, in log pixels.

    m_i(ε) = min over j ≠ y of a lower bound of f_y − f_j on the ball of radius ε round x_i, so that ε_i* is what
    certifying by this method reports.  By the implicit function theorem

        ∂log ε*/∂θ = (∂m/∂θ) / (ε*·|∂m/∂ε|)  at ε*,

    which knows no unit of logits or pixels, so one γ serves networks of any depth and bound. The denominator is a
    constant of the derivative and no less than `floor` times the batch's mean m(0): images hardly right, or
    margins that hardly fall, would outweigh all others. Images classified wrong (ε* = 0), and those without a
    proof, are left out of the mean; one proved on the whole box adds a constant. The root is searched without
    derivatives to a relative tolerance `tol`, the value corrected by one Newton step.  first: where the first
    batch's search starts, in pixels; later ones start from the batch before.
    """

    tol: float = 0.05
    floor: float = 0.1
    first: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("tol", self.tol)
        at_least("floor", self.floor, 0)
        positive("first", self.first)

    def session(self) -> Session:
        return _Radii(self)


class _Radii(Session):
    def __init__(self, metric: CertifiedRadius) -> None:
        super().__init__()
        self.metric = metric
        self.traced = Traced(metric.bn, metric.keep_none)
        self.search = RadiusSearch(metric.first, metric.tol)

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        bound = self.traced.bind(network, x, DTYPES[self.metric.dtype])
        x, y = self.metric.some(x, y)
        rows = bounds.margins(y, bound.graph.output_shape[0], dtype=bound.dtype)
        margins = Margins(self.metric, bound, x, rows)
        radius = self.search(margins)
        image = (radius > 0).nonzero().flatten()
        self.figures = {"images": float(len(image)), "evaluations": self.search.evaluations}
        if len(image) == 0:
            return x.new_zeros(())
        value = self._log_radius(margins, radius[image].to(bound.dtype), image)
        self.figures["radius"] = float(value.detach().exp())
        return value.to(x.dtype)

    def _log_radius(self, margins: Margins, radius: Tensor, image: Tensor) -> Tensor:
        """The mean of log ε*, its derivative as the docstring of the metric says."""
        eps = radius.clone().requires_grad_()
        margin = margins.least(eps, image)
        (slope,) = torch.autograd.grad(margin.sum(), eps, retain_graph=True)
        clean = margins.clean[image]
        fall = torch.maximum(radius * slope.abs(), self.metric.floor * clean.mean())
        rooted = (radius < limit(margins)) & (fall > 0) & torch.isfinite(fall)
        newton = torch.where(rooted, margin / torch.where(rooted, fall, 1), 0)
        return (radius.log() + newton).mean()

    def state_dict(self) -> State:
        return {"log_gain": self.search.log_gain}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.search.log_gain = optional(state, "log_gain")
