"""The reading `radius` of `cb`: the certified radius."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.nas.metrics.certified import CertifiedMetric, Margins, RootSearch, excess, limit, optional
from certnas.nas.metrics.metric import Session, State, at_least, positive
from certnas.nas.metrics.traced import Traced

SHALLOWEST = 0.1
"""The smallest slope of h over log ε that a step uses."""


@dataclass(frozen=True, kw_only=True)
class CertifiedRadius(CertifiedMetric):
    """R = mean of log ε_i* over the correctly classified images, in log pixels; ε_i* is the certified radius.

    Let m_i(ε) be the minimum over j ≠ y of a lower bound of f_y − f_j on the ball of radius ε around x_i.
    The certified radius is the root m_i(ε_i*) = 0, which is the radius that certification by the same
    method reports. With

        h_i(log ε) = log((m_i(0) − m_i(ε)) / m_i(0)),

    which is 0 at the root, an affine network satisfies log ε* = log ε − h/s and ∂log ε*/∂θ = −(∂h/∂θ)/s at
    every ε, because its slope s = ∂h/∂log ε is 1. Interval bounds of deep networks are so wide that ε* lies
    where hardly any unit changes its sign; beyond it the bounds multiply too. On a supernet of three cells
    s lies between 0.9 and 1.1 from ε = 10⁻²⁰ to 10⁻³. The derivative does not depend on the unit of the
    logits or pixels, so one γ serves networks of any depth and any bound method.

    Images without a finite log ε* do not count: misclassified ones (ε* = 0) and ones whose bound is not
    finite. An image that is proved on the whole box adds a constant. If an ε* lies below `resolution`, it
    is extrapolated along the line: an untrained supernet of eight cells has log ε* near −144.
    """

    evaluations: int = 1
    """Number of bound evaluations per step. The last one has derivatives (0: as many as |h| ≤ `tol` needs).

    With a positive number, the radius comes from the previous batch's estimate, improved by all evaluations
    but the last, and s is 1; by `ibp` the derivative is free of spikes (see `hardest.without_spikes`). With 0, s
    is measured per image, and the derivative is the implicit function theorem's ∂m/∂θ / (ε*·|∂m/∂ε|) at ε*,
    spikes included. On a small supernet one evaluation gives log ε* within 0.015 of that value; the mean
    derivatives of twelve batches have cosine 0.91 (0.994 against the derivative at the root without
    spikes).
    """
    tol: float = 0.01
    """Tolerance on |h| for evaluations = 0."""
    floor: float = 0.1
    """Clean margin, relative to the batch's mean, below which an image's derivative is damped in
    proportion. Such an image would otherwise outweigh all others.
    """
    first: float = 1e-3
    """Radius at which the search of the first batch starts, in [0, 1] pixels."""

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
        selected, y = metric.selected(x, y)
        rows = bounds.margins(y, bound.graph.output_shape[0], dtype=bound.dtype)
        margins = Margins(metric, bound, selected, rows)
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
        """The mean of log ε* with the derivative that `CertifiedRadius` describes; None if no bound is finite."""
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
    """`value`, with its derivative multiplied by `weight`."""
    return value.detach() + weight * (value - value.detach())
