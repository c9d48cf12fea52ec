"""Every operator that the tracer or a rule knows, and the values that the tests try for each of its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.graph.canonical import COMPOSED, LIKE, SPLITS, SYNONYMS
from bounds.operators import REGISTERED

aten = torch.ops.aten
INF, NAN = float("inf"), float("nan")
LINE, IMAGE, WIDE, VECTOR = (2, 5), (2, 4, 3), (4, 3, 2), (4,)


def tensor(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Numbers of both signs."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double() * scale


def numbers(*values: float) -> Tensor:
    return torch.tensor(values).double()


@dataclass(frozen=True)
class Refused:
    """A value that torch takes and the engine refuses; named: what it names, the operator itself where empty."""

    value: Any
    named: str = ""


@dataclass(frozen=True)
class Of:
    """A tensor that depends on the image as the operand does: a function of it."""

    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """An operator: the operand's shape, what every call has, and for each option the values tried.

    domain: what the operand is put through first, where the operator is not defined everywhere.
    read_as: what the trace reads each call as, where that is another operator.
    outputs: how many of its outputs are read, where it has several; None for all.
    """

    shape: tuple[int, ...] = IMAGE
    always: dict[str, Any] = field(default_factory=dict)
    options: dict[str, list[Any]] = field(default_factory=dict)
    domain: Any = None
    read_as: Any = None
    outputs: int | None = None


def for_each(matrix: Tensor) -> Of:
    """A matrix [1, a, b] that is the same for each image."""
    return Of(lambda h: matrix.expand(h.shape[0], -1, -1))


FREE = {
    "self", "input", "tensors",  # what is perturbed
    "momentum", "cudnn_enabled", "cudnn_enable", "memory_format", "non_blocking", "copy", "pin_memory", "layout",
    "device", "implicit", "dtype",
}  # fmt: skip
"""Arguments that are no options of the function: its operand, and what no value depends on in the run's own dtype."""


def conv(dims: int, transposed: bool = False, text: bool = False) -> Row:
    """Groups, strides, dilations; weights of 2·groups channels."""
    image = (2, 3, 2) if transposed else (2, 5, 4)
    shape, k = (LINE, (3,)) if dims == 1 else (image, (3, 2))
    ones = [1] * dims
    always = {
        "weight": tensor(2, 3, *k) if transposed else tensor(3, 2, *k),
        "bias": None,
        "stride": ones,
        "padding": "valid" if text else [0] * dims,
        "dilation": ones,
        "groups": 1,
        **({"output_padding": [0] * dims, "stride": [2] * dims} if transposed else {}),
    }
    both = {
        "weight": [
            -tensor(*always["weight"].shape).abs(),
            torch.zeros_like(always["weight"]),
            always["weight"] * 1e6,
        ],
        "bias": [None, numbers(-1, 0, 1e6)],
        "dilation": [ones, [2, 1][:dims]] if not transposed else [ones, [2] * dims],
        "groups": [1],
    }
    if text:
        return Row(shape, always, {**both, "stride": [ones], "padding": ["valid", "same"]})
    padding = [[0] * dims, [1] * dims, [2, 0][:dims]]
    stride = [ones, [2] * dims, [3, 2][:dims]]
    extra = {"output_padding": [[0] * dims, [1, 0][:dims]]} if transposed else {}
    return Row(shape, always, {**both, "stride": stride, "padding": padding, **extra})


def grouped(dims: int, transposed: bool = False, text: bool = False) -> Row:
    """The same with two groups."""
    row = conv(dims, transposed, text)
    k = row.always["weight"].shape[2:]
    always = {**row.always, "weight": tensor(2, 2, *k) if transposed else tensor(4, 1, *k), "groups": 2}
    options = {
        name: values for name, values in row.options.items() if name in ("stride", "padding", "dilation")
    }
    return Row(row.shape, always, {**options, "groups": [2]})


def average(dims: int) -> Row:
    shape, k = (LINE, [3]) if dims == 1 else (IMAGE, [3, 2])
    one, none = [1] * dims, [0] * dims
    always = {
        "kernel_size": k,
        "stride": [2] * dims,
        "padding": one,
        "ceil_mode": False,
        "count_include_pad": True,
    }
    options = {
        "kernel_size": [k, [2] * dims],
        "stride": [[], one, [3] * dims],
        "padding": [none, one],
        "ceil_mode": [False, True],
        "count_include_pad": [False, True],
    }
    if dims == 2:
        always["divisor_override"] = None
        options["divisor_override"] = [None, -2, 1, 5, -1000000, 1000000]
    return Row(shape, always, options)


def maximum(dims: int) -> Row:
    shape, k = (LINE, [2]) if dims == 1 else ((1, 5, 4), [2, 3])
    one, none = [1] * dims, [0] * dims
    always = {"kernel_size": k, "stride": one, "padding": none, "dilation": one, "ceil_mode": False}
    options = {
        "kernel_size": [k, one, [3] * dims],
        "stride": [[], one, [2] * dims, [3] * dims],
        "padding": [none, one],
        "dilation": [one, [2, 1][:dims]],
        "ceil_mode": [False, True],
    }
    return Row(shape, always, options)


REDUCED = {"dim": [[1], [-1], [2, 3], [1, -1]], "keepdim": [False, True], "dtype": [None, torch.float64]}
OTHER = [tensor(2, 4, 3), tensor(3), tensor(2, 1, 1) * 0, -tensor(4, 1).abs(), tensor(1) * 1e6]
MOVING = [Of(lambda h: h), Of(F.relu), Of(lambda h: h[:, :1] * -2), Of(lambda h: h.mean(-1, keepdim=True))]
FACTOR, HUGE, NONE = tensor(1, 5, 3), tensor(1, 5, 2) * 1e6, torch.zeros(1, 5, 3).double()
FOLDED = [Of(lambda h: h.transpose(1, 2)), Of(lambda h: F.relu(h).transpose(1, 2))]
"""Matrices of each image that a matrix of it can be multiplied by."""
ALPHA = [1, -2.5, 0, 1e6, -1e-6]
SCALARS = [3, -1.5, 0, 1e6]
SOFTMAX = Row(IMAGE, {}, {"dim": [1, -1, 2]})
INNER_SOFTMAX = Row(IMAGE, {"dim": 1, "half_to_float": False}, {"dim": [1, -1, 2], "half_to_float": [False]})

EXTREME = Row(IMAGE, {"dim": [1], "keepdim": True}, {
    "dim": [[-1], [2, 3], [1, -1], Refused([], "amax|batch"), Refused([0], "amax|batch")], "keepdim": [False, True],
}, read_as=aten.max_pool2d.default)  # fmt: skip
EXTREME_PLACE = Row(IMAGE, {"dim": 1, "keepdim": True}, {
    "dim": [-1, 2, Refused(0, "amax|batch")], "keepdim": [False, True],
}, read_as=aten.max_pool2d.default, outputs=1)  # fmt: skip
NORMALISED = {
    "weight": None, "bias": None, "running_mean": numbers(0.3, -1), "running_var": numbers(0.5, 2), "momentum": 0.1,
    "eps": 1e-5,
}  # fmt: skip
X = Of(lambda h: h)
TABLE: dict[Any, list[Row]] = {
    aten.linear.default: [Row(VECTOR, {"weight": tensor(3, 4), "bias": None}, {
        "weight": [-tensor(3, 4).abs(), torch.zeros(3, 4).double(), tensor(3, 4) * 1e6],
        "bias": [None, numbers(-1, 0, 1e6)],
    })],
    aten.matmul.default: [Row(LINE, {}, {
        "other": [tensor(5, 3), -tensor(5, 2).abs(), tensor(5, 1) * 0, tensor(5), FACTOR * 1e6, *FOLDED],
    })],
    aten.mm.default: [Row(VECTOR, {}, {"mat2": [tensor(4, 3), -tensor(4, 2).abs(), tensor(4, 1) * 0]})],
    aten.bmm.default: [Row(LINE, {}, {
        "mat2": [*FOLDED, *map(for_each, (FACTOR, -FACTOR.abs(), HUGE, NONE))],
    })],
    aten.einsum.default: [
        Row(LINE, {"equation": "nci,ik->nkc", "tensors": [X, tensor(5, 3)]}, {
            "equation": [
                "nci,ik->nck", "nci,ik->nkic", " nci , ik -> nc", Refused("nci,ik"), Refused("n...i,ik->n...k"),
                Refused("nci,ik->cnk"),
            ],
            "path": [None, [0, 1]],
        }),
        Row(LINE, {"equation": "nci,ik->nkc"}, {
            "tensors": [[X, -tensor(5, 2).abs()], [X, torch.zeros(5, 1).double()], [X, tensor(5, 2) * 1e6]],
        }),
        Row(LINE, {"tensors": [X, Of(F.relu)]}, {
            "equation": [
                "nci,ncj->nij", "nci,nci->nc", "nci,ndi->ndc", "nci,nci->ni", "nci,ncj->njci", Refused("nci,ndj->nc"),
                Refused("nci,mci->nm"),
            ],
        }),
        Row((3, 3), {"tensors": [X]}, {"equation": ["nci->nic", Refused("ncc->nc")]}),
    ],
    aten.batch_norm.default: [Row(IMAGE, {
        "weight": None, "bias": None, "running_mean": numbers(0.3, -1), "running_var": numbers(0.5, 2),
        "training": False,
        "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": False,
    }, {
        "weight": [None, numbers(-1.5, 0)], "bias": [None, numbers(-2, 1e6)],
        "running_mean": [numbers(0, 1e6), numbers(-3, 0.1)], "running_var": [numbers(0, 1), numbers(1e-8, 1e6)],
        "training": [False], "eps": [1e-3, 0.0, 10.0] ,
    })],
    aten.avg_pool1d.default: [average(1)],
    aten.avg_pool2d.default: [average(2)],
    aten.adaptive_avg_pool1d.default: [Row(LINE, {}, {"output_size": [[1], [3], [5], [7]]})],
    aten.adaptive_avg_pool2d.default: [Row(IMAGE, {}, {"output_size": [[1, 1], [3, 2], [5, 6]]})],
    aten.mean.dim: [Row(IMAGE, {"dim": [2]}, REDUCED)],
    aten.sum.dim_IntList: [Row(IMAGE, {"dim": [2]}, REDUCED)],
    aten.upsample_nearest1d.vec: [
        Row(LINE, {"output_size": None, "scale_factors": [2.0]}, {"scale_factors": [[2.0], [0.5], [1.7]]}),
        Row(LINE, {"output_size": [7], "scale_factors": None}, {"output_size": [[7], [2], [5]]}),
    ],
    aten.upsample_nearest2d.vec: [
        Row(IMAGE, {"output_size": None}, {"scale_factors": [[2.0, 1.0], [0.5, 1.0], [1.7, 2.4]]}),
        Row(IMAGE, {"scale_factors": None}, {"output_size": [[7, 2], [2, 3], [4, 3]]}),
    ],
    aten.upsample_bilinear2d.vec: [
        Row(IMAGE, {"output_size": None, "align_corners": False, "scale_factors": [1.7, 2.4]}, {
            "scale_factors": [[2.0, 1.0], [0.5, 1.0], [1.7, 2.4]], "align_corners": [False, True],
        }),
        Row(IMAGE, {"scale_factors": None, "align_corners": False, "output_size": [5, 2]}, {
            "output_size": [[7, 2], [2, 3], [1, 1]], "align_corners": [False, True],
        }),
    ],
    aten.add.Tensor: [Row(IMAGE, {"other": OTHER[0], "alpha": -2}, {"other": [*OTHER, *MOVING], "alpha": ALPHA})],
    aten.add.Scalar: [Row(IMAGE, {"other": 2, "alpha": -2}, {"other": SCALARS, "alpha": ALPHA})],
    aten.sub.Tensor: [Row(IMAGE, {"other": OTHER[0], "alpha": -2}, {"other": [*OTHER, *MOVING], "alpha": ALPHA})],
    aten.sub.Scalar: [Row(IMAGE, {"other": 2, "alpha": -2}, {"other": SCALARS, "alpha": ALPHA})],
    aten.rsub.Scalar: [Row(IMAGE, {"other": 2, "alpha": -2}, {"other": SCALARS, "alpha": ALPHA})],
    aten.neg.default: [Row()],
    aten.mul.Tensor: [Row(IMAGE, {}, {"other": [*OTHER, tensor(2, 4, 1), *MOVING]})],
    aten.mul.Scalar: [Row(IMAGE, {}, {"other": [3, -1.5, 1e6, -1e-6]})],
    aten.div.Tensor: [
        Row(IMAGE, {}, {"other": [tensor(2, 4, 3), -tensor(3).abs(), tensor(1) * 1e6]}),
        Row(IMAGE, {}, {"other": [Of(torch.exp), Of(lambda h: -torch.exp(h[:, :1]))]}, read_as=aten.mul.Tensor),
    ],
    aten.div.Scalar: [Row(IMAGE, {}, {"other": [3, -1.5, 1e6, -1e-6, Refused(0)]})],
    aten.conv1d.default: [conv(1), grouped(1)],
    aten.conv2d.default: [conv(2), grouped(2)],
    aten.conv1d.padding: [conv(1, text=True), grouped(1, text=True)],
    aten.conv2d.padding: [conv(2, text=True), grouped(2, text=True)],
    aten.conv_transpose1d.default: [conv(1, True), grouped(1, True)],
    aten.conv_transpose2d.input: [conv(2, True), grouped(2, True)],
    aten.view.default: [Row(IMAGE, {}, {"size": [[-1, 24], [-1, 6, 4], [-1, 2, 1, 12]]})],
    aten._unsafe_view.default: [Row(IMAGE, {}, {"size": [[-1, 24], [-1, 6, 4]]})],
    aten.reshape.default: [Row(IMAGE, {}, {"shape": [[-1, 24], [-1, 6, 4], [-1, 1, 3, 8]]})],
    aten.flatten.using_ints: [Row(IMAGE, {"start_dim": 1, "end_dim": -1}, {"start_dim": [1, -2], "end_dim": [2, -1]})],
    aten.unflatten.int: [Row(IMAGE, {"dim": 2, "sizes": [2, 2]}, {"dim": [2, -2], "sizes": [[2, -1], [1, 4]]})],
    aten.squeeze.dim: [Row((1, 4, 1), {}, {"dim": [1, -1, 2]})],
    aten.squeeze.dims: [Row((1, 4, 1), {}, {"dim": [[1], [1, -1], [2]]})],
    aten.squeeze.default: [],  # the trace refuses it: a batch of one image loses its dimension
    aten.unsqueeze.default: [Row(LINE, {}, {"dim": [1, -1, 2]})],
    aten.permute.default: [Row(IMAGE, {}, {"dims": [[0, 3, 1, 2], [0, 1, -1, -2]]})],
    aten.transpose.int: [Row(IMAGE, {"dim0": 1, "dim1": 2}, {"dim0": [1, -1], "dim1": [3, -2]})],
    aten.movedim.int: [Row(IMAGE, {"source": 1, "destination": 3}, {"source": [1, -2], "destination": [3, -3]})],
    aten.slice.Tensor: [Row(IMAGE, {"dim": 2, "start": 0, "end": 4, "step": 1}, {
        "dim": [2, -1, 1], "start": [0, 1, -2, None, -9], "end": [3, -1, 99, None], "step": [1, 2, 3],
    })],
    aten.select.int: [Row(IMAGE, {"dim": 2, "index": 0}, {"dim": [1, -1], "index": [1, -1]})],
    aten.narrow.default: [Row(IMAGE, {"dim": 2, "start": 0, "length": 2}, {
        "dim": [1, -1], "start": [1, -2], "length": [1, 2],
    })],
    aten.index_select.default: [Row(IMAGE, {"dim": 2, "index": torch.tensor([1, 0])}, {
        "dim": [1, -1], "index": [torch.tensor([3, 0, 0])],
    })],
    aten.index.Tensor: [Row(IMAGE, {}, {
        "indices": [[None, None, torch.tensor([3, 0, 0])], [None, torch.tensor([1]), torch.tensor([-1])]],
    })],
    aten.channel_shuffle.default: [Row(WIDE, {}, {"groups": [1, 2, 4]})],
    aten.pixel_shuffle.default: [Row(WIDE, {}, {"upscale_factor": [1, 2]})],
    aten.pixel_unshuffle.default: [Row((1, 4, 2), {}, {"downscale_factor": [1, 2]})],
    aten.flip.default: [Row(IMAGE, {}, {"dims": [[1], [-1, 2]]})],
    aten.roll.default: [Row(IMAGE, {"shifts": [1], "dims": [2]}, {"shifts": [[-1], [7]], "dims": [[1], [-1]]})],
    aten.repeat_interleave.self_int: [Row(IMAGE, {"repeats": 2, "dim": 1}, {
        "repeats": [1, 3], "dim": [2, -1], "output_size": [None],
    })],
    aten.reflection_pad1d.default: [Row(LINE, {}, {"padding": [[0, 2], [4, 1], [-1, 1]]})],
    aten.reflection_pad2d.default: [Row(IMAGE, {}, {"padding": [[0, 2, 3, 0], [-1, 0, 1, 1]]})],
    aten.replication_pad1d.default: [Row(LINE, {}, {"padding": [[0, 2], [9, 1], [-1, -1]]})],
    aten.replication_pad2d.default: [Row(IMAGE, {}, {"padding": [[0, 2, 5, 0], [-1, 0, 1, -1]]})],
    aten.dropout.default: [Row(IMAGE, {"p": 0.5, "train": False}, {"p": [0.0, 1.0], "train": [False]})],
    aten.feature_dropout.default: [Row(IMAGE, {"p": 0.5, "train": False}, {"p": [0.0, 1.0], "train": [False]})],
    aten.contiguous.default: [Row()],
    aten.clone.default: [Row()],
    aten.alias.default: [Row()],
    aten.detach.default: [],  # the trace reads it as its operand
    aten.to.dtype: [],  # FREE in all but its operand
    aten.to.device: [],
    aten._to_copy.default: [Row(IMAGE, {"dtype": torch.float64})],
    aten.lift_fresh_copy.default: [Row()],
    aten.expand.default: [Row((1, 4, 1), {}, {"size": [[-1, 3, 4, 1], [-1, 1, -1, 3], [-1, 2, 4, 2]]})],
    aten.cat.default: [Row(IMAGE, {}, {"dim": [1, 2, -1, -3]})],
    aten.stack.default: [Row(LINE, {}, {"dim": [1, 2, -1, -2]})],
    aten.constant_pad_nd.default: [Row(IMAGE, {"pad": [1, 0], "value": 0}, {
        "pad": [[1, 2, 0, 1], [-1, 1], [0, -1, -1, 0], [0, 0, 0, 0, 1, 2], [0, 0]], "value": [0, -2.5, 1e6],
    })],
    aten.pad.default: [
        Row(IMAGE, {"pad": [1, 0], "mode": "constant", "value": None}, {
            "pad": [[1, 2, 0, 1], [-1, 1], [0, 0, 0, 0, 1, 2], [0, 0]], "value": [None, 0, -2.5, 1e6],
        }),
        Row(IMAGE, {"pad": [1, 0, 1, 1], "value": None}, {"mode": ["constant", "reflect", "replicate", "circular"]}),
    ],
    aten.relu.default: [Row()],
    aten.leaky_relu.default: [Row(IMAGE, {}, {"negative_slope": [0.2, 0, -0.5, 1, 1.7, -3, 1e6]})],
    aten.abs.default: [Row()],
    aten.prelu.default: [Row(IMAGE, {}, {
        "weight": [numbers(0.3), numbers(-0.5, 1.8), numbers(0, 1), numbers(-1e6, 1e6)],
    })],
    aten.sigmoid.default: [Row()],
    aten.tanh.default: [Row()],
    aten.atan.default: [Row()],
    aten.arctan.default: [Row()],
    aten.softplus.default: [
        Row(IMAGE, {"beta": beta, "threshold": 20}, {
            "beta": [beta], "threshold": [20, 1, 0, -2, 0.3, -1000, INF, -INF],
        })
        for beta in (1, -1, 3, -3)
    ] + [Row(IMAGE, {"beta": 1, "threshold": 20}, {
        "beta": [1e6, -1e6, 1e-6, -1e-6, Refused(0), Refused(INF)], "threshold": [Refused(NAN)],
    })],
    aten.elu.default: [Row(IMAGE, {"alpha": 1, "scale": 1, "input_scale": 1}, {
        "alpha": [0.5, 2, 0, 1e3, Refused(-1)], "scale": [2, 1e3, Refused(0), Refused(-1.5)],
        "input_scale": [3, 1e-6, Refused(0), Refused(-0.5)],
    })],
    aten.selu.default: [Row()],
    aten.silu.default: [Row()],
    aten.gelu.default: [Row(IMAGE, {}, {"approximate": ["none", "tanh"]})],
    aten.hardswish.default: [Row()],
    aten.exp.default: [Row()],
    aten.square.default: [Row()],
    aten.hardtanh.default: [Row(IMAGE, {"min_val": -0.5, "max_val": 0.5}, {
        "min_val": [-1, 0, 0.5, -INF, -1e6], "max_val": [0.2, -0.5, INF, 1e6],
    })],
    aten.relu6.default: [Row()],
    aten.hardsigmoid.default: [Row()],
    aten.clamp.default: [Row(IMAGE, {"min": -0.5, "max": 0.5}, {
        "min": [None, 0, 0.5, 2, INF, -INF], "max": [None, 0.1, -0.5, -2, INF, -1e6],
    })],
    aten.clamp_min.default: [Row(IMAGE, {}, {"min": [0, -0.3, 5, -INF]})],
    aten.clamp_max.default: [Row(IMAGE, {}, {"max": [0, -0.3, 5, INF]})],
    aten.reciprocal.default: [Row(domain=lambda x: torch.exp(x))],
    aten.sqrt.default: [Row(domain=lambda x: torch.exp(x))],
    aten.rsqrt.default: [Row(domain=lambda x: torch.exp(x))],
    aten.log.default: [Row(domain=lambda x: torch.exp(x))],
    aten.mish.default: [Row()],
    aten.sign.default: [Row()],
    aten.softmax.int: [SOFTMAX],
    aten._softmax.default: [INNER_SOFTMAX],
    aten.log_softmax.int: [SOFTMAX],
    aten._log_softmax.default: [INNER_SOFTMAX],
    aten.maximum.default: [Row(IMAGE, {}, {"other": [*OTHER, *MOVING]})],
    aten.minimum.default: [Row(IMAGE, {}, {"other": [*OTHER, *MOVING]})],
    aten.max.other: [Row(IMAGE, {}, {"other": [*OTHER, *MOVING]})],
    aten.min.other: [Row(IMAGE, {}, {"other": [*OTHER, *MOVING]})],
    aten.max_pool1d.default: [maximum(1)],
    aten.max_pool2d.default: [maximum(2)],
    # Read as several others
    aten.layer_norm.default: [Row(IMAGE, {"normalized_shape": [3], "weight": None, "bias": None}, {
        "normalized_shape": [[3], [4, 3], [2, 4, 3]], "weight": [None, -tensor(3).abs(), numbers(0, 1, 1e6)],
        "bias": [None, numbers(-1, 0, 1e6)], "eps": [1e-5, Refused(0.0, "eps"), 0.1, 1e6],
    }, read_as=aten.rsqrt.default)],
    aten.amax.default: [EXTREME],
    aten.amin.default: [EXTREME],
    aten.max.dim: [EXTREME_PLACE],
    aten.min.dim: [EXTREME_PLACE],
    # Operators that have several outputs
    aten.split.Tensor: [Row(IMAGE, {"split_size": 3, "dim": 2}, {
        "split_size": [1, 2, 4, 99], "dim": [1, -1, Refused(0, "batch")],
    }, read_as=aten.slice.Tensor)],
    aten.split_with_sizes.default: [
        Row(IMAGE, {"dim": 2}, {"split_sizes": [[1, 3], [4], [2, 0, 2]]}, read_as=aten.slice.Tensor),
        Row(IMAGE, {"split_sizes": [1, 1]}, {"dim": [1, -3, Refused(0, "batch")]}, read_as=aten.slice.Tensor),
    ],
    aten.chunk.default: [Row(IMAGE, {"chunks": 2, "dim": 2}, {
        "chunks": [1, 3, 99], "dim": [1, -1, Refused(0, "batch")],
    }, read_as=aten.slice.Tensor)],
    aten.unbind.int: [Row(IMAGE, {}, {"dim": [1, -1, Refused(0, "batch")]}, read_as=aten.select.int)],
    aten.max_pool2d_with_indices.default: [replace(maximum(2), read_as=aten.max_pool2d.default, outputs=1)],
    aten._native_batch_norm_legit_no_training.default: [Row(IMAGE, NORMALISED, {
        "weight": [None, numbers(-1.5, 0)], "bias": [None, numbers(-2, 1e6)],
        "running_mean": [numbers(0, 1e6)], "running_var": [numbers(1e-8, 1e6)], "eps": [1e-3, 0.0, 10.0],
    }, read_as=aten.batch_norm.default, outputs=1)],
    aten._native_batch_norm_legit_functional.default: [Row(IMAGE, {**NORMALISED, "training": False}, {
        "weight": [None, numbers(-1.5, 0)], "bias": [None, numbers(-2, 1e6)], "training": [False],
        "running_mean": [numbers(0, 1e6)], "running_var": [numbers(1e-8, 1e6)], "eps": [1e-3, 0.0, 10.0],
    }, read_as=aten.batch_norm.default, outputs=1)],
    aten._native_batch_norm_legit.no_stats: [Row(IMAGE, {
        "weight": None, "bias": None, "training": True, "momentum": 0.1, "eps": 1e-5,
    }, {name: [Refused(value, "batch statistics")] for name, value in (  # statistics of the batch: images meet
        ("weight", numbers(1, 2)), ("bias", numbers(1, 2)), ("training", True), ("eps", 0.1),
    )}, outputs=1)],
    # Operators that take the shape of another tensor
    aten.view_as.default: [Row(IMAGE, {}, {
        "other": [Of(lambda h: 2 * h.flatten(1)), Of(lambda h: h.reshape(-1, 6, 4))],
    }, read_as=aten.view.default)],
    aten.reshape_as.default: [Row(IMAGE, {}, {
        "other": [Of(lambda h: 2 * h.flatten(1)), Of(lambda h: h.reshape(-1, 6, 4))],
    }, read_as=aten.reshape.default)],
    aten.expand_as.default: [Row((1, 4, 1), {}, {
        "other": [Of(lambda h: h.expand(-1, 3, 4, 1) * 2), Of(lambda h: h.expand(-1, 1, 4, 3) * 2)],
    }, read_as=aten.expand.default)],
    # Under another name
    aten.swapaxes.default: [Row(IMAGE, {"axis0": 1, "axis1": 2}, {
        "axis0": [1, -1], "axis1": [3, -2],
    }, read_as=aten.transpose.int)],
}  # fmt: skip
NAMED_TWICE = {other: target for other, target in SYNONYMS.items() if target in TABLE and other not in TABLE}
TABLE |= {
    other: [replace(row, read_as=row.read_as or target) for row in TABLE[target]]
    for other, target in NAMED_TWICE.items()
}

KNOWN = dict.fromkeys(
    (
        *REGISTERED,
        *COMPOSED,
        *SPLITS,
        *LIKE,
        *(other for other, target in SYNONYMS.items() if target in REGISTERED),
    )
)
"""Every operator that has a rule, or that the trace reads as some that have."""
