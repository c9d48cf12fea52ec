"""The exact minimum of a linear form over a ball ∩ box, by scipy."""

import numpy as np
from scipy import optimize

from oracles.points import Norm


def linear_minimum(
    form: np.ndarray, x: np.ndarray, eps: float | np.ndarray, norm: Norm, low: np.ndarray, high: np.ndarray
) -> float:
    """min form·x' over ‖(x' − x)/eps‖ ≤ 1, low ≤ x' ≤ high: flat vectors, ±inf allowed, eps > 0.

    l1 and l∞ by linear programming; l2 by maximising the Lagrange dual of the ball, checked against SLSQP.
    """
    radii = np.broadcast_to(np.asarray(eps, dtype=float), x.shape)
    down, up = (low - x) / radii, (high - x) / radii
    slope = form * radii
    if norm == "linf":
        result = optimize.linprog(slope, bounds=np.stack([np.maximum(down, -1), np.minimum(up, 1)], 1))
        return float(form @ x + result.fun)
    if norm == "l1":
        pairs = np.concatenate(
            [
                np.stack([np.zeros_like(up), np.maximum(up, 0)], 1),
                np.stack([np.zeros_like(down), np.maximum(-down, 0)], 1),
            ]
        )
        if (down > 0).any() or (up < 0).any():
            raise ValueError("the l1 oracle takes a centre inside the box")
        result = optimize.linprog(
            np.concatenate([slope, -slope]), A_ub=np.ones((1, 2 * len(x))), b_ub=[1.0], bounds=pairs
        )
        return float(form @ x + result.fun)
    dual = _l2_dual(slope, down, up)
    primal = _l2_primal(slope, down, up)
    if not abs(primal - dual) <= 1e-6 * max(1.0, float(np.abs(slope).sum())):
        raise RuntimeError(f"the l2 oracle disagrees with itself: dual {dual}, primal {primal}")
    return float(form @ x + dual)


def _l2_dual(slope: np.ndarray, down: np.ndarray, up: np.ndarray) -> float:
    """max over t of Σ_i min_{down ≤ d ≤ up} (slope d + e^t d²) − e^t, and its limit at e^t = 0."""

    def negated(t: float) -> float:
        weight = np.exp(t)
        step = np.clip(-slope / (2 * weight), down, up)
        return -float(slope @ step + weight * (step @ step) - weight)

    grid = np.linspace(-40, 40, 401)
    best = grid[int(np.argmin([negated(t) for t in grid]))]
    found = optimize.minimize_scalar(
        negated, bounds=(best - 0.2, best + 0.2), method="bounded", options={"xatol": 1e-12}
    )
    return max(-float(found.fun), -negated(best))


def _l2_primal(slope: np.ndarray, down: np.ndarray, up: np.ndarray) -> float:
    scale = float(np.abs(slope).max()) or 1.0
    found = optimize.minimize(
        lambda d: slope @ d / scale,
        np.clip(np.zeros_like(slope), down, up),
        jac=lambda d: slope / scale,
        bounds=optimize.Bounds(down, up),
        constraints={"type": "ineq", "fun": lambda d: 1 - d @ d, "jac": lambda d: -2 * d},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return float(found.fun) * scale
