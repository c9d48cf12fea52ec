"""DeepFool: steps to the nearest linearised decision boundary, l2 and l∞."""

from torch import Tensor

from certnas.attacks.foolbox_bridge import library, minimise
from certnas.attacks.norms import L2, LINF
from certnas.attacks.problem import AttackProblem

CLASSES = {L2: "L2DeepFoolAttack", LINF: "LinfDeepFoolAttack"}


def deepfool(problem: AttackProblem) -> Tensor:
    """DeepFool (Moosavi-Dezfooli et al. 2016), foolbox.  l2 and l∞.  -> [n, *shape]"""
    attack = getattr(library().attacks, CLASSES[problem.norm])
    return minimise(attack(steps=problem.budget.steps // 2, candidates=None), problem)
