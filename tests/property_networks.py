"""Small networks and properties of them, for the tests of verification."""

import itertools
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from certnas.verifier import Box, Constraint, Property, Verdict, network_of
from certnas.verifier import verify as verify_network


def dense(seed: int, *sizes: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1]).double().eval().requires_grad_(False)


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 2)).double().eval().requires_grad_(False)


def pooled(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def verify(network: nn.Module, prop: Property, shape: tuple[int, ...], **options: Any) -> Verdict:
    return verify_network(network_of(network, shape), prop, **options)


def ball(x: Tensor, eps: float) -> Box:
    return Box(
        tuple((Fraction(v) - Fraction(eps), Fraction(v) + Fraction(eps)) for v in x.flatten().tolist())
    )


def below(row: Tensor, bound: float) -> Constraint:
    return Constraint(tuple((j, Fraction(v)) for j, v in enumerate(row.tolist()) if v), Fraction(bound))


def least(network: nn.Module, box: Box, shape: tuple[int, ...], count: int = 20_000) -> Tensor:
    """Outputs at many points of the box, and at its corners where they are few."""
    low, high = (torch.from_numpy(side) for side in box.outward)
    way = torch.rand(count, len(low), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = low + (high - low) * torch.cat([way, way[:2000].round()])
    with torch.no_grad():
        return network(points.reshape(-1, *shape))
