"""EAD: elastic net, l1."""

from torch import Tensor

from certnas.attacks.foolbox_bridge import library, minimise
from certnas.attacks.problem import AttackProblem


def ead(problem: AttackProblem) -> Tensor:
    """Elastic-net attack (Chen et al. 2018) with the l1 decision rule, foolbox.  l1 only.  -> [n, *shape]"""
    attack = library().attacks.EADAttack(
        binary_search_steps=5, steps=problem.budget.steps, initial_const=0.1, decision_rule="L1"
    )
    return minimise(attack, problem)
