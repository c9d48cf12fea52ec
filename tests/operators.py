"""Every operator configuration that the engine claims, as a table: one small module each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (2, 4, 3)


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True)
class Operator:
    """A module (or a function) on [N, *shape]."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = SHAPE
    affine: bool = False


def function(f: Callable[[Tensor], Tensor], shape: tuple[int, ...] = SHAPE) -> Operator:
    return Operator(lambda: Function(f), shape)


def linear(f: Callable[[Tensor], Tensor], shape: tuple[int, ...] = SHAPE) -> Operator:
    return Operator(lambda: Function(f), shape, True)


def layer(build: Callable[..., nn.Module], *arguments: int, **options: object) -> Operator:
    """An affine layer; `shape` among the options is its input's."""
    shape = options.pop("shape", SHAPE)
    assert isinstance(shape, tuple)
    return Operator(partial(build, *arguments, **options), shape, True)


def pool(build: Callable[..., nn.Module], *arguments: int, **options: object) -> Operator:
    shape = options.pop("shape", (1, 5, 4))
    assert isinstance(shape, tuple)
    return Operator(partial(build, *arguments, **options), shape)


def norm(gamma: list[float] | None, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """Batch normalisation with statistics far from (0, 1); gamma None: no affine part."""
    build = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    module = build(shape[0], affine=gamma is not None)
    module.running_mean.copy_(torch.linspace(-0.5, 0.7, shape[0]))
    module.running_var.copy_(torch.linspace(0.3, 2.0, shape[0]))
    if gamma is not None:
        with torch.no_grad():
            module.weight.copy_(torch.tensor(gamma))
            module.bias.copy_(torch.linspace(-0.2, 0.4, shape[0]))
    return module


def prelu(*weights: float) -> nn.Module:
    module = nn.PReLU(len(weights))
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weights))
    return module


@cache
def constant(*shape: int) -> Tensor:
    """Made once, before tracing sees it."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).double()


class ChannelShuffle(nn.Module):
    """ShuffleNet's, by view and transpose."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class Gate(nn.Module):
    """Squeeze and excitation: x · sigmoid(linear(mean x))."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))


def in_place_relu(x: Tensor) -> Tensor:
    return (x * 1.5 - 0.1).relu_()


def in_place_sum(x: Tensor) -> Tensor:
    y = x * 2
    y += F.relu(x)
    y *= 0.5
    return y


def in_place_activation(x: Tensor) -> Tensor:
    return F.leaky_relu(x * 1.5, 0.3, inplace=True) + F.hardtanh(x * 2, inplace=True)


LINE, WIDE, LONG = (2, 7), (4, 3, 2), (7,)
SINGLE = (1, 5, 4)

LAYERS = {
    "conv2d": layer(nn.Conv2d, 2, 3, 3),
    "conv2d 1x1, no bias": layer(nn.Conv2d, 2, 3, 1, bias=False),
    "conv2d stride 2, padding 1": layer(nn.Conv2d, 2, 3, 3, stride=2, padding=1),
    "conv2d stride (2, 1), padding (0, 2)": layer(nn.Conv2d, 2, 3, (2, 3), stride=(2, 1), padding=(0, 2)),
    "conv2d stride 3, remainder": layer(nn.Conv2d, 2, 2, 2, stride=3),
    "conv2d same": layer(nn.Conv2d, 2, 2, 3, padding="same"),
    "conv2d same, even kernel": layer(nn.Conv2d, 2, 2, (4, 2), padding="same"),
    "conv2d valid": layer(nn.Conv2d, 2, 2, 2, padding="valid"),
    "conv2d dilation 2": layer(nn.Conv2d, 2, 2, 3, padding=2, dilation=2),
    "conv2d depthwise, dilated, strided": layer(nn.Conv2d, 2, 4, 3, 2, 2, 2, groups=2, bias=False),
    "conv2d circular": layer(nn.Conv2d, 2, 2, 3, padding=1, padding_mode="circular"),
    "conv1d stride 2, padding 1": layer(nn.Conv1d, 2, 3, 3, stride=2, padding=1, shape=LINE),
    "conv1d same, even kernel, dilated": layer(nn.Conv1d, 2, 2, 2, padding="same", dilation=3, shape=LINE),
    "conv1d groups": layer(nn.Conv1d, 2, 4, 3, groups=2, bias=False, shape=LINE),
    "conv_transpose2d": layer(nn.ConvTranspose2d, 2, 2, 3),
    "conv_transpose2d stride, output padding": layer(nn.ConvTranspose2d, 2, 2, 3, 2, 1, 1, shape=(2, 2, 3)),
    "conv_transpose2d groups, dilation": layer(nn.ConvTranspose2d, 2, 4, 2, groups=2, dilation=2),
    "conv_transpose1d": layer(nn.ConvTranspose1d, 2, 3, 3, 3, 1, 2, bias=False, shape=LINE),
    "linear": layer(nn.Linear, 7, 5, shape=LONG),
    "linear, no bias, on a row axis": layer(nn.Linear, 7, 3, bias=False, shape=LINE),
    "batch norm": Operator(lambda: norm([1.5, 0.4]), affine=True),
    "batch norm, negative gamma": Operator(lambda: norm([-1.5, 0.4]), affine=True),
    "batch norm, no affine": Operator(lambda: norm(None), affine=True),
    "batch norm of vectors": Operator(
        lambda: norm([-1.0, 2.0, 0.0, 1, 1, 1, -3], LONG), shape=LONG, affine=True
    ),
    "avg pool": layer(nn.AvgPool2d, 2, shape=SINGLE),
    "avg pool, overlapping, padded": layer(nn.AvgPool2d, 3, 1, 1, shape=SINGLE),
    "avg pool, padding not counted": layer(nn.AvgPool2d, 3, 2, 1, count_include_pad=False, shape=SINGLE),
    "avg pool (2, 3), ceil mode": layer(nn.AvgPool2d, (2, 3), (2, 2), ceil_mode=True, shape=SINGLE),
    "avg pool, ceil mode, padded": layer(nn.AvgPool2d, 3, 2, 1, ceil_mode=True, shape=SINGLE),
    "avg pool, divisor": layer(nn.AvgPool2d, 2, 1, divisor_override=3, shape=SINGLE),
    "avg pool 1d": layer(nn.AvgPool1d, 3, 2, 1, count_include_pad=False, shape=LINE),
    "avg pool 1d, ceil mode": layer(nn.AvgPool1d, 3, 2, ceil_mode=True, shape=(2, 6)),
    "adaptive avg pool": layer(nn.AdaptiveAvgPool2d, 1),
    "adaptive avg pool, not divisible": layer(nn.AdaptiveAvgPool2d, (3, 2), shape=SINGLE),
    "adaptive avg pool 1d": layer(nn.AdaptiveAvgPool1d, 3, shape=LINE),
    "nearest": linear(lambda x: F.interpolate(x, scale_factor=2)),
    "nearest, odd size": linear(lambda x: F.interpolate(x, size=(5, 4), mode="nearest")),
    "nearest 1d": linear(lambda x: F.interpolate(x, scale_factor=2), LINE),
    "bilinear": linear(lambda x: F.interpolate(x, size=(3, 5), mode="bilinear", align_corners=False)),
    "bilinear, corners": linear(lambda x: F.interpolate(x, (5, 4), mode="bilinear", align_corners=True)),
}  # fmt: skip

POOLS = {
    "max pool": pool(nn.MaxPool2d, 2),
    "max pool, overlapping, padded": pool(nn.MaxPool2d, 3, 1, 1),
    "max pool 3, stride 2, padding 1": pool(nn.MaxPool2d, 3, 2, 1),
    "max pool, dilated": pool(nn.MaxPool2d, 2, 1, 0, 2),
    "max pool, dilated, padded": pool(nn.MaxPool2d, 2, 2, 1, 2),
    "max pool (3, 2), stride (2, 1)": pool(nn.MaxPool2d, (3, 2), (2, 1)),
    "max pool, ceil mode": pool(nn.MaxPool2d, 2, 2, ceil_mode=True),
    "max pool, ceil mode, padded": pool(nn.MaxPool2d, 3, 2, 1, ceil_mode=True),
    "max pool, gaps": pool(nn.MaxPool2d, 1, 2),
    "max pool of channels": pool(nn.MaxPool2d, 2, 1, shape=SHAPE),
    "max pool 1d": pool(nn.MaxPool1d, 3, 2, 1, shape=LINE),
    "max pool 1d, dilated, ceil mode": pool(nn.MaxPool1d, 2, 3, 1, 2, ceil_mode=True, shape=LINE),
}

ACTIVATIONS = {
    "relu": function(F.relu),
    "leaky relu": function(lambda x: F.leaky_relu(x, 0.2)),
    "leaky relu, negative slope": function(lambda x: F.leaky_relu(x, -0.5)),
    "leaky relu, slope above 1": function(lambda x: F.leaky_relu(x, 1.7)),
    "prelu": Operator(lambda: prelu(0.3)),
    "prelu per channel": Operator(lambda: prelu(0.3, 1.8)),
    "prelu of vectors": Operator(lambda: prelu(0.3, 1.8, -0.5, 0.0, 1.0, 0.9, 0.1), LONG),
    "hardtanh": function(lambda x: F.hardtanh(x, -0.5, 0.3)),
    "relu6": function(lambda x: F.relu6(6 * x + 3)),
    "relu6 as a module": Operator(lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU6())),
    "hardsigmoid": function(lambda x: F.hardsigmoid(4 * x)),
    "clamp": function(lambda x: x.clamp(-0.4, 0.6)),
    "clamp from below": function(lambda x: x.clamp(min=-0.2)),
    "clamp from above": function(lambda x: torch.clamp_max(x, 0.2)),
    "sigmoid": function(torch.sigmoid),
    "sigmoid, steep": function(lambda x: torch.sigmoid(9 * x + 1)),
    "tanh": function(torch.tanh),
    "tanh, steep": function(lambda x: torch.tanh(6 * x)),
    "arctan": function(torch.atan),
    "arctan, steep": function(lambda x: torch.arctan(8 * x - 1)),
    "softplus": function(F.softplus),
    "softplus, beta and threshold": function(lambda x: F.softplus(x, beta=3.0, threshold=0.7)),
    "elu": function(F.elu),
    "elu, alpha 0.5": function(lambda x: F.elu(2 * x, 0.5)),
    "elu, alpha 2": function(lambda x: F.elu(2 * x, 2.0)),
    "selu": function(torch.selu),
    "silu": function(lambda x: F.silu(4 * x)),
    "gelu": function(lambda x: F.gelu(3 * x)),
    "gelu by tanh": function(lambda x: F.gelu(3 * x, approximate="tanh")),
    "mish": function(lambda x: F.mish(4 * x)),
    "mish, of large numbers": function(lambda x: F.mish(20 * x)),
    "softsign": function(lambda x: F.softsign(4 * x)),
    "sign": function(lambda x: x.sign() * 0.5 + x),
    "sign of positives and negatives": function(
        lambda x: (x[:, :1].square() - 0.1).sign() + x.sigmoid().sign()
    ),
    "rsqrt": function(lambda x: torch.rsqrt(torch.sigmoid(x) + 0.1)),
    "hardswish": function(lambda x: F.hardswish(4 * x)),
    "exp": function(torch.exp),
    "abs": function(torch.abs),
    "square": function(torch.square),
    "power 2": function(lambda x: x**2),
    "sqrt": function(lambda x: torch.sqrt(torch.sigmoid(x) + 0.1)),
    "log": function(lambda x: torch.log(torch.sigmoid(x) + 0.1)),
    "reciprocal": function(lambda x: 1 / (torch.sigmoid(x) + 0.3)),
    "reciprocal of negatives": function(lambda x: -2 / (-torch.sigmoid(x) - 0.3)),
    "in-place relu": function(in_place_relu),
    "in-place sum": function(in_place_sum),
    "in-place activations": function(in_place_activation),
}

PRODUCTS = {
    "x·y": function(lambda x: x[:, :1] * F.relu(x[:, 1:])),
    "x·y of affine forms": function(lambda x: (x - 0.3) * (x.flip(2) + 0.5)),
    "x·x": function(lambda x: x * x),
    "x·y, broadcast": function(lambda x: x * x.sum((2, 3), keepdim=True)),
    "x·(−x)": function(lambda x: x * (-x)),
    "x/y": function(lambda x: x / (torch.sigmoid(x.flip(1)) + 0.5)),
    "x/x": function(lambda x: (lambda y: y / y)(torch.sigmoid(x) + 0.5)),
    "gate": Operator(Gate),
}


def gram(x: Tensor) -> Tensor:
    """Acts on the channels of each image."""
    rows = x.flatten(2)
    return rows @ rows.transpose(1, 2)


def attention(x: Tensor) -> Tensor:
    """Queries times keys times values, without a softmax."""
    q, k, v = (x.flatten(1, 2) @ constant(3, 3 * i + 2)[:, -2:] for i in range(3))
    return (q @ k.transpose(1, 2)) @ v


CONTRACTIONS = {
    "matmul of x and y": function(gram),
    "matmul of heads": function(lambda x: x @ F.relu(x.transpose(2, 3) + 0.2)),
    "matmul, broadcast": function(lambda x: x[:, :1] @ x.transpose(2, 3)),
    "matmul of x and x": function(lambda x: (lambda y: y @ y)(x[:, :, :3])),
    "matmul of a matmul": function(attention),
    "bmm": function(lambda x: torch.bmm(x[:, 0], x[:, 1].transpose(1, 2))),
    "bmm of a constant": linear(lambda x: torch.bmm(x[:, 0], constant(1, 3, 2).expand(x.shape[0], 3, 2))),
    "einsum": linear(lambda x: torch.einsum("nchw,wk->nkhc", x, constant(3, 2))),
    "einsum of two constants": linear(
        lambda x: torch.einsum("cd,nchw,wk->nkhd", constant(2, 2), x, constant(3, 2))
    ),
    "einsum of x and y": function(lambda x: torch.einsum("nchw,nkhw->nkhc", x, torch.sigmoid(x))),
    "einsum, outer": function(lambda x: torch.einsum("ni,nj->nij", x[:, 0, 0], x[:, 1, 1])),
    "einsum, inner": function(lambda x: torch.einsum("nchw,nchw->nw", x, x.flip(1))),
}

SOFTMAX = {
    "softmax": function(lambda x: torch.softmax(3 * x, -1)),
    "softmax of channels": function(lambda x: torch.softmax(x, 1)),
    "softmax of rows": function(lambda x: F.softmax(6 * x[:, 0], 1)),
    "softmax of one": function(lambda x: torch.softmax(x[:, :1], 1) + x[:, 1:]),
    "log softmax": function(lambda x: torch.log_softmax(3 * x, -1)),
    "log softmax of channels": function(lambda x: torch.log_softmax(x, 1)),
    "softmin": function(lambda x: F.softmin(x, -1)),
}

EXTREMES = {
    "maximum": function(lambda x: torch.maximum(x, x.flip(2) * 0.5)),
    "maximum, broadcast": function(lambda x: torch.maximum(x, x[:, :1, 1:2])),
    "maximum with constants": function(lambda x: torch.maximum(constant(4, 3) / 2, x)),
    "minimum": function(lambda x: torch.minimum(x.roll(1, 2), 1 - 2 * x)),
    "minimum with constants": function(lambda x: torch.min(x, constant(2, 1, 3) / 2)),
    "maximum of x and x": function(lambda x: torch.maximum(x, x) + F.relu(x)),
    "amax": function(lambda x: x.amax(1)),
    "amax of two axes, keepdim": function(lambda x: x - x.amax((1, -1), keepdim=True)),
    "amax of all": function(lambda x: x.flatten(1).amax(1, keepdim=True) * x[:, 0, 0]),
    "amin": function(lambda x: x.amin((2, 3))),
    "max along an axis": function(lambda x: x.max(3).values),
    "min along an axis, keepdim": function(lambda x: x.min(1, keepdim=True)[0]),
}

NORMALISED = {
    "layer norm": Operator(lambda: nn.LayerNorm(3)),
    "layer norm of two axes": Operator(lambda: nn.LayerNorm((4, 3), eps=0.1, bias=False)),
    "layer norm, large ε": function(lambda x: F.layer_norm(x, (3,), constant(3), constant(3), 0.5)),
}

ARITHMETIC = {
    "add, channel": linear(lambda x: x + constant(2, 1, 1)),
    "add, alpha": linear(lambda x: torch.add(constant(2, 4, 3), x, alpha=-2.5)),
    "add, scalar": linear(lambda x: 3 + x),
    "add, broadcasting x": linear(lambda x: x.mean(1, keepdim=True) + constant(2, 4, 3)),
    "sub": linear(lambda x: x - constant(4, 3)),
    "sub from": linear(lambda x: constant(3) - x),
    "sub, alpha": linear(lambda x: torch.sub(x, constant(2, 4, 3), alpha=3)),
    "sub from a scalar": linear(lambda x: 1 - x),
    "rsub, alpha": linear(lambda x: torch.rsub(x, 2.0, alpha=-3)),
    "negative": linear(lambda x: -x),
    "mul": linear(lambda x: constant(2, 1, 1) * x),
    "mul, broadcasting x": linear(lambda x: x[:, :1] * constant(2, 1, 3)),
    "mul by a negative scalar": linear(lambda x: x * -1.5),
    "div": linear(lambda x: x / constant(1, 4, 3)),
    "div by a scalar": linear(lambda x: x / -3),
    "x + y": linear(lambda x: x + 2 * x.flip(1)),
    "x + x": linear(lambda x: x + x),
    "x − x/2": linear(lambda x: torch.sub(x, x, alpha=0.5)),
    "x + y, alpha, broadcast": linear(lambda x: torch.add(x, x.sum((1, 2), keepdim=True), alpha=-0.5)),
    "x − y": linear(lambda x: x - x.roll(1, 2)),
    "zero": linear(lambda x: x * 0 + x.mul(0.0) + x[:, :1]),
    "sum": linear(lambda x: x.sum((1, 3))),
    "sum, keepdim": linear(lambda x: x.sum(2, keepdim=True)),
    "mean": linear(lambda x: x.mean([2, 3])),
    "mean of the last, keepdim": linear(lambda x: x.mean(-1, keepdim=True)),
    "matmul": linear(lambda x: x @ constant(3, 2)),
    "matmul from the left": linear(lambda x: constant(5, 4) @ x),
}

MOVEMENTS = {
    "cat": linear(lambda x: torch.cat([x, 2 * x, x[:, :1]], 1)),
    "cat with constants": linear(
        lambda x: torch.cat([constant(1, 1, 4, 3).expand(x.shape[0], 1, 4, 3), x], 1)
    ),
    "cat, same twice, last axis": linear(lambda x: torch.cat([x, x], -1)),
    "stack": linear(lambda x: torch.stack([x, -x, x], 2)),
    "stack with constants": linear(
        lambda x: torch.stack([x, constant(1, 2, 4, 3).expand(x.shape[0], 2, 4, 3)], -1)
    ),
    "slice with strides": linear(lambda x: x[:, :, 1::2, ::2]),
    "slice from the end": linear(lambda x: x[:, -1:, :-1]),
    "select": linear(lambda x: x[:, 1, :, -1]),
    "index": linear(lambda x: x[:, :, [3, 0, 0]]),
    "index_select": linear(lambda x: x.index_select(-1, torch.tensor([2, 0]))),
    "flip": linear(lambda x: x.flip(-1, 1)),
    "roll": linear(lambda x: x.roll((1, -1), (2, 3))),
    "narrow": linear(lambda x: x.narrow(2, 1, 2)),
    "zero padding": linear(lambda x: F.pad(x, (1, 2, 0, 1))),
    "constant padding": linear(lambda x: F.pad(x, (1, 0, 2, 1), value=0.7)),
    "cropping padding": linear(lambda x: F.pad(x, (-1, 1), value=-2.0)),
    "reflection padding": linear(lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect")),
    "replication padding": linear(lambda x: F.pad(x, (3, 0, 1, 1), mode="replicate")),
    "circular padding": linear(lambda x: F.pad(x, (1, 1, 0, 2), mode="circular")),
    "replication padding 1d": linear(lambda x: F.pad(x, (2, 1), mode="replicate"), LINE),
    "reshape": linear(lambda x: x.reshape(x.shape[0], 6, 4)),
    "view": linear(lambda x: x.view(-1, 8, 3)),
    "flatten, unflatten": linear(lambda x: x.flatten(2).unflatten(2, (3, 4))),
    "permute": linear(lambda x: x.permute(0, 3, 1, 2)),
    "transpose": linear(lambda x: x.transpose(1, -1)),
    "squeeze, unsqueeze": linear(lambda x: x[:, :1].squeeze(1).unsqueeze(-1)),
    "expand": linear(lambda x: x[:, :1].expand(-1, 3, -1, -1)),
    "channel shuffle": Operator(ChannelShuffle, WIDE, True),
    "channel shuffle as a module": layer(nn.ChannelShuffle, 2, shape=WIDE),
    "pixel shuffle": layer(nn.PixelShuffle, 2, shape=WIDE),
    "pixel unshuffle": layer(nn.PixelUnshuffle, 2, shape=(1, 4, 2)),
    "dropout": layer(nn.Dropout, shape=LONG),
    "dropout of channels": layer(nn.Dropout2d),
    "identity": layer(nn.Identity),
    "split": linear(lambda x: torch.cat(x.split([1, 3], 2)[::-1], 2)),
    "chunk": linear(lambda x: x.chunk(2, 1)[0] - 2 * x.chunk(2, 1)[1]),
    "unbind": linear(lambda x: x.unbind(-1)[0] - x.unbind(-1)[2]),
}

OPERATORS: dict[str, Operator] = {
    **LAYERS, **POOLS, **ACTIVATIONS, **PRODUCTS, **CONTRACTIONS, **SOFTMAX, **EXTREMES, **NORMALISED, **ARITHMETIC,
    **MOVEMENTS,
}  # fmt: skip
