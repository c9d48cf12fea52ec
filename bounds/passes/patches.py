"""Backward passes of patches: coefficients on windows of an image, through operators and relaxations.

The record of an operator says how patches pass it (`patches`).  If it has no such rule, or a window has grown to the
size of the image, the coefficients become dense.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..graph import Call
from ..operators import rule_for
from ..patch import Grid, Pair, Patch, ReceptiveField, dot, flat
from ..region import Region
from ..relaxation import Diagonal, Relaxation, Windowed


def receptive_field_of(call: Call) -> ReceptiveField | None:
    """Return the receptive field of a node's outputs; None if its coefficients must be dense."""
    patch_rule = rule_for(call.node).patches
    return None if patch_rule is None or len(call.shape) != 3 else patch_rule.receptive_field(call)


def pull(call: Call, patch: Patch) -> tuple[Patch, ...] | None:
    """Return masked patches pulled back through an affine node; None if they must become dense first."""
    field = receptive_field_of(call)
    grids = _grids(call, patch, field)
    if field is None or grids is None:
        return None
    patch_rule = rule_for(call.node).patches
    assert patch_rule is not None and patch_rule.pull is not None
    pulled = patch_rule.pull(call, patch, grids.size)
    return tuple(_moved(patch, c, grids, field, s) for c, s in zip(pulled, call.shapes, strict=True))


def _grids(call: Call, patch: Patch, field: ReceptiveField | None) -> Grid | None:
    """Return the grid of the operands' windows; None if these are too large to keep."""
    if field is None:
        return None
    grid = field.on(patch.grid)
    return grid if all(len(shape) == 3 and grid.small(shape) for shape in call.shapes) else None


def _moved(patch: Patch, coef: Tensor, grid: Grid, field: ReceptiveField, shape: tuple[int, ...]) -> Patch:
    unfolded = coef.unflatten(0, patch.coef.shape[:2])
    return replace(patch, coef=unfolded, grid=grid, shape=shape, masked=patch.masked and not field.pads)


def relax(call: Call, relaxation: Relaxation, patch: Patch) -> tuple[tuple[Patch, ...], Tensor] | None:
    """Apply `Relaxation.pull` to patches.

    Returns (the patches on each operand, const [N, S]); None if the coefficients must be dense.
    """
    field = receptive_field_of(call)
    grid = _grids(call, patch, field)
    low, high = relaxation.lower, relaxation.upper
    if field is None or grid is None or not _windowed(relaxation, patch):
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
        _moved(replace(patch, masked=True), p.flatten(0, 2), grid, field, s)
        for p, s in zip(pulled, call.shapes, strict=True)
    )
    return moved, const


def minimum(region: Region, patch: Patch) -> Tensor:
    """Return `Region.minimum` of patches on the image.  [N, S]

    The patches belong to each of the N images, or one set belongs to all of them.
    """
    n, shape = len(region.x), region.x.shape[1:]
    patch = patch.expanded(n)
    tensors = [region.x, region.radii.expand(n, *shape), *(region.room() if region.clipped else ())]
    x, radii, *room = (flat(windows) for windows in patch.gather(*(image.unsqueeze(1) for image in tensors)))
    return region.minimum_on(flat(patch.by_unit()), x, radii, *room).flatten(1)


def _windowed(relaxation: Relaxation, patch: Patch) -> bool:
    """Return whether patches pass the relaxation: all rows share it, or it is element-wise and per unit."""
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
    """Return the coefficients times the weights of each window, overlaps added.  [N, k, M, C, *size]"""
    window, (channels, taps) = low.window, low.weights.shape[2:4]

    def spread(rows: Tensor, map: Windowed) -> Tensor:
        image = map.weights.reshape(len(map.weights), 1, channels * taps, *window.output)
        weights = patch.gather(image)[0].unflatten(3, (channels, taps))
        return window.spread(rows, weights.unbind(4), size)

    return spread(coef, low) if low is high else spread(coef - negative, low) + spread(negative, high)
