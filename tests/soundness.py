"""The check that no point of a region leaves a bound, and the regions that it is made on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from operators import Operator
from oracles import Norm, descend_region, sample_region
from torch import Tensor, nn

import bounds
from bounds.region import Region

CLASSES = 3
REGIONS = {"linf": bounds.Linf, "l2": bounds.L2, "l1": bounds.L1}
EPS: dict[Norm, float] = {"linf": 0.15, "l2": 0.4, "l1": 0.8}
METHODS: dict[str, bounds.Method] = {**bounds.METHODS, "alpha-crown": bounds.AlphaCrown(iterations=2)}


@dataclass(frozen=True)
class Ball:
    """A region by its parts, as the oracles take it."""

    norm: Norm
    x: Tensor
    eps: float
    box: tuple[float, float] | None = None

    @property
    def sides(self) -> tuple[float | None, float | None]:
        return self.box or (None, None)

    def region(self) -> Region:
        return REGIONS[self.norm](self.x, self.eps, *self.sides)


def balls(x: Tensor, scale: float = 1.0) -> Iterator[Ball]:
    """Every norm with and without the box [−1, 1]; x lies in it."""
    for norm, eps in EPS.items():
        yield Ball(norm, x, eps * scale)
        yield Ball(norm, x, eps * scale, (-1.0, 1.0))


def points(ball: Ball, model: Callable[[Tensor], Tensor], count: int = 400) -> Tensor:
    """Sampled points and corners, and those on the way to each output's minimum and maximum. [M, N, *shape]"""
    generator = torch.Generator().manual_seed(0)
    found = [sample_region(ball.x, ball.eps, ball.norm, *ball.sides, count=count, generator=generator)]
    for row in torch.cat([torch.eye(CLASSES), -torch.eye(CLASSES)]).double():
        found.append(descend_region(model, row, ball.x, ball.eps, ball.norm, *ball.sides, steps=5))
    return torch.cat(found)


def values(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """model at points [M, N, *shape]: [M, N, K]."""
    with torch.no_grad():
        return model(x.flatten(0, 1)).reshape(*x.shape[:2], -1)


def output_bounds(network: bounds.Network, region: Region, method: bounds.Method) -> bounds.Interval:
    return bounds.output_bounds(network, region, method).detach()


def violation(found: bounds.Interval, outputs: Tensor) -> float:
    """How far outputs [M, N, K] leave the bounds, relative to width and scale; at most rounding where sound."""
    scale = (found.upper - found.lower).abs() + outputs.abs().amax(0) + 1
    outside = torch.maximum(found.lower - outputs, outputs - found.upper) / scale
    return float(outside.nan_to_num(nan=torch.inf).max())


def at_the_input(operator: Operator) -> nn.Module:
    """operator, head."""
    torch.manual_seed(1)
    return nn.Sequential(operator.build(), nn.Flatten(), nn.LazyLinear(CLASSES))


def twice(operator: Operator) -> nn.Module:
    """Affine stem, operator, affine, operator, head: everything in between is mixed."""
    torch.manual_seed(2)
    size, shape = prod(operator.shape), operator.shape
    stem = nn.Linear(size, size)
    with torch.no_grad():
        stem.weight.mul_(2)
    return nn.Sequential(
        nn.Flatten(), stem, nn.Unflatten(1, shape),
        operator.build(), nn.Flatten(), nn.LazyLinear(size), nn.Unflatten(1, shape),
        operator.build(), nn.Flatten(), nn.LazyLinear(CLASSES),
    )  # fmt: skip


NETS = {"at the input": at_the_input, "twice": twice}


def ready(operator: Operator, net: str) -> nn.Module:
    """The network in float64 and eval mode, its lazy layers made."""
    model = NETS[net](operator).double().eval()
    with torch.no_grad():
        model(images(operator))
    return model


def images(operator: Operator, n: int = 2) -> Tensor:
    return torch.rand(n, *operator.shape, generator=torch.Generator().manual_seed(n)).double() * 2 - 1
