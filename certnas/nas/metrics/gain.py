"""The reading `gain` of `cb`: how much each cell widens a zonotope."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certnas import bounds
from certnas.errors import UserError
from certnas.nas.metrics.certified import DTYPES
from certnas.nas.metrics.evaluation import BN
from certnas.nas.metrics.metric import Measured, Session, State, at_least, draws, one_of, positive
from certnas.nas.metrics.sections import Arrival, sections
from certnas.nas.metrics.traced import Traced

CELL = re.compile(r"(?:^|\.)cells\.(\d+)(?:\.|$)")


@dataclass(frozen=True, kw_only=True)
class CellGain(Measured):
    """R = −Σ_c mean over the images of log(w_c / eps), in nats: the growth of the relative width in each cell.

    Each cell c is bounded from its own clean inputs. An input tensor v ranges over {v + Σ_k t_k·g_k : |t_k|
    ≤ 1}; the g_k partition the units of v into `generators` random groups with random signs, and their
    entries are ±eps·rms(v). w_c is the mean radius of the zonotope at the cell's output divided by the rms
    of its clean output. The output width of a cell is thus comparable with the input width of the next, and
    a network gains nothing by making outputs small.

    Growth along a few random directions estimates the growth of a box. The estimate guides a search and
    certifies nothing. It stays of order one per cell, whereas bounds from end to end multiply.

    The network must name its cells `cells.0`, `cells.1`, …; otherwise the session raises UserError.
    """

    bn: str = "running"
    """Statistics of batch normalisation: `running` or `batch` (see `CertifiedMetric`)."""
    eps: float = 1e-7
    """Input width of a cell relative to the rms of the tensor.

    The default is so small that almost every ReLU is stable. On an untrained 5-cell supernet a cell then
    widens 2.8 times, against 100 times at 10⁻⁴ and 10⁵ times at 10⁻². Most of that growth is boxed
    relaxation error, whose derivative jumps by orders of magnitude where a unit becomes unstable.
    """
    generators: int = 8
    """Number of random groups, that is, of zonotope generators per cell input."""
    errors: int = 0
    """Number of error symbols to keep per relaxation (0: all errors go into a box)."""
    images: int = 0
    """Number of images to bound, from the start of the batch (0: all)."""
    dtype: str = "float32"
    """Floating type of the bounds: `float32` or `float64`."""
    keep_none: bool = False
    """True: the operator `none` keeps its share of softmax(α)."""
    seed: int = 0
    """Seed of the groups; they differ from search step to search step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("bn", self.bn, BN)
        positive("eps", self.eps)
        at_least("generators", self.generators, 1)
        at_least("errors", self.errors, 0)
        at_least("images", self.images, 0)
        one_of("dtype", self.dtype, tuple(DTYPES))

    def session(self) -> Session:
        return _Gains(self)


class _Gains(Session):
    def __init__(self, metric: CellGain) -> None:
        super().__init__()
        self.metric = metric
        self.traced = Traced(metric.bn, metric.keep_none)
        self.step = 0

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        metric = self.metric
        bound = self.traced.bind(network, x, DTYPES[metric.dtype])
        random = draws(metric.seed, self.step, x.device)
        self.step += 1
        selected = x[: metric.images] if metric.images else x
        entrances, exits = cell_ends(bound.graph)
        arrivals = sections(
            bound, selected, entrances | set(exits), _groups(metric, random), errors=metric.errors
        )
        gains = torch.stack([self._log_growth(arrivals[name]).mean() for name in exits])
        self.figures = {"gain": float(gains.detach().mean().exp())}
        return -gains.sum().to(x.dtype)

    def _log_growth(self, end: Arrival) -> Tensor:
        """log of (relative width at the cell's output / relative width at its input). [N]"""
        width = end.radius.flatten(1).mean(1) / _rms(end.value)
        return (width / self.metric.eps).log()

    def state_dict(self) -> State:
        return {"step": self.step}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])


def _rms(value: Tensor) -> Tensor:
    """Root mean square of each image's units. [N, *shape] -> [N]"""
    return value.flatten(1).square().mean(1).sqrt()


def _groups(metric: CellGain, random: torch.Generator) -> Callable[[str, Tensor], Tensor]:
    def generators(name: str, value: Tensor) -> Tensor:
        shape, units = value.shape[1:], value[0].numel()
        group = torch.randint(metric.generators, (1, units), generator=random, device=value.device)
        sign = 2.0 * torch.randint(2, (1, units), generator=random, device=value.device) - 1
        pattern = torch.zeros(metric.generators, units, dtype=value.dtype, device=value.device)
        pattern.scatter_(0, group, sign.to(value.dtype))
        size = (metric.eps * _rms(value)).reshape(-1, *[1] * value.dim())
        return size * pattern.reshape(1, metric.generators, *shape)

    return generators


def cell_ends(graph: bounds.Graph) -> tuple[set[str], list[str]]:
    """(input nodes of the cells, output node of each cell in order).

    An input node lies outside of all cells and has a consumer in a cell. Raises UserError for a network
    without cells.
    """
    cell = {name: _cell(node.module) for name, node in graph.nodes.items()}
    exits = {index: name for name, index in cell.items() if index is not None}
    if not exits:
        raise UserError(
            "metric cb, reading gain: the network has no cells (modules cells.0, cells.1, …); "
            "choose reading radius, margin or lower"
        )
    entrances = {
        operand
        for name, node in graph.nodes.items()
        if cell[name] is not None
        for operand in node.operands
        if operand in cell and cell[operand] is None
    }
    return entrances, [exits[index] for index in sorted(exits)]


def _cell(module: str) -> int | None:
    found = CELL.search(module)
    return int(found.group(1)) if found else None
