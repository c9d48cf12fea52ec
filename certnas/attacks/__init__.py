"""Upper bounds on the minimal adversarial distance, from published attacks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from certnas.attacks.apgd import apgd, apgd_grouped
from certnas.attacks.ddn import ddn
from certnas.attacks.deepfool import deepfool
from certnas.attacks.ead import ead
from certnas.attacks.fab import fab, fab_targeted
from certnas.attacks.fmn import fmn
from certnas.attacks.norms import NORMS
from certnas.attacks.problem import BUDGETS, Attack, AttackBudget
from certnas.attacks.smallest import AdversarialExamples, smallest
from certnas.errors import UserError

__all__ = ["ATTACKS", "BUDGETS", "AdversarialExamples", "Attack", "AttackBudget", "smallest_adversarial"]

ATTACKS: dict[str, dict[str, Attack]] = {
    "linf": {"fab": fab, "fab-t": fab_targeted, "deepfool": deepfool, "fmn": fmn, "apgd": apgd},
    "l2": {"fab": fab, "fab-t": fab_targeted, "deepfool": deepfool, "ddn": ddn, "apgd": apgd},
    "l1": {"fab": fab, "fab-t": fab_targeted, "fmn": fmn, "ead": ead, "apgd": apgd_grouped},
}
"""The attacks of each norm, in the order in which they run. APGD is last, since it starts from the best example so
far.
"""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def smallest_adversarial(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    *,
    seed: int = 0,
    batch_size: int = 100,
    budget: AttackBudget = BUDGETS["standard"],
    progress: Callable[[int, int], None] | None = None,
    targets: Tensor | None = None,
) -> AdversarialExamples:
    """An upper bound on each image's minimal adversarial distance: the nearest example that any attack finds.

    distance = ‖example − x‖ ≥ min { ‖x' − x‖ : x' in [0, 1]^shape, x' adversarial }, in float64. An x' is adversarial
    if argmax f(x') ≠ y, or with `targets` if f_target(x') ≥ f_y(x'). Every example is moved to the decision boundary
    by bisection, and evaluated on a float64 copy of the model in evaluation mode. If an attack raises an error or
    returns NaN, it is skipped for that batch and listed in `failed`. The model, its gradients and mode, and the
    random state of the process stay unchanged. The same seed gives the same result.

    model: the classifier.
    x: images [N, *shape] in [0, 1].
    y: labels [N], integers.
    norm: "linf", "l2" or "l1".
    seed: the seed of the attacks.
    batch_size: the number of images that are attacked together.
    budget: the number of steps and restarts of the attacks.
    progress: is called as progress(done, total), in pairs of image and attack.
    targets: target classes [N]; None for any other class.

    Returns the nearest examples; distances are in input units (pixels in [0, 1]).
    Raises UserError for an unknown norm, images outside [0, 1], labels that do not fit, or a model that does not give
    finite scores [N, K] in float64.
    """
    if norm not in ATTACKS:
        raise UserError(f"attack: unknown norm {norm!r}; accepted: {', '.join(ATTACKS)}")
    if not x.is_floating_point() or x.ndim < 2:
        raise UserError(
            f"attack: images are {x.dtype} of shape {list(x.shape)}, expected floats [N, *shape] in [0, 1]"
        )
    if len(x) and not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError(
            "attack: images leave [0, 1] or are NaN; divide by 255, and normalise inside the model"
        )
    for name, classes in (("labels", y), ("targets", targets)):
        if classes is not None and (classes.shape != x.shape[:1] or classes.dtype not in INTEGERS):
            raise UserError(
                f"attack: {name} are {classes.dtype} of shape {list(classes.shape)}, "
                f"expected integers of shape [{len(x)}]"
            )
    if targets is not None and bool((targets == y).any()):
        raise UserError(f"attack: the target of image {int((targets == y).nonzero()[0])} is its own label")
    if batch_size < 1:
        raise UserError(f"attack: batch size {batch_size}, expected at least 1")
    return smallest(
        model,
        x,
        y,
        NORMS[norm],
        ATTACKS[norm],
        seed=seed,
        batch_size=batch_size,
        budget=budget,
        progress=progress,
        targets=targets,
    )
