"""The certified bound read cell by cell: how much each cell widens a zonotope."""

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
    """R = −Σ_c mean over the images of log(w_c / eps), in nats: the growth of the bounds' relative width, cell by cell.

    Every cell c is bounded from its own clean inputs: each input tensor v may move by {Σ_k t_k·g_k, |t_k| ≤ 1}, where
    the g_k part the units among `generators` random groups with random signs and reach eps·rms(v) in each unit.  w_c
    is the mean radius of the zonotope that leaves the cell over the rms of its clean output, so a cell's output width
    is the next one's input width and nothing is gained by making outputs small.  Growth along a few random directions
    is an estimate of the box's, for searching only: it certifies nothing.  It stays of order one per cell where bounds
    from end to end multiply.

    eps: relative to the rms of a tensor; by default so small that next to no ReLU is unstable.  On an untrained
    5-cell supernet a cell then widens 2.8 times, at 10⁻⁴ 100 times and at 10⁻² 10⁵ times, nearly all of it boxed
    relaxation errors, whose derivative jumps by orders of magnitude where a unit turns unstable.  errors: symbols
    kept of each relaxation (0: all go into a box).  seed: of the groups, new at each step.  bn, images, dtype,
    keep_none as in `Certified`.  The network must name its cells `cells.0`, `cells.1`, …
    """

    bn: str = "running"
    eps: float = 1e-7
    generators: int = 8
    errors: int = 0
    images: int = 0
    dtype: str = "float32"
    keep_none: bool = False
    seed: int = 0

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
        some = x[: metric.images] if metric.images else x
        entrances, exits = cell_ends(bound.graph)
        arrivals = sections(
            bound, some, entrances | set(exits), _groups(metric, random), errors=metric.errors
        )
        gains = torch.stack([self._log_growth(arrivals[name]).mean() for name in exits])
        self.figures = {"gain": float(gains.detach().mean().exp())}
        return -gains.sum().to(x.dtype)

    def _log_growth(self, end: Arrival) -> Tensor:
        """log of the relative width that leaves over that which entered.  [N]"""
        width = end.radius.flatten(1).mean(1) / _rms(end.value)
        return (width / self.metric.eps).log()

    def state_dict(self) -> State:
        return {"step": self.step}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])


def _rms(value: Tensor) -> Tensor:
    """[N, *shape] -> [N]"""
    return value.flatten(1).square().mean(1).sqrt()


def _groups(metric: CellGain, random: torch.Generator) -> Callable[[str, Tensor], Tensor]:
    def generators(name: str, value: Tensor) -> Tensor:
        shape, units = value.shape[1:], value[0].numel()
        group = torch.randint(metric.generators, (1, units), generator=random, device=value.device)
        sign = 2.0 * torch.randint(2, (1, units), generator=random, device=value.device) - 1
        pattern = torch.zeros(metric.generators, units, dtype=value.dtype, device=value.device)
        pattern.scatter_(0, group, sign.to(value.dtype))
        reach = (metric.eps * _rms(value)).reshape(-1, *[1] * value.dim())
        return reach * pattern.reshape(1, metric.generators, *shape)

    return generators


def cell_ends(graph: bounds.Graph) -> tuple[set[str], list[str]]:
    """(the nodes before the cells that cells read, the output node of each cell in order).

    Raises UserError for a network without cells.
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
