"""Compares the checker's network with the model that it was read from, at points of a certificate's area."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from certnas import bounds
from certnas.checker import Certificate, CheckedNetwork, Rejected, evaluate

FAITHFUL, ROUGH = 1e-9, 1e-4
"""The accepted relative difference of outputs: in float64, and for a model that computes only in float32."""
POINTS = 8
"""The number of corners, and of random points, of each area."""


def same(network: CheckedNetwork, model: nn.Module, certificate: Certificate) -> None:
    """Raises Rejected, naming the point, if network and model differ on the certificate's area.

    Both are evaluated at the image, and at corners and random points of its ball, one input at a time. The model is
    also evaluated with gradients recorded.
    """
    double = copy.deepcopy(model).double().eval()
    for name, point in points(certificate):
        found = evaluate(network, point)
        for recorded in (False, True):
            given, tolerance = _outputs(double, model, point, recorded)
            slack = tolerance * (1 + np.abs(given).max(initial=0))
            if given.shape != found.shape or not (np.abs(given - found) <= slack).all():
                off = np.abs(given - found).max() if given.shape == found.shape else np.inf
                where = f"{name}, where gradients are recorded," if recorded else name
                raise Rejected(
                    f"at {where} the network that was read from the model differs from the model by {off:.3g}"
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


def _outputs(
    double: nn.Module, model: nn.Module, point: np.ndarray, recorded: bool
) -> tuple[np.ndarray, float]:
    """The model's outputs at a point, and their tolerance; in float64 if the model can compute in it.

    recorded: whether to record gradients, if the model can be run with them.
    """
    x = torch.from_numpy(point)[None]
    for made, tolerance, own in ((double, FAITHFUL, x), (model, ROUGH, x.float())):
        for mode in (recorded, False):
            try:
                with torch.set_grad_enabled(mode):
                    return made(own.clone().requires_grad_(mode) * 1)[0].detach().double().numpy(), tolerance
            except RuntimeError:
                continue
    with torch.no_grad():
        return model(x.float())[0].double().numpy(), ROUGH
