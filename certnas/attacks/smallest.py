"""The nearest example of several attacks, re-checked on the original model in float64."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certnas.attacks.boundary import to_boundary
from certnas.attacks.isolation import isolated
from certnas.attacks.judge import AttackJudge, frozen, inspect
from certnas.attacks.norms import AttackNorm, per_image
from certnas.attacks.problem import Attack, AttackBudget, AttackProblem
from certnas.errors import UserError


@dataclass(frozen=True)
class AdversarialExamples:
    """The nearest adversarial example found for each of N images."""

    distance: Tensor
    """The distance, [N] float64: 0 if the image itself is adversarial, infinite if no example was found."""
    example: Tensor
    """The example, [N, *shape] float64 in [0, 1]; the image itself in both of these cases."""
    attack: tuple[str, ...]
    """The attack that found each example; "clean" at distance 0, empty if none was found."""
    failed: tuple[str, ...]
    """The attacks that failed, one line each: "attack: images a to b: reason"."""


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU if there is none."""
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def smallest(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: AttackNorm,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    batch_size: int,
    budget: AttackBudget,
    progress: Callable[[int, int], None] | None,
    targets: Tensor | None,
) -> AdversarialExamples:
    """`smallest_adversarial` with resolved norm and attacks, and checked inputs."""
    device = device_of(model)
    with isolated(seed, device):
        exact, fast = frozen(model, torch.float64), frozen(model, torch.float32)
        images = x.detach().to(device, torch.float64, copy=True)
        y = y.detach().to(device, torch.long)
        targets = None if targets is None else targets.detach().to(device, torch.long)
        batches = []
        for first in range(0, len(images), batch_size):
            rows = slice(first, first + batch_size)
            judge = AttackJudge(exact, y[rows], None if targets is None else targets[rows])
            inspect(judge, images[rows], first)
            done = first * len(attacks)

            def report(ran: int, done: int = done, size: int = len(images[rows])) -> None:
                if progress is not None:
                    progress(done + ran * size, len(images) * len(attacks))

            batches.append(attack_batch(judge, fast, images[rows], norm, attacks, budget, first, report))
    return AdversarialExamples(
        torch.cat([b.distance for b in batches]) if batches else torch.zeros(0, dtype=torch.float64),
        torch.cat([b.example for b in batches]) if batches else images,
        tuple(name for b in batches for name in b.attack),
        tuple(line for b in batches for line in b.failed),
    )


def attack_batch(
    judge: AttackJudge,
    fast: nn.Module,
    x: Tensor,
    norm: AttackNorm,
    attacks: Mapping[str, Attack],
    budget: AttackBudget,
    first: int,
    report: Callable[[int], None],
) -> AdversarialExamples:
    """Runs every attack on one batch [n, *shape] float64, and keeps the nearest example that the judge confirms."""
    clean = judge.wrong(x)
    distance = torch.where(clean, 0.0, torch.inf).to(torch.float64)
    example, names, failed = x, ["clean" if c else "" for c in clean.tolist()], []
    rows = (~clean).nonzero().flatten()
    part = AttackJudge(judge.model, judge.y[rows], None if judge.targets is None else judge.targets[rows])
    for ran, (name, attack) in enumerate(attacks.items(), 1):
        if len(rows):
            problem = stated(part, fast, x[rows], norm, budget, example[rows], distance[rows])
            try:
                candidate = attack(problem).detach().to(torch.float64)
                reason = "" if candidate.isfinite().all() else "returned NaN"
            except ModuleNotFoundError as error:
                raise UserError(f"attack {name}: needs the package {error.name}; install it") from error
            except Exception as error:
                candidate, reason = x[rows], f"{type(error).__name__}: {error}"
            if reason:
                failed.append(f"{name}: images {first} to {first + len(x) - 1}: {reason}")
            finite = candidate.flatten(1).isfinite().all(1)
            candidate = torch.where(per_image(finite, candidate), candidate, x[rows]).clamp(0, 1)
            point, found = to_boundary(part.wrong, x[rows], candidate, norm)
            length = torch.where(found, norm.length(point - x[rows]), torch.inf)
            nearer = rows[length < distance[rows]]
            example = example.index_copy(
                0, rows, torch.where(per_image(length < distance[rows], point), point, example[rows])
            )
            distance = distance.index_copy(0, rows, torch.minimum(length, distance[rows]))
            for row in nearer.tolist():
                names[row] = name
        report(ran)
    return AdversarialExamples(distance, example, tuple(names), tuple(failed))


def stated(
    judge: AttackJudge,
    fast: nn.Module,
    x: Tensor,
    norm: AttackNorm,
    budget: AttackBudget,
    best: Tensor,
    radius: Tensor,
) -> AttackProblem:
    """The batch as an attack problem: in float32, unless float32 misclassifies an image that float64 classifies
    correctly.
    """
    columns = judge.columns(x, budget.candidates)
    scale = judge.scale(x, columns)
    low = x.to(torch.float32)
    problem = AttackProblem(
        fast, low, columns, scale.to(torch.float32), norm, budget, best.to(torch.float32), radius
    )
    with torch.no_grad():
        right = bool((problem.scores()(low).argmax(1) == 0).all())
    if right:
        return problem
    return AttackProblem(judge.model, low, columns, scale, norm, budget, problem.best, radius)
