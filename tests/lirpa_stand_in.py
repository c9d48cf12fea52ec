"""A stand-in for auto_LiRPA: the little of 0.3's and of 0.7's behaviour that the adapter counts on, and no bounds."""

import math
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

VERSIONS = ("0.3", "0.7.1")
STALE = 5.0
"""How much wider bounds get where an earlier search's slopes choose the units."""


class Ball:
    """PerturbationLpNorm."""

    def __init__(self, *, norm: float, eps: float | Tensor) -> None:
        self.norm, self.eps = norm, eps


class Interval(tuple):
    """A pair of ends that knows its ball."""

    ptb: Ball

    def __new__(cls, lower: Tensor, upper: Tensor, ptb: Ball) -> "Interval":
        made = super().__new__(cls, (lower, upper))
        made.ptb = ptb
        return made


class BoundedTensor:
    def __init__(self, x: Tensor, ptb: Ball) -> None:
        self.x, self.ptb = x, ptb


class BoundInput(nn.Module):
    inputs = ()


class BoundConv(nn.Module):
    """A convolution that takes one l2 or l1 radius: 0.7 asserts so, 0.3 adds an axis in front for several."""

    def __init__(self, conv: nn.Conv2d, source: nn.Module, new: bool) -> None:
        super().__init__()
        self.inputs, self.conv, self.new = (source,), conv, new
        self.attr = {"group": 1, "dilations": [1, 1]}

    def interval_propagate(self, *operands: Interval, C: Tensor | None = None) -> tuple[Tensor, Tensor]:
        eps = operands[0].ptb.eps
        centre, length = self.conv(operands[0][0]), self.conv.weight.flatten(1).norm(dim=1)
        if self.new:
            assert not isinstance(eps, Tensor) or eps.numel() == 1
        reach = (length * eps)[..., None, None].unsqueeze(-4)
        if isinstance(eps, Tensor) and eps.numel() > 1:
            centre, reach = centre.unsqueeze(0), reach.squeeze(-4).unsqueeze(0)
        return centre - reach, centre + reach


def _clamped(
    lower: Tensor, upper: Tensor, *slopes: Tensor | None, leaky_alpha: float = 0.0
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """TargetAlphas as both versions make them: torch's clamp passes no gradient at its ends."""
    free = ((lower < 0) & (upper > 0)).to(lower)
    of_lower, of_upper = (
        None if slope is None else slope.clamp(leaky_alpha, 1.0) * free + (lower >= 0).to(lower)
        for slope in slopes
    )
    return of_lower, of_upper, (upper <= 0).all()


class OldRelu(nn.Module):
    """0.3's: no table before the first search."""

    inputs = ()

    def chosen_by_slopes(self) -> bool:
        return bool(vars(self).get("alpha_lookup_idx"))

    _relu_mask_alpha = staticmethod(_clamped)


class BoundTwoPieceLinear(OldRelu):
    """0.7's: a table that is None before the first search, and read always."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha_lookup_idx = None

    def chosen_by_slopes(self) -> bool:
        return self.alpha_lookup_idx is not None

    _relu_mask_alpha = staticmethod(_clamped)


class NewRelu(BoundTwoPieceLinear):
    """0.7's BoundRelu has the rule for slopes from its base class."""


class BoundedModule(nn.Module):
    """`model`, a convolution first; every bound is one away from the clean output, further with a table of slopes."""

    relu: type[OldRelu]

    def __init__(self, model: nn.Module, x: Tensor, *, bound_opts: dict[str, Any]) -> None:
        super().__init__()
        self.bound_opts = {"optimize_bound_args": {"iteration": 20, "lr_alpha": 0.5}, **bound_opts}
        entry = BoundInput()
        conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        self._modules.update(
            {"/0": entry, "/1": BoundConv(conv, entry, self.relu is NewRelu), "/2": self.relu()}
        )
        object.__setattr__(self, "model", model)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def compute_bounds(
        self,
        *,
        x: tuple[BoundedTensor],
        C: Tensor,
        method: str,
        bound_lower: bool = True,
        bound_upper: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        list(self.parameters())  # as torch lists them
        conv, relu = self._modules["/1"], self._modules["/2"]
        clean = torch.einsum("nsk,nk->ns", C, self.model(x[0].x))
        if method == "IBP" and not math.isinf(x[0].ptb.norm):
            ends = conv.interval_propagate(Interval(x[0].x, x[0].x, x[0].ptb), C=None)
            assert all(end.shape == conv.conv(x[0].x).shape for end in ends)
            reach = (ends[1] - ends[0]).flatten(1).amax(1, keepdim=True) / 2
        else:
            reach = torch.full_like(clean, 1.0 + STALE * relu.chosen_by_slopes())
        sides: list[Tensor | None] = []
        for asked, sign in (
            (bound_upper, 1),
            (bound_lower, -1),
        ):  # as both versions search, the upper one first
            if asked and method == "CROWN-Optimized":
                reach = reach - 0.1 * self._slope(clean) + STALE * relu.chosen_by_slopes()
                relu.alpha_lookup_idx = {"/9": None}
            sides.append(clean + sign * reach if asked else None)
        return sides[1], sides[0]

    def _slope(self, like: Tensor) -> float:
        """Where a search of so many steps ends that starts at a slope of 0, of one unit on [−1, 1]."""
        search, unit = self.bound_opts["optimize_bound_args"], torch.ones(1).to(like)
        slope = torch.zeros(1, requires_grad=True)
        for _ in range(search["iteration"] - 1):
            found, _, _ = self._modules["/2"]._relu_mask_alpha(-unit, unit, slope.to(like), None)
            (gradient,) = torch.autograd.grad(found.sum(), slope)
            slope = (slope + search["lr_alpha"] * gradient).clamp(0.0, 1.0).detach().requires_grad_(True)
        return float(slope)


class OldBoundedModule(BoundedModule):
    """0.3's, which lists its parameters as an older torch asked for them."""

    relu = OldRelu

    def _named_members(self, get_members_fn: Any, prefix: str = "", recurse: bool = True) -> Iterator[Any]:
        yield from super()._named_members(get_members_fn, prefix, recurse)


class NewBoundedModule(BoundedModule):
    relu = NewRelu


def modules(version: str) -> dict[str, types.ModuleType]:
    """What an import of auto_LiRPA puts into sys.modules."""
    old = version.startswith("0.3")
    package, balls, operators = (
        types.ModuleType(f"auto_LiRPA{part}") for part in ("", ".perturbations", ".bound_ops")
    )
    package.__version__ = version
    package.BoundedModule = OldBoundedModule if old else NewBoundedModule
    package.BoundedTensor, package.perturbations = BoundedTensor, balls
    balls.PerturbationLpNorm = Ball
    operators.BoundRelu = OldRelu if old else NewRelu
    return {module.__name__: module for module in (package, balls, operators)}
