"""The original model in float64, which decides whether an example is adversarial."""

import copy

import torch
from torch import Tensor, nn

from certnas.attacks.problem import SHARPNESS
from certnas.errors import UserError


def frozen(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the model in `dtype` and evaluation mode, whose parameters require no gradient."""
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise UserError(
            f"attack: the model cannot be copied ({error}); an nn.Module of plain parameters can be"
        ) from None
    return copied.to(dtype).eval().requires_grad_(False)


class AttackJudge:
    """The float64 model with the labels y [n], and the targets [n] if there are any, of a batch of images."""

    def __init__(self, model: nn.Module, y: Tensor, targets: Tensor | None) -> None:
        self.model = model
        self.y = y
        self.targets = targets

    def logits(self, x: Tensor) -> Tensor:
        """The float64 scores, [n, K]."""
        with torch.no_grad():
            out: Tensor = self.model(x.clone())
        return out

    def wrong(self, x: Tensor) -> Tensor:
        """Whether argmax f(x) ≠ y, or f_target(x) ≥ f_y(x); False if a score is not finite.  -> [n] bool"""
        logits = self.logits(x)
        if self.targets is None:
            adversarial = logits.argmax(1) != self.y
        else:
            chosen = logits.gather(1, torch.stack([self.y, self.targets], 1))
            adversarial = chosen[:, 1] >= chosen[:, 0]
        return adversarial & logits.isfinite().all(1)

    def columns(self, x: Tensor, candidates: int) -> Tensor:
        """The label, followed by the target or by the other classes with the highest scores, [n, 1 + k]."""
        if self.targets is not None:
            return torch.stack([self.y, self.targets], 1)
        others = self.logits(x).scatter(1, self.y[:, None], -torch.inf)
        count = min(candidates, others.shape[1] - 1)
        return torch.cat([self.y[:, None], others.topk(count, 1).indices], 1)

    def scale(self, x: Tensor, columns: Tensor) -> Tensor:
        """The factor that scales each image's clean margin to SHARPNESS, [n]."""
        chosen = self.logits(x).gather(1, columns)
        margin = (chosen[:, :1] - chosen[:, 1:]).amin(1)
        return SHARPNESS / margin.clamp_min(1e-12)


def inspect(judge: AttackJudge, x: Tensor, first: int) -> None:
    """Raises UserError unless the model gives finite scores [n, K] for these images, with K classes that include the
    labels.
    """
    try:
        logits = judge.logits(x)
    except Exception as error:
        raise UserError(
            f"attack: the model does not evaluate images of shape {list(x.shape[1:])} in float64: {error}"
        ) from error
    if logits.ndim != 2 or len(logits) != len(x):
        raise UserError(
            f"attack: the model gives scores of shape {list(logits.shape)}, expected [{len(x)}, classes]"
        )
    named = judge.y if judge.targets is None else torch.cat([judge.y, judge.targets])
    if named.numel() and (named.min() < 0 or named.max() >= logits.shape[1]):
        raise UserError(
            f"attack: labels and targets span {named.min()} to {named.max()}, "
            f"the model has classes 0 to {logits.shape[1] - 1}"
        )
    broken = (~logits.isfinite().all(1)).nonzero().flatten()
    if len(broken):
        raise UserError(f"attack: the model gives NaN or infinite scores for image {first + int(broken[0])}")
