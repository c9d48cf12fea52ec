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

SHALLOWEST = 0.1
"""The least ε*·|∂m/∂ε| in units of m(0)."""


@dataclass(frozen=True, kw_only=True)
class CertifiedRadius(Certified):
    """R = mean over the images that are classified right of log ε_i*, m_i(ε_i*) = 0, in log pixels.

    m_i(ε) = min over j ≠ y of a lower bound of f_y − f_j on the ball of radius ε round x_i, so that ε_i* is what
    certifying by this method reports.  By the implicit function theorem

        ∂log ε*/∂θ = (∂m/∂θ) / (ε*·|∂m/∂ε|)  at ε*,

    which knows no unit of logits or pixels, so one γ serves networks of any depth and bound.  The denominator is a
    constant of the derivative.  The root is searched without derivatives to a relative tolerance `tol`, then
    corrected by one Newton step.  first: where the first batch's search starts, in pixels; later ones start from
    the batch before.

    What is no such root: an image classified wrong (ε* = 0) is left out of the mean. One proved on the whole box
    adds a constant. Where the bound is still negative at the least radius ε₀ that the arithmetic resolves, as deep
    supernets' interval bounds are, the root is taken on the line of slope 1 of log(m(0) − m(ε)) over log ε, that of
    an affine network:  log ε* = log ε₀ − log((m(0) − m(ε₀)) / m(0)), differentiated as it stands.  The derivative
    of an image hardly right, m(0) below `floor` times the batch's mean, is damped in proportion, and ε*·|∂m/∂ε| is
    no less than a tenth of m(0) (an affine network's is m(0)); either would outweigh all other images.
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
        short = margin.detach() <= 0
        fall = torch.maximum(radius * slope.abs(), SHALLOWEST * clean)
        rise = torch.where(short, 0, margin / fall)
        if bool(short.any()):
            point = margins.clean_margin(image)
            ratio = torch.where(short, (point - margin) / point, 1)
            rise = torch.where(short, -ratio.log(), rise)
        self.figures["short"] = float(short.sum())
        least = self.metric.floor * clean.mean()
        weight = torch.where(clean < least, clean / least, 1) * (radius < limit(margins))
        return (radius.log() + _damped(rise, weight)).mean()

    def state_dict(self) -> State:
        return {"log_gain": self.search.log_gain}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.search.log_gain = optional(state, "log_gain")


def _damped(value: Tensor, weight: Tensor) -> Tensor:
    """`value`, with its derivative times `weight`; a weight of 0 takes the value out too."""
    return torch.where(weight > 0, value.detach() + weight * (value - value.detach()), 0)
