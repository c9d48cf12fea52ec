"""Every option of every operator with a rule: the values tried, each by every method against the operator itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from effort import examples, in_turn
from torch import Tensor, nn

import bounds
from bounds.operators import RULES

aten = torch.ops.aten
INF, NAN = float("inf"), float("nan")
METHODS = {**bounds.METHODS, "alpha-crown": bounds.AlphaCrown(iterations=1)}
LINE, IMAGE, WIDE, VECTOR = (2, 5), (2, 4, 3), (4, 3, 2), (4,)


def tensor(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Numbers of both signs."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double() * scale


def numbers(*values: float) -> Tensor:
    return torch.tensor(values).double()


@dataclass(frozen=True)
class Refused:
    """A value that torch takes and the engine refuses by name."""

    value: Any


@dataclass(frozen=True)
class Row:
    """An operator: the operand's shape, what every call has, and for each option the values tried.

    domain: what the operand is put through first, where the operator is not defined everywhere.
    """

    shape: tuple[int, ...] = IMAGE
    always: dict[str, Any] = field(default_factory=dict)
    options: dict[str, list[Any]] = field(default_factory=dict)
    domain: Any = None


FREE = {
    "self", "input", "tensors",  # what is perturbed
    "momentum", "cudnn_enabled", "memory_format", "non_blocking", "copy", "pin_memory", "layout", "device", "implicit",
    "dtype", "output_size of repeat_interleave",
}  # fmt: skip
"""Arguments that are no options of the function: its operand, and what no value depends on in the run's own dtype."""


def conv(dims: int, transposed: bool = False, text: bool = False) -> Row:
    """Groups, strides, dilations; weights of 2·groups channels."""
    shape, k = (LINE, (3,)) if dims == 1 else ((2, 5, 4), (3, 2))
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
ALPHA = [1, -2.5, 0, 1e6, -1e-6]
SCALARS = [3, -1.5, 0, 1e6]
SOFTMAX = Row(IMAGE, {}, {"dim": [1, -1, 2]})
INNER_SOFTMAX = Row(IMAGE, {"dim": 1, "half_to_float": False}, {"dim": [1, -1, 2], "half_to_float": [False]})

TABLE: dict[Any, list[Row]] = {
    aten.linear.default: [Row(VECTOR, {"weight": tensor(3, 4), "bias": None}, {
        "weight": [-tensor(3, 4).abs(), torch.zeros(3, 4).double(), tensor(3, 4) * 1e6],
        "bias": [None, numbers(-1, 0, 1e6)],
    })],
    aten.matmul.default: [Row(LINE, {}, {"other": [tensor(5, 3), -tensor(5, 2).abs(), tensor(5, 1) * 0]})],
    aten.mm.default: [Row(VECTOR, {}, {"mat2": [tensor(4, 3), -tensor(4, 2).abs(), tensor(4, 1) * 0]})],
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
    aten.add.Tensor: [Row(IMAGE, {"other": OTHER[0], "alpha": -2}, {"other": OTHER, "alpha": ALPHA})],
    aten.add.Scalar: [Row(IMAGE, {"other": 2, "alpha": -2}, {"other": SCALARS, "alpha": ALPHA})],
    aten.sub.Tensor: [Row(IMAGE, {"other": OTHER[0], "alpha": -2}, {"other": OTHER, "alpha": ALPHA})],
    aten.sub.Scalar: [Row(IMAGE, {"other": 2, "alpha": -2}, {"other": SCALARS, "alpha": ALPHA})],
    aten.rsub.Scalar: [Row(IMAGE, {"other": 2, "alpha": -2}, {"other": SCALARS, "alpha": ALPHA})],
    aten.neg.default: [Row()],
    aten.mul.Tensor: [Row(IMAGE, {}, {"other": [*OTHER, tensor(2, 4, 1)]})],
    aten.mul.Scalar: [Row(IMAGE, {}, {"other": [3, -1.5, 1e6, -1e-6]})],
    aten.div.Tensor: [Row(IMAGE, {}, {"other": [tensor(2, 4, 3), -tensor(3).abs(), tensor(1) * 1e6]})],
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
    aten.maximum.default: [Row(IMAGE, {}, {"other": OTHER})],
    aten.minimum.default: [Row(IMAGE, {}, {"other": OTHER})],
    aten.max.other: [Row(IMAGE, {}, {"other": OTHER})],
    aten.min.other: [Row(IMAGE, {}, {"other": OTHER})],
    aten.max_pool1d.default: [maximum(1)],
    aten.max_pool2d.default: [maximum(2)],
}  # fmt: skip


class Net(nn.Module):
    """The operator, once for each set of arguments, between nonlinear functions that mix signs.

    Its interval, planes and transpose all matter.
    """

    def __init__(self, target: Any, row: Row, calls: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.target, self.row = target, row
        self.calls = list(calls)
        for i, arguments in enumerate(calls):
            for name, value in arguments.items():
                if isinstance(value, Tensor):
                    self.register_buffer(f"constant_{i}_{name}", value.clone())

    def option(self, i: int, name: str) -> Any:
        return getattr(self, f"constant_{i}_{name}", self.calls[i].get(name))

    def distinct(self) -> int:
        """How many nodes the calls are: those that have the same numbers and no tensors are one."""
        defaults = {a.name: a.default_value for a in self.target._schema.arguments if a.has_default_value()}
        plain = (call for call in self.calls if not any(isinstance(v, Tensor) for v in call.values()))
        fixed = [repr(sorted({**defaults, **call}.items())) for call in plain]
        return len(set(fixed)) + len(self.calls) - len(fixed)

    def forward(self, x: Tensor) -> Tensor:
        """The values of every call, one after the other.  [N, units]"""
        return torch.cat([self.called(i, x) for i in range(len(self.calls))], 1)

    def called(self, i: int, x: Tensor) -> Tensor:
        h = 2 * x - F.relu(x)
        h = h if self.row.domain is None else self.row.domain(h)
        positional, named = [], {}
        for argument in self.target._schema.arguments:
            if argument.name in ("self", "input"):
                positional.append(h)
            elif argument.name == "tensors":
                positional.append([h, F.relu(h), -h])
            elif argument.name not in self.calls[i]:
                assert argument.has_default_value(), argument.name
                if not argument.kwarg_only:
                    positional.append(argument.default_value)
            elif argument.kwarg_only:
                named[argument.name] = self.option(i, argument.name)
            else:
                positional.append(self.option(i, argument.name))
        y = self.target(*positional, **named)
        return torch.cat([(F.relu(y.flatten(1) + 0.1)), -y.flatten(1)], 1)


def tried(row: Row, refused: bool) -> dict[str, dict[str, Any]]:
    """What a row calls its operator with, by a name: the row as it is, or each value of each option."""
    if not row.options:
        return {} if refused else {"as it is": row.always}
    return {
        f"{option} {v}": {**row.always, option: value.value if refused else value}
        for option, values in row.options.items()
        for v, value in enumerate(values)
        if isinstance(value, Refused) == refused
    }


def cases(refused: bool) -> Iterator[Any]:
    """Each row that has something to call, or to refuse."""
    for target, rows in TABLE.items():
        for r, row in enumerate(rows):
            if tried(row, refused):
                yield pytest.param(target, row, id=f"{target} {r}")


def argument_names(target: Any) -> set[str]:
    return {argument.name for argument in target._schema.arguments} - FREE


@pytest.mark.parametrize("target", RULES, ids=str)
def test_the_table_names_every_option(target: Any) -> None:
    """An operator that is added needs a row, and values for each argument of its schema."""
    assert target in TABLE, f"{target} has a rule and no row in TABLE"
    named = {name for row in TABLE[target] for name in (row.options or {})}
    assert argument_names(target) <= named | FREE
    assert all(row.options.get(name) for row in TABLE[target] for name in row.options)


@pytest.mark.parametrize(("target", "row"), list(cases(refused=True)))
def test_a_value_that_cannot_be_bounded_is_refused_by_name(target: Any, row: Row) -> None:
    x = tensor(2, *row.shape, scale=0.6, seed=1)
    for name, arguments in tried(row, refused=True).items():
        network = bounds.trace(Net(target, row, [arguments]).double().eval(), x).bind(dtype=torch.float64)
        for method in METHODS.values():
            with pytest.raises(bounds.UnsupportedOp, match=str(target).split(".")[1]):
                bounds.output_bounds(network, bounds.Linf(x, 0.4), method)
                pytest.fail(f"{name} has bounds")


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("target", "row"), list(cases(refused=False)))
def test_the_options_of_an_operator(target: Any, row: Row) -> None:
    """No sampled point and no corner leaves the bounds, whatever the value of an option."""
    x = tensor(2, *row.shape, scale=0.6, seed=1)
    calls = tried(row, refused=False)
    model = Net(target, row, list(calls.values())).double().eval()
    network = bounds.trace(model, x).bind(dtype=torch.float64)
    assert sum(node.target is target for node in network.graph.nodes.values()) >= model.distinct()
    region, count = bounds.Linf(x, 0.4), examples(60, 200)
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(count, *x.shape, generator=generator, dtype=x.dtype) * 2 - 1
    points = x + 0.4 * torch.cat([noise, noise.sign(), torch.zeros_like(noise[:1])])
    with torch.no_grad():
        outputs = network(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        for which in (0, count, 2 * count):
            torch.testing.assert_close(outputs[which], model(points[which]), rtol=1e-9, atol=1e-9)
        sizes = [model.called(i, x).shape[1] for i in range(len(calls))]
    scale = 1 + outputs.abs().amax(0)
    others = [name for name in METHODS if name != "crown"]
    for method_name in ("crown", *in_turn(others, f"{target} {list(calls)}")):
        found = bounds.output_bounds(network, region, METHODS[method_name]).detach()
        width = ((found.upper - found.lower) / scale).split(sizes, 1)
        below = ((outputs - found.lower) / scale).split(sizes, 2)
        above = ((found.upper - outputs) / scale).split(sizes, 2)
        for name, *gaps in zip(calls, width, below, above, strict=True):
            for gap in gaps:
                assert torch.isfinite(gap).all() and gap.min() >= -1e-9, (name, method_name)
