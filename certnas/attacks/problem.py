"""What an attack is given: images, the scores it must change, what is known so far, how long it may take."""

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
    """How long attacks may take.

    steps: iterations of each gradient attack; fab_steps: iterations of FAB, each one gradient per candidate
    class; restarts: random restarts of FAB; probes: radii that APGD tries; candidates: classes other than
    the label, the best-scoring first, that an untargeted attack aims at (every class counts as adversarial).
    """

    steps: int = 100
    fab_steps: int = 40
    restarts: int = 0
    probes: int = 6
    candidates: int = 9


BUDGETS = {
    "quick": AttackBudget(steps=40, fab_steps=15, probes=3, candidates=4),
    "standard": AttackBudget(),
    "thorough": AttackBudget(steps=300, fab_steps=100, restarts=3, probes=12, candidates=99),
}


class Scores(nn.Module):
    """Margins over class 0 of a few classes of each image, scaled image by image; class 0 is the label.

    Column k is scale · (f_columns[k](x) - f_label(x)): argmax differs from 0 exactly where a candidate beats
    the label, whatever the model's own logit scale.  [N, *shape] -> [N, len(columns)]
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
    """One batch to attack: images [n, *shape] float32 in [0, 1], all of them classified as column 0.

    model: parameters frozen; columns [n, k]: the classes in play, label first; scale [n]; best [n, *shape]:
    the nearest adversarial example so far, and radius [n] its distance (inf where there is none yet).
    """

    model: nn.Module
    x: Tensor
    columns: Tensor
    scale: Tensor
    norm: AttackNorm
    budget: AttackBudget
    best: Tensor
    radius: Tensor

    def scores(self) -> Scores:
        """The model as a classifier of this batch over `columns`; the right answer is 0 for every image."""
        return Scores(self.model, self.columns, self.scale)

    def labels(self) -> Tensor:
        """The right answers: [n] zeros."""
        return torch.zeros(len(self.x), dtype=torch.long, device=self.x.device)

    def reach(self) -> Tensor:
        """A radius [n] that certainly holds an adversarial example, if there is one in the box at all."""
        corner = torch.maximum(self.x, 1 - self.x)
        return torch.minimum(self.radius.to(self.x.dtype), self.norm.length(corner))

    def rows(self, index: Tensor) -> "AttackProblem":
        """The problem of some of the images."""
        return replace(
            self,
            x=self.x[index],
            columns=self.columns[index],
            scale=self.scale[index],
            best=self.best[index],
            radius=self.radius[index],
        )

    def against_best(self) -> "AttackProblem":
        """The same batch with only the label and, per image, the class of the best example (or runner-up)."""
        with torch.no_grad():
            rival = self.scores()(self.best)[:, 1:].argmax(1) + 1
        return replace(self, columns=self.columns.gather(1, torch.stack([self.labels(), rival], 1)))

    def improved(self, found: Tensor) -> "AttackProblem":
        """The same problem with `found` [n, *shape] as best example where it is adversarial and nearer."""
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
        """The perturbation to `point` scaled into the ball of `radius` [n].  -> [n, *shape] in the box"""
        delta = point - self.x
        length = self.norm.length(delta)
        t = torch.where(length > radius, radius / length.clamp_min(torch.finfo(length.dtype).tiny), 1.0)
        return (self.x + delta * per_image(t, delta)).clamp(0, 1)


Attack: TypeAlias = Callable[[AttackProblem], Tensor]
"""Problem -> candidates [n, *shape]; maybe not adversarial, in the box, or finite: all is re-checked."""
