"""Random regions: every norm and kind of radius and box, the degenerate ones among them; and every method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import bounds
from benchmarks.soundness.draw import Draw
from benchmarks.soundness.operators import Shape
from benchmarks.soundness.oracles import Norm, descend_region, sample_region
from bounds import Slope

EPS = (0.0, 1e-30, 1e-6, 1e-3, 0.02, 0.02, 0.1, 0.1, 0.3, 0.3, 1.0, 1e6)
RADII = ("scalar", "scalar", "image", "element", "one pixel")
BOXES = (
    *("none", "unit", "per channel", "tensor", "point", "one side", "on the face") * 3,
    "none",
    "unit",
    "outside",
)
MEMORY = (*(None,) * 12, 1, 20_000, 50_000, 100_000, 300_000, 1_000_000)
SAMPLED, STEPS = 40, 3
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def methods() -> dict[str, bounds.Method]:
    """Every method, with every rule for slopes and both kinds of an option."""
    found: dict[str, bounds.Method] = {"ibp": bounds.IBP(), "zonotope": bounds.Zonotope()}
    found |= {f"zonotope {errors}": bounds.Zonotope(errors) for errors in (0, 3)}
    for slope in Slope:
        found[f"crown {slope.value}"] = bounds.Crown(slope)
        found[f"crown-ibp {slope.value}"] = bounds.CrownIBP(slope)
        found[f"zonotope+crown {slope.value}"] = bounds.ZonotopeCrown(slope=slope)
    found["zonotope+crown 2"] = bounds.ZonotopeCrown(2)
    found["crown not met"] = bounds.Crown(intersect=False)
    found["alpha-crown own"] = bounds.AlphaCrown(iterations=2)
    found["alpha-crown shared"] = bounds.AlphaCrown(iterations=3, step=0.3, shared=True)
    return found


@dataclass(frozen=True)
class Place:
    """A region in float64, the precision in which it is asked about, and a budget of memory; `words` says how drawn."""

    norm: Norm
    x: Tensor
    eps: float | Tensor
    lower: float | Tensor | None
    upper: float | Tensor | None
    dtype: str
    memory: int | None
    words: str

    def region(self) -> bounds.Region:
        """Raises InvalidInput where the centre is outside of the box."""
        region = bounds.NORMS[self.norm](self.x, self.eps, self.lower, self.upper)
        return region.to(DTYPES[self.dtype])

    def points(self, model: torch.nn.Module, rows: Tensor, seed: int) -> Tensor:
        """Points inside, corners, and those on the way to each row's minimum, of every image.  [M, N, *shape]"""
        generator = torch.Generator().manual_seed(seed)
        box = (self.lower, self.upper)
        found = [
            self.x[None],
            sample_region(self.x, self.eps, self.norm, *box, count=SAMPLED, generator=generator),
        ]
        images, count = rows.shape[:2]
        again = self.x.repeat_interleave(count, 0)
        eps = self.eps.repeat_interleave(count, 0) if isinstance(self.eps, Tensor) else self.eps
        whole = [
            side.repeat_interleave(count, 0)
            if isinstance(side, Tensor) and side.shape == self.x.shape
            else side
            for side in box
        ]
        path = descend_region(model, rows.flatten(0, 1), again, eps, self.norm, *whole, steps=STEPS)
        path = path.unflatten(1, (images, count)).transpose(1, 2).flatten(0, 1)
        return torch.cat([*found, path])


def place(draw: Draw, shape: Shape) -> Place:
    """A region of one to three images whose numbers are all float32 numbers."""
    draw.told = []
    norm: Norm = draw.pick("norm", ("linf", "linf", "l2", "l1"))
    x = draw.uniform(draw.pick("images", (1, 1, 2, 3)), *shape)
    if draw.chance(0.1):
        x = _single(x * draw.pick("scale", (1e3, 1e-3, -1.0, 0.0)))
    size, kind = draw.pick("eps", EPS), draw.pick("radii", RADII)
    eps: float | Tensor = float(torch.tensor(size, dtype=torch.float32))
    if kind == "image":
        eps = _single(eps * draw.uniform(len(x)))
    elif kind == "element":
        eps = _single(eps * draw.uniform(*x.shape))
    elif kind == "one pixel":
        only = torch.zeros(x.shape, dtype=torch.float64)
        only.flatten(1)[:, draw.random.randrange(x[0].numel())] = eps
        eps = only
    lower, upper = _box(draw, draw.pick("box", BOXES), x)
    dtype = draw.pick("dtype", ("float64", "float32"))
    return Place(norm, x, eps, lower, upper, dtype, draw.pick("memory", MEMORY), ", ".join(draw.told))


def _single(x: Tensor) -> Tensor:
    return x.float().double()


def _box(draw: Draw, kind: str, x: Tensor) -> tuple[float | Tensor | None, float | Tensor | None]:
    """Both sides of a box that holds the images, except where it is to leave them outside."""
    channel = (len(x[0]), *[1] * (x.dim() - 2))
    least, most = (x.transpose(0, 1).flatten(1) for _ in range(2))
    low, high = (least.amin(1).reshape(channel), most.amax(1).reshape(channel))
    match kind:
        case "none":
            return None, None
        case "unit":
            return min(0.0, float(x.min())), max(1.0, float(x.max()))
        case "per channel":
            return _single(low - draw.uniform(*channel)), _single(high + draw.uniform(*channel))
        case "tensor":
            return _single(x - draw.uniform(*x.shape) * 0.25), _single(x + draw.uniform(*x.shape) * 0.25)
        case "point":
            free = draw.uniform(*x.shape) < draw.random.choice((0.0, 0.2))
            return torch.where(free, x - 0.5, x), torch.where(free, x + 0.5, x)
        case "one side":
            return (float(x.min()), None) if draw.chance(0.5) else (None, float(x.max()))
        case "on the face":
            return low, high
    return float(x.max()) + 1.0, float(x.max()) + 2.0
