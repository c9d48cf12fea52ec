"""The certified bound read as a radius: the largest ball that the bounds prove."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.nas.metrics.certified import Certified, Margins, RootSearch, excess, limit, optional
from certnas.nas.metrics.metric import Session, State, at_least, positive
from certnas.nas.metrics.traced import Traced

SHALLOWEST = 0.1
"""The least slope of h over log ε."""


@dataclass(frozen=True, kw_only=True)
class CertifiedRadius(Certified):
    """R = mean over the images that are classified right of log ε_i*, m_i(ε_i*) = 0, in log pixels.

    m_i(ε) = min over j ≠ y of a lower bound of f_y − f_j on the ball of radius ε round x_i, so that ε_i* is what
    certifying by this method reports.  In

        h_i(log ε) = log((m_i(0) − m_i(ε)) / m_i(0)),

    which is 0 at the root, log ε* = log ε − h/s and ∂log ε*/∂θ = −(∂h/∂θ)/s at every ε, for an affine network: its
    slope s = ∂h/∂log ε is 1. Interval bounds of deep networks are so wide that their ε* lies where hardly a unit
    changes its sign, and they multiply beyond it too: on a supernet of three cells s is 0.9 to 1.1 from ε = 10⁻²⁰ to
    10⁻³.  It knows no unit of logits or pixels, so one γ serves networks of any depth and bound.

    evaluations: of the bounds in each step, the last one with derivatives, at the ε that the batch before predicts
    and those before it improve; s is taken for 1.  An ε* below `resolution` is read on that line from there: an
    untrained supernet of eight cells has log ε* near −144.  By `ibp` the derivative is without the spikes of units on
    their kink (`hardest.steadied`).  0: as many as bring |h| below `tol`, with each image's own s, which is the
    implicit function theorem's ∂m/∂θ / (ε*·|∂m/∂ε|) at ε*, spikes included.  On a small supernet one evaluation is
    within 0.015 of that log ε*, and the mean derivatives of twelve batches have the cosine 0.91 (0.994 with the
    derivative at the root but without spikes).  first: where the first batch's search starts, in pixels.

    An image classified wrong (ε* = 0) is left out of the mean, and so is one whose bound is not finite; one proved on
    the whole box adds a constant.  The derivative of an image hardly right, m(0) below `floor` times the batch's mean,
    is damped in proportion; it would outweigh all other images.
    """

    evaluations: int = 1
    tol: float = 0.01
    floor: float = 0.1
    first: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("evaluations", self.evaluations, 0)
        positive("tol", self.tol)
        at_least("floor", self.floor, 0)
        positive("first", self.first)

    @property
    def precision(self) -> torch.dtype:
        narrow = self.dtype == "auto" and self.norm == "linf" and self.method == "ibp"
        return torch.float32 if narrow else super().precision

    def session(self) -> Session:
        return _Radii(self)


class _Radii(Session):
    def __init__(self, metric: CertifiedRadius) -> None:
        super().__init__()
        self.metric = metric
        self.traced = Traced(metric.bn, metric.keep_none)
        self.search = RootSearch(metric.first)

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        metric = self.metric
        bound = self.traced.bind(network, x, metric.precision)
        some, y = metric.some(x, y)
        rows = bounds.margins(y, bound.graph.output_shape[0], dtype=bound.dtype)
        margins = Margins(metric, bound, some, rows)
        image = (margins.clean > 0).nonzero().flatten()
        self.figures = {"images": float(len(image))}
        if len(image) == 0:
            return x.new_zeros(())
        if metric.evaluations:
            radius = self.search(margins, image, steps=metric.evaluations - 1)
        else:
            radius = self.search(margins, image, tol=metric.tol)
        value = self._log_radius(margins, radius, image)
        if value is None:
            self.figures["images"] = 0.0
            return x.new_zeros(())
        self.figures |= {
            "evaluations": self.search.evaluations + 1.0,
            "log_radius": float(value.detach()),
            "radius": float(value.detach().exp()),
        }
        return value.to(x.dtype)

    def _log_radius(self, margins: Margins, radius: Tensor, image: Tensor) -> Tensor | None:
        """The mean of log ε*, its derivative as the docstring of the metric says; None where no bound is finite."""
        clean, exact = margins.clean[image], self.metric.evaluations == 0
        eps = radius.to(clean.dtype).requires_grad_(exact)
        margin = margins.least(eps, image, steady=not exact)
        kept = torch.isfinite(margin)
        if not bool(kept.all()):  # an infinite bound would spoil every derivative
            return self._log_radius(margins, radius[kept], image[kept]) if bool(kept.any()) else None
        slope = torch.ones_like(radius)
        if exact:
            (fall,) = torch.autograd.grad(margin.sum(), eps, retain_graph=True)
            slope = (eps * fall / (margin - clean)).detach().double().clamp(min=SHALLOWEST)
        proved = (radius >= limit(margins)) & (margin > 0)
        found = torch.where(proved, radius.log(), radius.log() - excess(clean, margin) / slope)
        self.search.learn(clean.detach().log() - found.detach())
        self.figures |= {"images": float(len(image)), "slope": float(slope.mean())}
        least = self.metric.floor * clean.detach().mean()
        weight = (clean.detach() / least).clamp(max=1) if self.metric.floor else torch.ones_like(clean)
        return _damped(found, weight).mean()

    def state_dict(self) -> State:
        return {"log_gain": self.search.log_gain}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.search.log_gain = optional(state, "log_gain")


def _damped(value: Tensor, weight: Tensor) -> Tensor:
    """`value`, with its derivative times `weight`."""
    return value.detach() + weight * (value - value.detach())
