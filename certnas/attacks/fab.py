"""FAB: fast adaptive boundary, l∞, l2 and l1; against all candidate classes at once, and one by one."""

from dataclasses import replace

from torch import Tensor

from certnas.attacks.problem import AttackProblem


def fab(problem: AttackProblem) -> Tensor:
    """Fast adaptive boundary (Croce and Hein 2020), pyautoattack.  -> [n, *shape]

    Steps to the nearest linearised boundary, whichever candidate's it is.
    """
    return nearest(problem, against_one=False)


def fab_targeted(problem: AttackProblem) -> Tensor:
    """FAB against each candidate class in turn (FAB-T), which a greedy choice may miss.  -> [n, *shape]"""
    for rival in range(1, problem.columns.shape[1]):
        best = nearest(replace(problem, columns=problem.columns[:, [0, rival]]), against_one=True)
        problem = problem.improved(best)
    return problem.best


def nearest(problem: AttackProblem, *, against_one: bool) -> Tensor:
    """The nearest success over FAB's restarts, the best known example where there is none.  -> [n, *shape]

    The library's own `perturb` would reseed every generator and drop examples beyond a fixed radius, so its
    single run is called; random restarts start within the best radius.
    """
    from pyautoattack.fab_pt import FABAttack_PT

    attack = FABAttack_PT(
        problem.scores(),
        norm=problem.norm.autoattack,
        n_iter=problem.budget.fab_steps,
        device=problem.x.device,
    )
    attack.target_class = 2  # the library's name for the second best of the two classes left
    for run in range(problem.budget.restarts + 1):
        attack.eps = problem.reach()
        found = attack.attack_single_run(
            problem.x, problem.labels(), use_rand_start=run > 0, is_targeted=against_one
        )
        problem = problem.improved(found)
    return problem.best
