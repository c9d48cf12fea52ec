"""APGD at decreasing radii: bisection turns a fixed-radius attack into a minimum-norm attack."""

import torch
from torch import Tensor

from certnas.attacks.norms import per_image
from certnas.attacks.problem import AttackProblem

FLOOR = 0.5  # the bisection starts between this fraction of the best known distance and the distance itself
GROUP = 10  # how many images of similar radius share one, where the library takes no radius per image


def apgd(problem: AttackProblem) -> Tensor:
    """Auto-PGD (Croce and Hein 2020), pyautoattack, with a radius bisected for each image; l∞ and l2.

    It starts from the best known example, projected into the ball, and increases the margin of that example's class.
    A success lowers the image's radius; a failure raises its lower limit. Returns candidates [n, *shape].
    """
    return bisected(problem.against_best(), shared=False)


def apgd_grouped(problem: AttackProblem) -> Tensor:
    """`apgd` for l1, where the library's projection takes one radius, so images of similar radius share it.

    It makes twice the probes, since a shared radius suits each image less well. Returns candidates [n, *shape].
    """
    best = problem.best.clone()
    for rows in problem.reach().argsort().split(GROUP):
        best[rows] = bisected(problem.rows(rows).against_best(), shared=True)
    return best


def bisected(problem: AttackProblem, *, shared: bool) -> Tensor:
    """The nearest success over all probes; `shared`: whether all images share the median radius.  -> [n, *shape]"""
    from pyautoattack.autopgd_base import APGDAttack

    scores, labels = problem.scores(), problem.labels()
    best, high = problem.best, problem.reach()
    low = FLOOR * high
    for _ in range(problem.budget.probes * (2 if shared else 1)):
        radius = (low + high) / 2
        if shared:
            radius = torch.full_like(radius, float(radius.median()))
        attack = APGDAttack(
            scores,
            n_iter=problem.budget.steps // 2,
            norm=problem.norm.autoattack,
            eps=float(radius[0]) if shared else per_image(radius, problem.x),
            device=problem.x.device,
        )
        attack.init_hyperparam(problem.x)
        start = problem.at_distance(best, radius)
        _, still_right, _, found = attack.attack_single_run(problem.x, labels, x_init=start)
        moved = problem.norm.length(found - problem.x)
        nearer = ~still_right.bool() & (moved < high)
        missed = still_right.bool() & (radius < high)
        best = torch.where(per_image(nearer, best), found, best)
        low = torch.where(nearer, torch.minimum(low, FLOOR * moved), torch.where(missed, radius, low))
        high = torch.where(nearer, moved, high)
    return best
