"""The exact minimum of a row of a small ReLU network, by HiGHS and nothing of ours."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor, nn

from oracles.points import Box, cut


@dataclass(frozen=True)
class Affine:
    """z ↦ matrix·z + offset."""

    matrix: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Relu:
    """z ↦ max(z, 0)."""


@dataclass(frozen=True)
class MaxOf:
    """z ↦ max of z over each window (a list of indices; padding is not in it)."""

    windows: tuple[tuple[int, ...], ...]


Layer = Affine | Relu | MaxOf


@dataclass(frozen=True)
class Optimum:
    """`value` = row·f(point), the solver's best; no point of the region is below `proved`."""

    value: float
    proved: float
    point: Tensor


def layers_of(network: nn.Sequential, shape: tuple[int, ...]) -> list[Layer]:
    """The network as unrolled layers on flat vectors, its linear modules as dense float64 matrices."""
    layers: list[Layer] = []
    for module in network:
        if isinstance(module, nn.ReLU):
            layers.append(Relu())
        elif isinstance(module, nn.MaxPool2d):
            windows, shape = _pool_windows(module, shape)
            layers.append(MaxOf(windows))
        elif isinstance(
            module, nn.Conv2d | nn.Linear | nn.AvgPool2d | nn.Flatten | nn.BatchNorm2d | nn.BatchNorm1d
        ):
            affine, shape = _unrolled(module, shape)
            layers.append(affine)
        else:
            raise TypeError(f"the MILP oracle has no encoding of {type(module).__name__}")
    return layers


def _unrolled(module: nn.Module, shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    size = int(np.prod(shape))
    basis = torch.cat([torch.zeros(1, size), torch.eye(size)]).double().reshape(-1, *shape)
    with torch.no_grad():
        images = module(basis)
    out = images.flatten(1).numpy()
    return Affine((out[1:] - out[0]).T.copy(), out[0].copy()), tuple(images.shape[1:])


def _pool_windows(
    pool: nn.MaxPool2d, shape: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    channels, height, width = shape
    numbers = torch.arange(1, channels * height * width + 1).double().reshape(channels, 1, height, width)
    columns = nn.functional.unfold(
        numbers, pool.kernel_size, dilation=pool.dilation, padding=pool.padding, stride=pool.stride
    )
    windows = columns.transpose(1, 2).flatten(0, 1).long().tolist()
    out = tuple(pool(numbers.reshape(1, *shape)).shape[1:])
    if len(windows) != int(np.prod(out)):
        raise TypeError("the MILP oracle encodes max pooling without ceil mode only")
    return tuple(tuple(i - 1 for i in window if i > 0) for window in windows), out


def box_bounds(layers: list[Layer], low: np.ndarray, high: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Interval bounds of the input and of every layer's output, by the oracle's own arithmetic."""
    bounds = [(low, high)]
    for layer in layers:
        low, high = bounds[-1]
        match layer:
            case Affine(matrix, offset):
                up, down = np.maximum(matrix, 0), np.minimum(matrix, 0)
                bounds.append((up @ low + down @ high + offset, up @ high + down @ low + offset))
            case Relu():
                bounds.append((np.maximum(low, 0), np.maximum(high, 0)))
            case MaxOf(windows):
                bounds.append(tuple(np.array([side[list(w)].max() for w in windows]) for side in (low, high)))
    return bounds


class _Program:
    """Rows and columns of a mixed-integer program, collected one constraint at a time."""

    def __init__(self) -> None:
        self.low: list[float] = []
        self.high: list[float] = []
        self.integral: list[int] = []
        self.rows: list[tuple[list[int], list[float], float, float]] = []

    def variables(self, low: np.ndarray, high: np.ndarray, *, integral: bool = False) -> np.ndarray:
        first = len(self.low)
        self.low += low.tolist()
        self.high += high.tolist()
        self.integral += [int(integral)] * len(low)
        return np.arange(first, len(self.low))

    def constrain(self, columns: list[int], weights: list[float], low: float, high: float) -> None:
        self.rows.append((columns, weights, low, high))

    def minimise(self, columns: np.ndarray, cost: np.ndarray, seconds: float) -> optimize.OptimizeResult:
        counts = [len(columns) for columns, *_ in self.rows]
        matrix = sparse.csr_array(
            (
                np.concatenate([row[1] for row in self.rows]),
                (np.repeat(np.arange(len(self.rows)), counts), np.concatenate([row[0] for row in self.rows])),
            ),
            shape=(len(self.rows), len(self.low)),
        )
        objective = np.zeros(len(self.low))
        objective[columns] = cost
        result = optimize.milp(
            objective,
            constraints=optimize.LinearConstraint(
                matrix, [r[2] for r in self.rows], [r[3] for r in self.rows]
            ),
            bounds=optimize.Bounds(np.array(self.low), np.array(self.high)),
            integrality=np.array(self.integral),
            options={"mip_rel_gap": 0.0, "time_limit": seconds},
        )
        if result.status != 0:
            raise RuntimeError(f"the MILP oracle did not finish: {result.message}")
        return result


def _encode_relu(program: _Program, z: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    y = program.variables(np.maximum(low, 0), np.maximum(high, 0))
    for zi, yi, below, above in zip(z.tolist(), y.tolist(), low.tolist(), high.tolist(), strict=True):
        if below >= 0:
            program.constrain([yi, zi], [1.0, -1.0], 0.0, 0.0)
        elif above > 0:
            on = int(program.variables(np.zeros(1), np.ones(1), integral=True)[0])
            program.constrain([yi, zi], [1.0, -1.0], 0.0, np.inf)
            program.constrain([yi, zi, on], [1.0, -1.0, -below], -np.inf, -below)
            program.constrain([yi, on], [1.0, -above], -np.inf, 0.0)
    return y


def _encode_max(
    program: _Program, z: np.ndarray, low: np.ndarray, high: np.ndarray, windows: tuple[tuple[int, ...], ...]
) -> np.ndarray:
    tops = [(max(low[i] for i in w), max(high[i] for i in w)) for w in windows]
    y = program.variables(np.array([t[0] for t in tops]), np.array([t[1] for t in tops]))
    for yi, window, (floor, ceiling) in zip(y.tolist(), windows, tops, strict=True):
        rivals = [i for i in window if high[i] >= floor]
        chosen = program.variables(np.zeros(len(rivals)), np.ones(len(rivals)), integral=True).tolist()
        program.constrain(chosen, [1.0] * len(rivals), 1.0, 1.0)
        for i, pick in zip(rivals, chosen, strict=True):
            reach = float(ceiling - low[i])
            program.constrain([yi, int(z[i])], [1.0, -1.0], 0.0, np.inf)
            program.constrain([yi, int(z[i]), pick], [1.0, -1.0, reach], -np.inf, reach)
    return y


def exact_minimum(
    network: nn.Sequential,
    row: Tensor,
    x: Tensor,
    eps: float,
    *,
    norm: Literal["linf", "l1"] = "linf",
    lower: Box = None,
    upper: Box = None,
    seconds: float = 60.0,
) -> Optimum:
    """min of row·f over an l∞ or l1 ball of radius eps round one input x [*shape] ∩ [lower, upper].

    The network is in float64 and eval mode. HiGHS keeps constraints to 1e-6: compare with that much slack.
    """
    low, high = (side.flatten().numpy() for side in cut(x, torch.full_like(x, eps), lower, upper))
    layers = layers_of(network, tuple(x.shape))
    bounds = box_bounds(layers, low, high)
    program = _Program()
    z = program.variables(low, high)
    pixels = z
    if norm == "l1":
        span = np.full(x.numel(), eps)
        away = program.variables(np.zeros(x.numel()), span)
        for zi, ai, centre in zip(z.tolist(), away.tolist(), x.flatten().tolist(), strict=True):
            program.constrain([ai, zi], [1.0, -1.0], -centre, np.inf)
            program.constrain([ai, zi], [1.0, 1.0], centre, np.inf)
        program.constrain(away.tolist(), [1.0] * x.numel(), -np.inf, eps)
    for layer, before, after in zip(layers, bounds, bounds[1:], strict=False):
        match layer:
            case Affine(matrix, offset):
                y = program.variables(*after)
                for yi, weights, constant in zip(y.tolist(), matrix, offset.tolist(), strict=True):
                    used = np.flatnonzero(weights)
                    program.constrain(
                        [yi, *z[used].tolist()], [1.0, *(-weights[used]).tolist()], constant, constant
                    )
                z = y
            case Relu():
                z = _encode_relu(program, z, *before)
            case MaxOf(windows):
                z = _encode_max(program, z, *before, windows)
    result = program.minimise(z, row.numpy(), seconds)
    proved = result.mip_dual_bound if result.mip_dual_bound is not None else result.fun
    return Optimum(float(result.fun), float(proved), torch.from_numpy(result.x[pixels]).reshape(x.shape))
