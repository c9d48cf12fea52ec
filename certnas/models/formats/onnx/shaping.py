"""Importers of ONNX's operators that move units, and of the integer arithmetic for their arguments."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certnas.models.formats.limits import LARGEST, LISTED
from certnas.models.formats.onnx.site import Site, Step, plain


def _reshape(site: Site) -> Step:
    """Reshape: 0 keeps a size (unless allowzero), −1 stands for the remaining size."""
    before, target = site.shape(), site.ints("shape", 1)
    if target is None:
        raise site.refuse("has no shape")
    if not site.attributes.get("allowzero", 0):
        if any(size == 0 and i >= len(before) for i, size in enumerate(target)):
            raise site.refuse(f"shape {target} keeps a size that {list(before)} does not have")
        target = [before[i] if size == 0 else size for i, size in enumerate(target)]
    known = prod(size for size in target if size != -1)
    if target.count(-1) > 1 or (-1 in target and (known == 0 or prod(before) % known)):
        raise site.refuse(f"shape {target} does not fit {list(before)}")
    target = [prod(before) // known if size == -1 else size for size in target]
    if prod(target) != prod(before):
        raise site.refuse(f"shape {target} does not fit {list(before)}")
    return site.resized(target)


def _flatten(site: Site) -> Step:
    shape, axis = site.shape(), site.attributes.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis <= len(shape):
        raise site.refuse(f"axis {axis} is not among {len(shape)} dimensions")
    return site.resized([prod(shape[:axis]), prod(shape[axis:])])


def _squeeze(site: Site) -> Step:
    shape, axes = site.shape(), site.ints("axes", 1)
    if axes is None:
        chosen = [i for i, size in enumerate(shape) if size == 1 and not (i == 0 and site.computed())]
    else:
        chosen = [site.axis(axis) for axis in axes]
    if any(shape[i] != 1 for i in chosen):
        raise site.refuse(f"squeezes {[shape[i] for i in chosen]} out of {list(shape)}")
    return site.resized([size for i, size in enumerate(shape) if i not in chosen])


def _unsqueeze(site: Site) -> Step:
    shape, axes = list(site.shape()), site.ints("axes", 1)
    if not axes:
        raise site.refuse("has no axes")
    rank = len(shape) + len(axes)
    for place in sorted(site.axis(axis, rank=rank) for axis in axes):
        shape.insert(place, 1)
    return site.resized(shape)


def _transpose(site: Site) -> Step:
    rank = len(site.shape())
    order = site.ints("perm") or list(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        raise site.refuse(f"perm {order} of {rank} dimensions")
    if site.computed() and order[0] != 0:
        raise site.refuse(f"perm {order} moves the batch dimension")
    return Step(lambda x: x.permute(order))


def _concat(site: Site) -> Step:
    inputs = site.present(len(site.inputs))
    rank = len(site.shape())
    axis = site.attributes.get("axis", 1)
    if any(site.computed(i) for i in inputs) and axis % rank == 0:
        raise site.refuse("joins along the batch dimension")
    batch = site.batch

    def apply(*parts: Tensor) -> Tensor:
        return torch.cat(parts, axis)

    moving = next((i for i in inputs if site.computed(i)), None)
    fixed = [i for i in inputs if not site.computed(i)]
    if moving is None or not fixed:
        return Step(apply, inputs)
    if any(site.shape(i)[0] not in (1, batch) for i in fixed):
        raise site.refuse("joins constants of another batch")

    def widened(*parts: Tensor) -> Tensor:
        n = parts[moving].shape[0]
        return torch.cat(
            [part[:1].expand(n, *part.shape[1:]) if i in fixed else part for i, part in enumerate(parts)],
            axis,
        )

    return Step(widened, inputs)


def _split(site: Site) -> Step:
    axis = site.axis(site.attributes.get("axis", 0))
    length, sizes = site.shape()[axis], site.ints("split", 1)
    if sizes is None:
        pieces = site.attributes.get("num_outputs") or site.attributes["outputs"]
        size = -(-length // pieces)
        sizes = [size] * (length // size) + ([length % size] if length % size else [])
    if sum(sizes) != length or min(sizes) < 0:
        raise site.refuse(f"splits {length} into {sizes}")
    return Step(lambda x: torch.split(x, sizes, axis))


def _slice(site: Site) -> Step:
    starts, ends = site.ints("starts", 1), site.ints("ends", 2)
    if starts is None or ends is None:
        raise site.refuse("has no starts or ends")
    axes = site.ints("axes", 3) or list(range(len(starts)))
    steps = site.ints("steps", 4) or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise site.refuse(f"starts {starts}, ends {ends}, axes {axes}, steps {steps} do not fit")
    shape, cuts = site.shape(), []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis % len(shape)
        kept = range(
            *slice(start, end if step > 0 or end >= -shape[place] else None, step).indices(shape[place])
        )
        if place == 0 and site.computed():
            if kept != range(shape[0]):
                raise site.refuse("cuts the batch dimension")
            continue
        cuts.append((place, kept))

    def apply(x: Tensor) -> Tensor:
        for axis, kept in cuts:
            if kept.step < 0:
                first = x.shape[axis] - 1 - kept.start
                x = x.flip(axis)
            else:
                first = kept.start
            stride = abs(kept.step)
            x = x[(slice(None),) * axis + (slice(first, first + len(kept) * stride, stride),)]
        return x

    return Step(apply)


def _gather(site: Site) -> Step:
    axis = site.axis(site.attributes.get("axis", 0))
    chosen, length = site.constant(1), site.shape()[axis]
    if chosen.numel() > LISTED or (
        chosen.numel() and not -length <= int(chosen.min()) <= int(chosen.max()) < length
    ):
        raise site.refuse(f"indices beyond {length}")
    places, shape = (chosen.reshape(-1) % length).tolist(), list(chosen.shape)
    if not shape:
        return Step(lambda x: x.select(axis, places[0]))

    def apply(x: Tensor) -> Tensor:
        y = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
        return y if len(shape) == 1 else y.unflatten(axis, shape)

    return Step(apply)


def _pad(site: Site) -> Step:
    pads, rank = site.ints("pads", 1), len(site.shape())
    value = site.given("value", 2)
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}.get(
        site.attributes.get("mode", b"constant")
    )
    axes = site.ints("axes", 3) or list(range(rank))
    if pads is None or len(pads) != 2 * len(axes) or mode is None:
        raise site.refuse(f"pads {pads} of {rank} dimensions, mode {site.attributes.get('mode')}")
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis % rank], after[axis % rank] = pads[place], pads[place + len(axes)]
    if site.computed() and (before[0] or after[0]):
        raise site.refuse("pads the batch dimension")
    pairs = [(a, b) for a, b in zip(reversed(before), reversed(after), strict=True)]
    while pairs and pairs[-1] == (0, 0):
        pairs.pop()
    flat = [number for pair in pairs for number in pair]
    site.bounded([size + a + b for size, a, b in zip(site.shape(), before, after, strict=True)])
    if not flat:
        return Step(lambda x: x)
    if mode == "constant":
        fill = float(value[0] if isinstance(value, list) else value or 0.0)
        return Step(lambda x: F.pad(x, flat, value=fill))
    return Step(lambda x: F.pad(x, flat, mode=mode))


def _expand(site: Site) -> Step:
    target = site.bounded(list(torch.broadcast_shapes(site.shape(), tuple(site.ints("shape", 1) or []))))
    if not site.computed():
        return Step(lambda x: x.expand(target))
    if len(target) != len(site.shape()) or target[0] != site.batch:
        raise site.refuse(f"to {target} moves the batch dimension")
    return Step(lambda x: x.expand(x.shape[0], *target[1:]))


def _tile(site: Site) -> Step:
    repeats = site.ints("repeats", 1) or []
    shape = site.shape()
    if (
        len(repeats) != len(shape)
        or max(repeats, default=1) > LISTED
        or (site.computed() and repeats[0] != 1)
    ):
        raise site.refuse(f"repeats {repeats} of {list(shape)}")
    site.bounded([size * times for size, times in zip(shape, repeats, strict=True)])

    def apply(x: Tensor) -> Tensor:
        for axis, times in enumerate(repeats):
            x = x if times == 1 else torch.cat([x] * times, axis)
        return x

    return Step(apply)


def _shape(site: Site) -> Step:
    found = list(site.shape())[site.attributes.get("start", 0) : site.attributes.get("end")]
    return Step(lambda: torch.tensor(found, dtype=torch.int64), ())


def _size(site: Site) -> Step:
    found = prod(site.shape())
    return Step(lambda: torch.tensor(found, dtype=torch.int64), ())


def _constant_of_shape(site: Site) -> Step:
    shape = site.bounded(site.ints("", 0) or [])
    value: Tensor | None = site.attributes.get("value")
    fill: Any = 0.0 if value is None else value.reshape(()).item()
    kind = torch.float32 if value is None else value.dtype
    return Step(lambda: torch.full(shape, fill, dtype=kind), ())


def _range(site: Site) -> Step:
    start, stop, step = (site.constant(i).item() for i in range(3))
    if step == 0 or abs(stop - start) > abs(step) * LARGEST:
        raise site.refuse(f"from {start} to {stop} by {step}")
    kind = site.constant(0).dtype
    return Step(lambda: torch.arange(start, stop, step, dtype=kind), ())


def _fixed(function: Callable[..., Tensor], inputs: int) -> Callable[[Site], Step]:
    """The importer of an operator that is supported for constants only."""

    def importer(site: Site) -> Step:
        for i in range(inputs):
            site.constant(i)
        return plain(function, inputs)(site)

    return importer


SHAPING: dict[str, Callable[[Site], Step]] = {
    "And": _fixed(torch.logical_and, 2),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Equal": _fixed(torch.eq, 2),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Greater": _fixed(torch.gt, 2),
    "Less": _fixed(torch.lt, 2),
    "Mod": _fixed(torch.remainder, 2),
    "Not": _fixed(torch.logical_not, 1),
    "Or": _fixed(torch.logical_or, 2),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _fixed(torch.where, 3),
}
