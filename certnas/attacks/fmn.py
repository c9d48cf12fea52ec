"""FMN: fast minimum norm, l∞ and l1."""

from torch import Tensor

from certnas.attacks.foolbox_bridge import library, minimise
from certnas.attacks.norms import L1, LINF
from certnas.attacks.problem import AttackProblem

CLASSES = {L1: "L1FMNAttack", LINF: "LInfFMNAttack"}


def fmn(problem: AttackProblem) -> Tensor:
    """Fast minimum norm (Pintor et al. 2021), foolbox.  l∞ and l1.  -> [n, *shape]"""
    attack = getattr(library().attacks, CLASSES[problem.norm])
    return minimise(attack(steps=problem.budget.steps), problem)
