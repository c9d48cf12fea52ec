"""Runs foolbox minimisation attacks."""

import os
from types import ModuleType
from typing import Any

from torch import Tensor

from certnas.attacks.problem import AttackProblem


def library() -> ModuleType:
    """Imports foolbox. Its model zoo asks for a git executable at import, which no attack needs; the warning is
    silenced.
    """
    name = "GIT_PYTHON_REFRESH"
    before = os.environ.get(name)
    os.environ[name] = "quiet"
    try:
        import foolbox

        return foolbox
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def minimise(attack: Any, problem: AttackProblem) -> Tensor:
    """The attack's own best perturbed images.  [n, *shape]"""
    foolbox = library()
    model = foolbox.PyTorchModel(problem.scores(), bounds=(0, 1), device=problem.x.device)
    criterion = foolbox.criteria.Misclassification(problem.labels())
    found: Tensor = attack(model, problem.x, criterion, epsilons=None)[0]
    return found
