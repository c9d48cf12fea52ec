"""A network small enough to check by hand, and certificates about it."""

import numpy as np

from certnas.checker import Certificate, CertificatePart, CheckedNetwork, ClaimedPlane, Planes, Refutation


def lines() -> tuple[CheckedNetwork, str, str]:
    """(a, b) = (x, −x) of one input, and y = relu(a) + relu(b) = |x|."""
    network = CheckedNetwork((1,))
    arrays = {"weight": np.array([[[1.0], [-1.0]]]), "bias": np.zeros((1, 2, 1))}
    both = network.add("linear", (network.input,), (2,), arrays)
    kinks = {"kinks": np.zeros(1), "slopes": np.array([0.0, 1.0]), "value": np.zeros(())}
    bent = network.add("piecewise", (both,), (2,), kinks)
    arrays = {"weight": np.ones((1, 1, 2)), "bias": np.zeros((1, 1, 1))}
    network.add("linear", (bent,), (1,), arrays)
    return network, both, bent


def claim(
    network: CheckedNetwork, parts: tuple[CertificatePart, ...], planes: dict[str, Planes], offset: float
) -> Certificate:
    """That y > offset where |x| ≤ 1."""
    box, rows = (-np.ones(1), np.ones(1)), np.ones((1, 1, 1))
    offsets = np.full((1, 1), offset)
    return Certificate(network.output, "linf", np.zeros(1), 1.0, box, rows, offsets, parts, planes, {})


def flat(bent: str, slope: float) -> tuple[dict[str, Planes], dict[str, str]]:
    """slope·z ≤ relu(z) ≤ 2 as planes."""
    lower = ClaimedPlane(np.full((1, 2), slope), np.zeros((1, 2)))
    return {"p": Planes(lower, ClaimedPlane(np.zeros((1, 2)), np.full((1, 2), 2.0)))}, {bent: "p"}


def refutation(planes: dict[str, str], mix: float, *multipliers: float) -> Refutation:
    return Refutation((0,), np.full((1, 1), mix), np.full(1, 2.0**-20), planes, np.array([multipliers]))
