"""DDN: decoupled direction and norm, l2."""

from torch import Tensor

from certnas.attacks.foolbox_bridge import library, minimise
from certnas.attacks.problem import AttackProblem


def ddn(problem: AttackProblem) -> Tensor:
    """Decoupled direction and norm (Rony et al. 2019), foolbox.  l2 only.  -> [n, *shape]"""
    return minimise(library().attacks.DDNAttack(steps=problem.budget.steps), problem)
