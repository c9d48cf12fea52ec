"""Computes the least margin of each image, and lower bounds of it over the image's ball."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.certifier.request import Box
from certnas.faithful import Faithful, dtype_of, not_evaluated, points_about


@dataclass(frozen=True)
class Prover:
    """A traced network with a bound method and a region; `about` sets the images and their margins."""

    single: bounds.Network
    """The network in float32."""
    double: bounds.Network
    """The network in float64."""
    method: bounds.Method
    """The bound method."""
    norm: type[bounds.Region]
    """The kind of ball."""
    clip: Box | None
    """The lower and upper limit of every input; None for no box."""
    memory: int | None
    """The budget of one pass of bounds, in bytes."""
    x: Tensor
    """The images, [N, *shape]."""
    rows: Tensor
    """The specification of each image: one row per margin, [N, S, K]."""
    faithful: Faithful
    """Compares the trace with the model."""

    def check(self, x: Tensor, eps_max: float | None) -> None:
        """Raises UserError if trace and model differ at images x [N, *shape] or at points of their balls."""
        end = search_end(x, self.norm, self.clip, eps_max)
        self.faithful.check(points_about(x, self.norm.p, end, self.clip))

    def about(self, x: Tensor, y: Tensor, target: Tensor | None, classes: int) -> "Prover":
        """The same prover for images x [N, *shape] of labels y [N], against target [N], or all classes where it is
        None.
        """
        rows = bounds.margins(y, classes) if target is None else bounds.targeted(y, target, classes)
        return replace(self, x=x, rows=rows.to(x.device, torch.float64))

    def logits(self, x: Tensor) -> Tensor:
        """f(x) in float64, [N, K]."""
        with torch.no_grad():
            return self.double(x.double())

    def margin(self, x: Tensor) -> Tensor:
        """The least margin at x [N, *shape], in float64.  [N]"""
        return (self.rows @ self.logits(x).unsqueeze(-1)).squeeze(-1).amin(1)

    def lower_margin(self, eps: Tensor, image: Tensor, dtype: torch.dtype) -> Tensor:
        """A lower bound [M] of the least margin over the balls of radius eps [M] around `image` [M]."""
        network = self.single if dtype == torch.float32 else self.double
        region = self._region(self.x[image].to(dtype), eps.to(dtype))
        with torch.no_grad():
            lower = bounds.lower_bounds(
                network, region, self.rows[image].to(dtype), self.method, memory=self.memory
            )
        return lower.amin(1)

    def linearised(self) -> tuple[Tensor, Tensor]:
        """The margin m [N] of each image, and the radius [N] at which its linearisation at x reaches 0.  float64

        The radius is m / max {−⟨∇m, x' − x⟩ : ‖x' − x‖ ≤ 1}. It is exact for an affine network without a box.
        """
        if not len(self.x):
            empty = torch.zeros(0, dtype=torch.float64, device=self.x.device)
            return empty, empty
        x = self.x.double()
        with torch.enable_grad():
            point = x.clone().requires_grad_(True)
            margin = (self.rows @ self.double(point).unsqueeze(-1)).squeeze(-1).amin(1)
            (slope,) = torch.autograd.grad(margin.sum(), point)
        slope = slope.unsqueeze(1)
        at_x = (slope * x.unsqueeze(1)).flatten(2).sum(-1)
        fall = (at_x - self.norm(x, 1.0).minimum(slope)).squeeze(1)
        return margin.detach(), margin.detach() / fall

    def end(self, eps_max: float | None) -> Tensor:
        """Where the search for each radius ends, [N]."""
        return search_end(self.x, self.norm, self.clip, eps_max)

    def _region(self, x: Tensor, eps: Tensor) -> bounds.Region:
        if self.clip is None:
            return self.norm(x, eps)
        return self.norm(x, eps, lower=self.clip[0], upper=self.clip[1])


def search_end(x: Tensor, norm: type[bounds.Region], clip: Box | None, eps_max: float | None) -> Tensor:
    """Where the search for the radius of each image x [N, *shape] ends: at eps_max, or where the ball contains the
    box.  [N]

    The result is infinite if there is neither eps_max nor a box.
    """
    if clip is None:
        end = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    else:
        reach = torch.maximum(x.double() - clip[0], clip[1] - x.double())
        end = torch.linalg.vector_norm(reach.flatten(1), norm.p, dim=1)
    return end if eps_max is None else end.clamp(max=eps_max)


def prover(
    model: nn.Module,
    x: Tensor,
    method: bounds.Method,
    norm: type[bounds.Region],
    clip: Box | None,
    memory: int | None,
) -> Prover:
    """Traces the model on images like x [N, *shape], and binds it in float32 and float64.

    Raises UserError if the model cannot be evaluated on x, bounds.ConstantOutput if its output does not depend on the
    input, and bounds.UnsupportedOp for an operator without a rule.
    """
    example = x[:1].to(dtype_of(model, x.dtype))
    try:
        with torch.no_grad():
            model(example.clone())
    except Exception as error:  # a user's module may raise anything
        raise not_evaluated(x, error) from error
    graph = bounds.trace(model, example)
    bounds.check(graph)
    networks = [graph.bind(dtype=d, device=x.device) for d in (torch.float32, torch.float64)]
    nothing = torch.zeros(0, device=x.device)
    faithful = Faithful(model, graph, x.device)
    return Prover(networks[0], networks[1], method, norm, clip, memory, nothing, nothing, faithful)
