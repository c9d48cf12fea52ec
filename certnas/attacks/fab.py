"""FAB, the fast adaptive boundary attack, for l∞, l2 and l1: against all candidate classes at once, or one by one."""

from dataclasses import replace

from torch import Tensor

from certnas.attacks.problem import AttackProblem


def fab(problem: AttackProblem) -> Tensor:
    """Fast adaptive boundary (Croce and Hein 2020), pyautoattack.  -> [n, *shape]

    Each step moves to the nearest linearised boundary of any candidate class.
    """
    return nearest(problem, against_one=False)


def fab_targeted(problem: AttackProblem) -> Tensor:
    """FAB against each candidate class in turn (FAB-T).  -> [n, *shape]

    It finds examples that a greedy choice of the class misses.
    """
    for rival in range(1, problem.columns.shape[1]):
        best = nearest(replace(problem, columns=problem.columns[:, [0, rival]]), against_one=True)
        problem = problem.improved(best)
    return problem.best


def nearest(problem: AttackProblem, *, against_one: bool) -> Tensor:
    """The nearest success over FAB's restarts, or the best known example if there is none.  -> [n, *shape]

    The library's own `perturb` would reseed every generator and drop examples beyond a fixed radius. Therefore its
    single run is called, and random restarts begin within the best radius.
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
