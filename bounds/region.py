"""Perturbation regions; the only module that knows the norms.

A region R is the intersection of a ball around each image with the valid box of the data, if one is given.  The engine
asks a region for one thing: the exact minimum of a linear form over R.  Radii are in the units of the network's input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from .errors import InvalidInput
from .interval import Interval
from .memory_format import vectors

Number = float | Tensor
FEW_COEFFICIENTS = 32
"""Number of largest coefficients tried first if an l1 ball is intersected with a box.  Chosen by hand."""


@dataclass(frozen=True, eq=False)
class Region(ABC):
    """The set {x' : ‖(x' − x) / ε‖ ≤ 1} ∩ [lower, upper] for each image x.

    The radius ε, `lower` and `upper` are in the units of the network's input: if the network itself normalises the
    image, these are pixel values, and otherwise normalised ones.
    A subclass is the record of one norm: its ball, its dual norm and its names.
    Raises InvalidInput for a negative or non-finite radius, NaN in x, or an x outside of [lower, upper].
    """

    name: ClassVar[str]
    """The name in options and result files, such as "linf"."""
    p: ClassVar[float]
    """The p of the lp norm; the dual norm is the lq norm with 1/p + 1/q = 1."""
    symbol: ClassVar[str]
    """The name in tables and plots."""
    reported: ClassVar[tuple[float, ...]]
    """Radii at which certified accuracy is reported, for pixels in [0, 1]."""

    x: Tensor
    """The images, [N, *shape]."""
    eps: Number
    """The radius: a number, [N] per image, or [N, *shape] per element (the ball is then an ellipsoid)."""
    lower: Number | None = None
    """The lower side of the valid box: None, a number, or a tensor that broadcasts to [N, *shape] (per channel: [C, 1,
    1]).
    """
    upper: Number | None = None
    """The upper side of the valid box, as `lower`."""

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.x).all()):
            raise InvalidInput("region: the image has NaN or infinite values")
        eps = torch.as_tensor(self.eps, device=self.x.device)
        if not bool(torch.isfinite(eps).all()) or bool((eps < 0).any()):
            raise InvalidInput(f"region: eps must be finite and ≥ 0, got {float(eps.detach().min()):g}")
        if eps.dim() == 1 and len(eps) != len(self.x):
            raise InvalidInput(f"region: eps has {len(eps)} values for {len(self.x)} images")
        if eps.dim() > 1 and eps.shape != self.x.shape:
            raise InvalidInput(
                f"region: per-element eps has shape {list(eps.shape)}, the images {list(self.x.shape)}"
            )
        for side, bound, sign in (("lower", self.lower, 1), ("upper", self.upper, -1)):
            if bound is not None and bool((sign * (self.x.detach() - bound) < 0).any()):
                raise InvalidInput(
                    f"region: the image leaves the valid box: {side} bound "
                    f"{bound.tolist() if isinstance(bound, Tensor) else bound}"
                )

    @property
    def radii(self) -> Tensor:
        """The radius ε of every element, [N, *1 or shape]."""
        eps = torch.as_tensor(self.eps, dtype=self.x.dtype, device=self.x.device)
        return (
            eps
            if eps.dim() > 1
            else eps.reshape(-1, *[1] * (self.x.dim() - 1)).expand(len(self.x), *[1] * (self.x.dim() - 1))
        )

    @property
    def clipped(self) -> bool:
        """Whether a valid box is given."""
        return self.lower is not None or self.upper is not None

    def room(self) -> tuple[Tensor, Tensor]:
        """Return how far each element may move down and up inside the valid box.

        Returns two tensors [N, *shape], both ≥ 0, with inf for an element that is unbounded.
        """
        free = torch.full_like(self.x, torch.inf)
        down = free if self.lower is None else (self.x - self.lower).expand_as(self.x)
        up = free if self.upper is None else (self.upper - self.x).expand_as(self.x)
        return down, up

    def box(self) -> Interval:
        """Return the smallest box that contains the region.  [N, *shape]"""
        down, up = self.room()
        down, up = torch.minimum(self.radii, down), torch.minimum(self.radii, up)
        return Interval(self.x - down, self.x + up, center=self.x + (up - down) / 2, radius=(up + down) / 2)

    def minimum(self, coef: Tensor) -> Tensor:
        """Return min over x' ∈ R of ⟨coef, x'⟩, exactly.

        coef [N or 1, S, *shape]; returns [N, S].
        """

        known = (self.x, self.radii, *(self.room() if self.clipped else ()))
        return self.minimum_on(*vectors(coef, *(image.unsqueeze(1) for image in known)))

    def minimum_on(self, coef: Tensor, x: Tensor, radii: Tensor, *room: Tensor) -> Tensor:
        """Return the minimum for coefficients [*, D] of some elements.

        x, radii (D or 1 each) and, if the region is clipped, both sides of `room`: their values at these elements, [*,
        D].
        """
        linear = torch.einsum("...d,...d->...", coef, x)
        if not room:
            if radii.shape[-1] == 1:
                return linear - self._dual_norm(coef) * radii.squeeze(-1)
            return linear - self._dual_norm(coef * radii)
        down, up = (side / radii.clamp(min=torch.finfo(coef.dtype).tiny) for side in room)
        return linear - self._dual_norm_in_box((coef * radii).abs(), torch.where(coef > 0, down, up))

    def at(self, images: slice | Tensor) -> Region:
        """Return the region of some of the images."""
        eps = self.eps[images] if isinstance(self.eps, Tensor) and self.eps.dim() > 0 else self.eps
        sides = [
            side[images] if isinstance(side, Tensor) and side.shape == self.x.shape else side
            for side in (self.lower, self.upper)
        ]
        return replace(self, x=self.x[images], eps=eps, lower=sides[0], upper=sides[1])

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Region:
        """Return the region in another dtype or on another device."""
        eps, lower, upper = (
            value.to(dtype=dtype, device=device) if isinstance(value, Tensor) else value
            for value in (self.eps, self.lower, self.upper)
        )
        assert eps is not None
        return replace(self, x=self.x.to(dtype=dtype, device=device), eps=eps, lower=lower, upper=upper)

    def detach(self) -> Region:
        """Return the region as a constant of autograd."""
        eps = self.eps.detach() if isinstance(self.eps, Tensor) else self.eps
        return replace(self, x=self.x.detach(), eps=eps)

    @property
    def is_box(self) -> bool:
        """Whether the region is itself a box."""
        return False

    @abstractmethod
    def _dual_norm(self, coef: Tensor) -> Tensor:
        """Return max ⟨coef, δ⟩ over the unit ball.  [N, S, D] -> [N, S]"""

    @abstractmethod
    def _dual_norm_in_box(self, coef: Tensor, room: Tensor) -> Tensor:
        """Return max ⟨coef, δ⟩ over the unit ball ∩ [0, room], for coef ≥ 0.  [N, S, D] -> [N, S]"""


@dataclass(frozen=True, eq=False)
class Linf(Region):
    """The region max|x' − x| / ε ≤ 1, with ε in the units of the network's input.  See `Region` for the arguments.

    The intersection with a valid box is itself a box.
    """

    name, p, symbol = "linf", inf, "l∞"
    reported = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 0.1)

    @property
    def is_box(self) -> bool:
        return True

    def _dual_norm(self, coef: Tensor) -> Tensor:
        return coef.abs().sum(-1)

    def _dual_norm_in_box(self, coef: Tensor, room: Tensor) -> Tensor:
        return (coef * room.clamp(max=1)).sum(-1)


@dataclass(frozen=True, eq=False)
class L2(Region):
    """The region ‖(x' − x) / ε‖₂ ≤ 1, with ε in the units of the network's input.  See `Region` for the arguments."""

    name, p, symbol = "l2", 2.0, "l2"
    reported = (0.1, 0.25, 0.5, 1.0)

    def _dual_norm(self, coef: Tensor) -> Tensor:
        return torch.linalg.vector_norm(coef, dim=-1)

    def _dual_norm_in_box(self, coef: Tensor, room: Tensor) -> Tensor:
        """Return the norm if the step along `coef` stays inside `room`; otherwise solve by water-filling, see
        `_filled`.
        """
        coef = torch.where(room > 0, coef, 0)
        norm = self._dual_norm(coef)
        with torch.no_grad():
            tiny = torch.finfo(coef.dtype).tiny
            leaves = (coef > room * norm.clamp(min=tiny).unsqueeze(-1)).any(-1)
        return _replaced(norm, leaves, _filled, coef, room)


def _filled(coef: Tensor, room: Tensor) -> Tensor:
    """Return max ⟨coef, δ⟩ over ‖δ‖₂ ≤ 1, 0 ≤ δ ≤ room.  [S, D] each, both ≥ 0 -> [S]

    The solution is δᵢ = min(roomᵢ, t·coefᵢ) with t such that ‖δ‖ = 1, or δ = room if that lies in the ball
    (water-filling).
    A fixed-point iteration finds t.  Its saturated set only grows, so the iteration is exact when it stops; rows that
    have converged are removed.  The value is then computed by the Lagrange dual,
    min over μ of Σ max over δᵢ ∈ [0, roomᵢ] of coefᵢδᵢ − μδᵢ² + μ, which is an upper bound of the maximum for every μ ≥
    0 and equals it at μ = 1/2t.  So rounding in t cannot make the value unsound.
    """
    with torch.no_grad():
        tiny, still = torch.finfo(coef.dtype).tiny, 1 + 4 * torch.finfo(coef.dtype).eps
        wanted = 1 / torch.linalg.vector_norm(coef, dim=-1, keepdim=True).clamp(min=tiny)
        full = torch.zeros_like(wanted, dtype=torch.bool)
        rows, c, r, t = torch.arange(len(coef), device=coef.device), coef, room, wanted.clone()
        for _ in range(coef.shape[-1] + 1):
            saturated = c * t >= r
            left = 1 - torch.where(saturated, r.square(), 0).sum(-1, keepdim=True)
            slack = torch.where(saturated, 0, c.square()).sum(-1, keepdim=True)
            full[rows] = (left > 0) & (slack <= 0)
            better = torch.where(
                (left > 0) & (slack > 0), (left.clamp(min=0) / slack.clamp(min=tiny)).sqrt(), t
            )
            grown = torch.maximum(better, t)
            wanted[rows] = grown
            moves = (grown > t * still).flatten().nonzero().flatten()
            if not len(moves):
                break
            rows, c, r, t = (known.index_select(0, moves) for known in (rows, c, r, grown))
        multiplier = torch.where(full, 0, 1 / (2 * wanted))
    inner = torch.where(full, torch.where(coef > 0, room, 0), torch.minimum(coef * wanted, room))
    return (coef * inner - multiplier * inner.square()).sum(-1) + multiplier.squeeze(-1)


@dataclass(frozen=True, eq=False)
class L1(Region):
    """The region ‖(x' − x) / ε‖₁ ≤ 1, with ε in the units of the network's input.  See `Region` for the arguments."""

    name, p, symbol = "l1", 1.0, "l1"
    reported = (0.5, 1.0, 2.0, 4.0)

    def _dual_norm(self, coef: Tensor) -> Tensor:
        return coef.abs().amax(-1)

    def _dual_norm_in_box(self, coef: Tensor, room: Tensor) -> Tensor:
        """Solve a fractional knapsack: fill the largest coefficients first; μ is the coefficient at which the budget of
        1 ends.

        The value is computed by the dual, μ + Σ roomᵢ·max(0, coefᵢ − μ), which is an upper bound of the maximum for
        every μ ≥ 0.  Coefficients below μ do not contribute, so the few largest are enough if they use up the budget.
        """
        coef = torch.where(room > 0, coef, 0)
        room, few = room.expand_as(coef), min(FEW_COEFFICIENTS, coef.shape[-1])
        found, enough = _packed(coef, room, few)
        if few == coef.shape[-1]:
            return found
        return _replaced(found, ~enough, lambda c, r: _packed(c, r, c.shape[-1])[0], coef, room)


def _packed(coef: Tensor, room: Tensor, few: int) -> tuple[Tensor, Tensor]:
    """Return the value with the `few` largest coefficients, and whether they use up the budget.  [*, D] -> [*] each"""
    values, order = coef.topk(few, dim=-1)
    largest = room.gather(-1, order)
    with torch.no_grad():
        spent = (largest.cumsum(-1) < 1).sum(-1, keepdim=True)
        enough = spent < few
    threshold = torch.where(enough, values.gather(-1, spent.clamp(max=few - 1)), 0)
    excess = (values - threshold).clamp(min=0)
    bounded = torch.where(excess > 0, largest, 0)
    return (bounded * excess).sum(-1) + threshold.squeeze(-1), enough.squeeze(-1)


def _replaced(
    found: Tensor, which: Tensor, work: Callable[[Tensor, Tensor], Tensor], coef: Tensor, room: Tensor
) -> Tensor:
    """Return `found` [*] with `work` of coef and room where `which` is true.  coef, room [*, D]; work: [S, D] each ->
    [S]
    """
    rows = which.flatten().nonzero().flatten()
    if not len(rows):
        return found
    some = (t.flatten(0, -2).index_select(0, rows) for t in (coef, room.expand_as(coef)))
    return found.flatten().index_copy(0, rows, work(*some)).reshape(found.shape)


NORMS: dict[str, type[Region]] = {region.name: region for region in (Linf, L2, L1)}
"""Every norm by its name.  `register_norm` adds one."""


def register_norm(region: type[Region]) -> type[Region]:
    """Register a norm, so that options and commands accept it; also usable as a class decorator.

    region: the subclass of `Region` that is the norm's record, with `name`, `p`, `symbol`, `reported` and the two dual
    norms `_dual_norm` and `_dual_norm_in_box`.
    Returns the subclass.
    Raises InvalidInput for a name that is already registered, and for a record that lacks one of these attributes.

    >>> import torch
    >>> import bounds
    >>> @bounds.register_norm
    ... class L3(bounds.Region):
    ...     name, p, symbol, reported = "l3", 3.0, "l3", (0.1, 0.5)
    ...     def _dual_norm(self, coef):
    ...         return torch.linalg.vector_norm(coef, 1.5, dim=-1)
    ...     def _dual_norm_in_box(self, coef, room):
    ...         return self._dual_norm(coef)  # an upper bound is sound
    >>> bounds.NORMS["l3"](torch.zeros(1, 2), eps=0.5).minimum(torch.tensor([[[1.0, 0.0]]]))
    tensor([[-0.5000]])
    """
    missing = [key for key in ("name", "p", "symbol", "reported") if not hasattr(region, key)]
    if missing:
        raise InvalidInput(f"register_norm: {region.__name__} lacks {', '.join(missing)}")
    if region.name in NORMS:
        raise InvalidInput(f"register_norm: there is a norm '{region.name}' already")
    NORMS[region.name] = region
    return region
