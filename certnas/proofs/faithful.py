"""The checker's network against the model that it was read from, by values at points of a certificate's area."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from certnas import bounds
from certnas.checker import Certificate, Network, Rejected, evaluate

FAITHFUL, ROUGH = 1e-9, 1e-4
"""How far outputs may differ, as a share of their size: in float64, and of a model that computes in float32 alone."""
POINTS = 8
"""Corners, and random points, of each area."""


def same(network: Network, model: nn.Module, certificate: Certificate) -> None:
    """Raises Rejected, naming the input, where the checker's network is not the model on the certificate's area.

    Both are evaluated on the image, and on corners and random points of its ball, one input at a time.
    """
    double = copy.deepcopy(model).double().eval()
    for name, point in points(certificate):
        found = evaluate(network, point)
        given, tolerance = _outputs(double, model, point)
        slack = tolerance * (1 + np.abs(given).max(initial=0))
        if given.shape != found.shape or not (np.abs(given - found) <= slack).all():
            off = np.abs(given - found).max() if given.shape == found.shape else np.inf
            raise Rejected(
                f"at {name} the network that was read from the model differs from the model by {off:.3g}"
            )


def points(certificate: Certificate) -> Iterator[tuple[str, np.ndarray]]:
    """The image, corners of its area, and random points of it, with their names.  [*shape] each"""
    x, (low, high) = certificate.x, certificate.box
    yield "its image", x
    rng = np.random.default_rng(0)
    for number in range(POINTS):
        yield (
            f"corner {number} of its ball",
            _inside(certificate, np.where(rng.random(x.shape) < 0.5, low, high)),
        )
    for number in range(POINTS):
        inner = low + rng.random(x.shape) * (high - low)
        yield f"random point {number} of its ball", _inside(certificate, inner)


def _inside(certificate: Certificate, point: np.ndarray) -> np.ndarray:
    """A point of the box, moved towards the image until it is in the ball."""
    far = np.linalg.norm((point - certificate.x).reshape(-1), bounds.NORMS[certificate.norm].p)
    return certificate.x + (point - certificate.x) * min(1.0, certificate.eps / far if far else 1.0)


def _outputs(double: nn.Module, model: nn.Module, point: np.ndarray) -> tuple[np.ndarray, float]:
    """The model's outputs at a point, and how exact they are: in float64 where it can compute in that."""
    with torch.no_grad():
        try:
            return double(torch.from_numpy(point)[None])[0].double().numpy(), FAITHFUL
        except RuntimeError:
            return model(torch.from_numpy(point)[None].float())[0].double().numpy(), ROUGH
