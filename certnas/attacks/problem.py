"""The input of an attack: images, the scores to change, the best examples so far, and the budget."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from certnas.attacks.norms import AttackNorm, per_image

SHARPNESS = (
    10.0  # clean margin after scaling: losses neither vanish (large logits) nor mix all classes (small ones)
)


@dataclass(frozen=True)
class AttackBudget:
    """The budget of the attacks."""

    steps: int = 100
    """The iterations of each gradient attack."""
    fab_steps: int = 40
    """The iterations of FAB; each computes one gradient per candidate class."""
    restarts: int = 0
    """The random restarts of FAB."""
    probes: int = 6
    """The number of radii that APGD tries."""
    candidates: int = 9
    """How many classes other than the label, with the highest scores, an untargeted attack aims at. Any class counts
    as adversarial.
    """


BUDGETS = {
    "quick": AttackBudget(steps=40, fab_steps=15, probes=3, candidates=4),
    "standard": AttackBudget(),
    "thorough": AttackBudget(steps=300, fab_steps=100, restarts=3, probes=12, candidates=99),
}
"""The budgets by name."""


class Scores(nn.Module):
    """Margins of a few classes of each image over its label, scaled for each image; the label is class 0.

    Column k is scale · (f_columns[k](x) − f_label(x)). Its argmax differs from 0 exactly where a candidate class
    beats the label, for any scale of the model's logits.  [N, *shape] -> [N, len(columns)]
    """

    def __init__(self, model: nn.Module, columns: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.model = model
        self.columns = columns
        self.scale = scale
        self.compute = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != len(self.columns):
            raise ValueError(f"scores of {len(self.columns)} images asked for {len(x)}")
        logits = self.model(x.to(self.compute, copy=True))
        chosen = logits.gather(1, self.columns)
        return ((chosen - chosen[:, :1]) * self.scale[:, None]).to(x.dtype)


@dataclass(frozen=True)
class AttackProblem:
    """One batch to attack: n images, all of them classified correctly."""

    model: nn.Module
    """The model, with frozen parameters."""
    x: Tensor
    """The images, [n, *shape] float32 in [0, 1]."""
    columns: Tensor
    """The classes that are compared, [n, k], the label first."""
    scale: Tensor
    """The scale of each image's margins, [n]."""
    norm: AttackNorm
    """The norm of the distance."""
    budget: AttackBudget
    """The budget of the attack."""
    best: Tensor
    """The nearest adversarial examples so far, [n, *shape]."""
    radius: Tensor
    """The distances of these examples, [n]; infinite where there is none."""

    def scores(self) -> Scores:
        """The model as a classifier of this batch over `columns`; class 0 is correct for every image."""
        return Scores(self.model, self.columns, self.scale)

    def labels(self) -> Tensor:
        """The correct classes: [n] zeros."""
        return torch.zeros(len(self.x), dtype=torch.long, device=self.x.device)

    def reach(self) -> Tensor:
        """A radius [n] whose ball contains an adversarial example, if the box contains one."""
        corner = torch.maximum(self.x, 1 - self.x)
        return torch.minimum(self.radius.to(self.x.dtype), self.norm.length(corner))

    def rows(self, index: Tensor) -> "AttackProblem":
        """The problem of the images `index`."""
        return replace(
            self,
            x=self.x[index],
            columns=self.columns[index],
            scale=self.scale[index],
            best=self.best[index],
            radius=self.radius[index],
        )

    def against_best(self) -> "AttackProblem":
        """The same batch with only the label and, for each image, the class of the best example (or the runner-up)."""
        with torch.no_grad():
            rival = self.scores()(self.best)[:, 1:].argmax(1) + 1
        return replace(self, columns=self.columns.gather(1, torch.stack([self.labels(), rival], 1)))

    def improved(self, found: Tensor) -> "AttackProblem":
        """The same problem with `found` [n, *shape] as the best example where it is adversarial and nearer."""
        with torch.no_grad():
            beaten = self.scores()(found).argmax(1) != 0
        length = self.norm.length(found - self.x).to(self.radius.dtype)
        nearer = beaten & (length < self.radius)
        return replace(
            self,
            best=torch.where(per_image(nearer, found), found, self.best),
            radius=torch.where(nearer, length, self.radius),
        )

    def at_distance(self, point: Tensor, radius: Tensor) -> Tensor:
        """The perturbation to `point`, scaled into the ball of `radius` [n] and clamped to [0, 1].  -> [n, *shape]"""
        delta = point - self.x
        length = self.norm.length(delta)
        t = torch.where(length > radius, radius / length.clamp_min(torch.finfo(length.dtype).tiny), 1.0)
        return (self.x + delta * per_image(t, delta)).clamp(0, 1)


Attack: TypeAlias = Callable[[AttackProblem], Tensor]
"""Maps an AttackProblem to candidates [n, *shape]. They need not be adversarial, in the box, or finite: all are
re-checked.
"""
