"""Rows that are windows (patches) of an image, through operators and relaxations.

How an operator takes them is part of its record (`patches`).  Where it has no such rule, or a window has grown to the
size of the image, rows are written out as dense coefficients.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..graph import Call
from ..operators import rule_for
from ..patch import Grid, Pair, Patch, Reach, dot, flat
from ..region import Region
from ..relaxation import Diagonal, Relaxation, Windowed


def reach_of(call: Call) -> Reach | None:
    """What a node reads, None where its rows have to be written out."""
    rule = rule_for(call.node).patches
    return None if rule is None or len(call.shape) != 3 else rule.reach(call)


def pull(call: Call, patch: Patch) -> tuple[Patch, ...] | None:
    """Masked rows pulled back through an affine node; None where they have to be written out first."""
    reach = reach_of(call)
    grids = _grids(call, patch, reach)
    if reach is None or grids is None:
        return None
    rule = rule_for(call.node).patches
    assert rule is not None and rule.pull is not None
    pulled = rule.pull(call, patch, grids.size)
    return tuple(_moved(patch, c, grids, reach, s) for c, s in zip(pulled, call.shapes, strict=True))


def _grids(call: Call, patch: Patch, reach: Reach | None) -> Grid | None:
    """The grid of the operands' windows; None where these are too large to keep."""
    if reach is None:
        return None
    grid = reach.on(patch.grid)
    return grid if all(len(shape) == 3 and grid.small(shape) for shape in call.shapes) else None


def _moved(patch: Patch, coef: Tensor, grid: Grid, reach: Reach, shape: tuple[int, ...]) -> Patch:
    unfolded = coef.unflatten(0, patch.coef.shape[:2])
    return replace(patch, coef=unfolded, grid=grid, shape=shape, masked=patch.masked and not reach.pads)


def relax(call: Call, relaxation: Relaxation, patch: Patch) -> tuple[tuple[Patch, ...], Tensor] | None:
    """`Relaxation.pull` on windows: (the rows on each operand, const [N, S]); None where they are to be written out."""
    reach = reach_of(call)
    grid = _grids(call, patch, reach)
    low, high = relaxation.lower, relaxation.upper
    if reach is None or grid is None or not _windowed(relaxation, patch):
        return None
    coef = patch.by_unit()
    negative = coef.clamp(max=0)
    both = [high.bias - low.bias] + ([low.bias] if bool((low.bias != 0).any()) else [])
    biases = patch.gather(*(bias.expand(-1, -1, *call.shape) for bias in both))
    const = sum((dot(c, b) for c, b in zip((negative, coef), biases, strict=False)), start=coef.new_zeros(()))
    if isinstance(low.map, Diagonal) and isinstance(high.map, Diagonal):
        pulled = _through_slopes(patch, coef, negative, low.map, high.map)
    else:
        assert isinstance(low.map, Windowed) and isinstance(high.map, Windowed)
        pulled = (_through_windows(patch, coef, negative, low.map, high.map, grid.size),)
    moved = tuple(
        _moved(replace(patch, masked=True), p.flatten(0, 2), grid, reach, s)
        for p, s in zip(pulled, call.shapes, strict=True)
    )
    return moved, const


def minimum(region: Region, patch: Patch) -> Tensor:
    """`Region.minimum` of rows that are windows of the image, of each of the N or one for all.  [N, S]"""
    n, shape = len(region.x), region.x.shape[1:]
    patch = patch.expanded(n)
    known = [region.x, region.radii.expand(n, *shape), *(region.reach() if region.clipped else ())]
    x, radii, *reach = (flat(windows) for windows in patch.gather(*(image.unsqueeze(1) for image in known)))
    return region.minimum_on(flat(patch.by_unit()), x, radii, *reach).flatten(1)


def _windowed(relaxation: Relaxation, patch: Patch) -> bool:
    """Whether there is a way for windows: planes of their own are for each unit, and of element-wise operators."""
    maps = [relaxation.lower.map, relaxation.upper.map]
    if relaxation.rows == 1:
        return all(isinstance(map, Diagonal | Windowed) for map in maps)
    return relaxation.rows == patch.top.shape[1] and all(isinstance(map, Diagonal) for map in maps)


def _through_slopes(
    patch: Patch, coef: Tensor, negative: Tensor, low: Diagonal, high: Diagonal
) -> tuple[Tensor, ...]:
    found = []
    for a, b, shape in zip(low.slopes, high.slopes, low.shapes, strict=True):
        if low is high:
            (slope,) = patch.gather(a.expand(-1, -1, *shape))
            found.append(coef * slope)
        else:
            slope, more = patch.gather(a.expand(-1, -1, *shape), (b - a).expand(-1, -1, *shape))
            found.append((coef * slope).addcmul_(negative, more))
    return tuple(found)


def _through_windows(
    patch: Patch, coef: Tensor, negative: Tensor, low: Windowed, high: Windowed, size: Pair
) -> Tensor:
    """Rows times the weights of each window, overlaps added.  [N, k, M, C, *size]"""
    window, (channels, taps) = low.window, low.weights.shape[2:4]

    def spread(rows: Tensor, map: Windowed) -> Tensor:
        image = map.weights.reshape(len(map.weights), 1, channels * taps, *window.output)
        weights = patch.gather(image)[0].unflatten(3, (channels, taps))
        return window.spread(rows, weights.unbind(4), size)

    return spread(coef, low) if low is high else spread(coef - negative, low) + spread(negative, high)
