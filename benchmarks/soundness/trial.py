"""One seed: a network, two regions, some methods on each; what was found, as a line of JSON."""

from __future__ import annotations

import math
import re
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import bounds
from benchmarks.soundness.draw import Draw
from benchmarks.soundness.networks import Drawn, Question, network
from benchmarks.soundness.operators import every_generator, named
from benchmarks.soundness.oracles import exact_minimum
from benchmarks.soundness.places import DTYPES, Place, methods, place
from benchmarks.soundness.rounding import allowance

PLACES, METHODS, SECONDS = 2, 3, 60
EXACT_EVERY = 12
"""Every so many seeds a small ReLU network is held against its exact minimum."""
SOLVER = 1e-6
"""How far HiGHS may leave a constraint, relative to the numbers in it."""


class TooLong(Exception):
    """A seed took more than `SECONDS`."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TooLong in the main thread after so many seconds."""

    def stop(number: int, frame: object) -> None:
        raise TooLong(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(seed: int) -> dict[str, Any]:
    """What one seed showed; {"seed", "operator", "seconds", "points", "trials": [...], ...}.

    An outcome is "sound", "refused: why", "violation", or "crash: what was raised".
    """
    started, draw = time.process_time(), Draw(seed)
    found: dict[str, Any] = {"seed": seed, "operators": [], "points": 0, "trials": []}
    try:
        with limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if seed % EXACT_EVERY == 0:
                _against_the_solver(draw, found)
            else:
                _against_points(seed, draw, found)
    except Exception as error:
        found["trials"].append({"outcome": _crash(error), "trace": traceback.format_exc(limit=-4)})
    found["seconds"] = round(time.process_time() - started, 3)
    return found


def _against_points(seed: int, draw: Draw, found: dict[str, Any]) -> None:
    generators, _ = every_generator()
    operator = sorted(generators)[seed % len(generators)]
    question = network(draw, operator, generators)
    found |= {"operator": operator, "words": question.model.words}
    places = [place(draw, question.shape) for _ in range(PLACES)]
    try:
        graph = bounds.trace(question.model, places[0].x)
        bounds.check(graph)
    except (bounds.UnsupportedOp, bounds.InvalidInput) as error:
        found["trials"].append({"outcome": f"refused: {_reason(error)}"})
        return
    found["operators"] = sorted({named(node.target) for node in graph.nodes.values()})
    for chosen in places:
        _at(seed, draw, question, graph, chosen, found)


def _at(
    seed: int, draw: Draw, question: Question, graph: bounds.Graph, chosen: Place, found: dict[str, Any]
) -> None:
    """All that is asked about one region."""
    about = {"norm": chosen.norm, "dtype": chosen.dtype, "place": chosen.words}
    try:
        region = chosen.region()
    except bounds.InvalidInput as error:
        found["trials"].append({**about, "outcome": f"refused: {_reason(error)}"})
        return
    model = question.model
    with torch.no_grad():
        classes = model(torch.cat([chosen.x, chosen.x]))[0].numel()  # an axis of one image may be squeezed
    rows = _rows(draw, len(chosen.x), classes)
    points = chosen.points(model, rows, seed)
    found["points"] += len(points) * len(chosen.x)
    with torch.no_grad():
        values = model(points.flatten(0, 1)).reshape(len(points), len(chosen.x), classes)
    reached = torch.einsum("nsk,pnk->pns", rows, values)
    reached = torch.where(reached.isfinite(), reached, torch.inf)
    lowest, where = reached.min(0)
    net = graph.bind(dtype=DTYPES[chosen.dtype])
    judge = _Judge(model, chosen, rows, points, lowest, where)
    if chosen.dtype == "float64":
        with torch.no_grad():
            traced = net(points.flatten(0, 1)).reshape(values.shape)
        apart = (traced - values).abs().nan_to_num(nan=0.0).amax((0, 2))
        if bool((traced.isfinite() != values.isfinite()).any()) or bool(
            (apart > 1e-9 * (1 + _scale(values))).any()
        ):
            found["trials"].append(
                {**about, "outcome": "violation", "kind": "trace", "excess": float(apart.max())}
            )
    table = methods()
    for name in draw.random.sample(list(table), METHODS):
        entry: dict[str, Any] = {**about, "method": name}
        try:
            lower = (
                bounds.lower_bounds(net, region, rows, table[name], memory=chosen.memory).detach().double()
            )
            entry |= judge(lower)
        except (bounds.UnsupportedOp, bounds.InvalidInput) as error:
            entry["outcome"] = f"refused: {_reason(error)}"
        except TooLong:
            raise
        except Exception as error:
            entry |= {"outcome": _crash(error), "trace": traceback.format_exc(limit=-4)}
        found["trials"].append(entry)


def _scale(values: Tensor) -> Tensor:
    return values.abs().nan_to_num(posinf=0.0, nan=0.0).amax((0, 2))


def _rows(draw: Draw, images: int, classes: int) -> Tensor:
    """Logits, a margin, a random row, and their negations.  [N, S, K]"""
    rows = [torch.eye(classes, dtype=torch.float64)[:2], draw.normal(1, classes)]
    if classes > 1:
        margin = torch.zeros(1, classes, dtype=torch.float64)
        margin[0, 0], margin[0, -1] = 1, -1
        rows.append(margin)
    single = torch.cat(rows)
    return torch.cat([single, -single]).expand(images, -1, -1)


class _Judge:
    """Holds lower bounds against the values at points and, bound by bound, against those of the negated rows."""

    def __init__(
        self, model: Drawn, chosen: Place, rows: Tensor, points: Tensor, lowest: Tensor, where: Tensor
    ) -> None:
        self.model, self.place, self.rows = model, chosen, rows
        self.points, self.lowest, self.where = points, lowest, where
        self.known: dict[tuple[int, int], float] = {}

    def __call__(self, lower: Tensor) -> dict[str, Any]:
        """The outcome for lower bounds [N, S] of the rows; worst: the largest excess over what rounding allows."""
        if bool(lower.isnan().any()):
            return {"outcome": "violation", "kind": "NaN"}
        half = lower.shape[1] // 2
        crossed = lower[:, :half] + lower[:, half:]
        excess = torch.maximum(lower - self.lowest, torch.cat([crossed, crossed], 1))
        excess = torch.where(lower == -torch.inf, -torch.inf, excess)
        entry: dict[str, Any] = {"outcome": "sound", "worst": 0.0}
        if bool((lower == -torch.inf).any()):
            entry["nothing said"] = True
        for n, s in (excess > 0).nonzero().tolist():
            over = float(excess[n, s])
            allowed = self.allowed(n, s)
            entry["worst"] = max(entry["worst"], round(over / allowed, 4) if allowed > 0 else math.inf)
            if not over <= allowed:
                left = float(lower[n, s] - self.lowest[n, s]) > allowed
                entry |= {
                    "outcome": "violation", "kind": "a point" if left else "crossed",
                    "image": n, "row": s, "lower": float(lower[n, s]), "reached": float(self.lowest[n, s]),
                    "allowed": allowed,
                }  # fmt: skip
                break
        return entry

    def allowed(self, n: int, s: int) -> float:
        """What rounding may do to this bound; only asked where a bound is above a value at all."""
        if (n, s) not in self.known:
            eps = torch.as_tensor(self.place.eps, dtype=torch.float64)
            eps = eps[n] if eps.dim() else eps
            points = [self.place.x[n], self.points[self.where[n, s], n], *self.points[1:9, n]]
            self.known[n, s] = allowance(self.model, points, self.rows[n, s], eps, self.place.dtype)
        return self.known[n, s]


def _against_the_solver(draw: Draw, found: dict[str, Any]) -> None:
    """A small network of ReLUs, and max pools, in l∞ or l1: no bound is above the exact minimum of a row."""
    model, shape = _small(draw)
    found |= {"operator": "exact", "words": [str(model)]}
    norm = draw.random.choice(("linf", "l1"))
    x, eps = draw.uniform(1, *shape), draw.random.choice((0.02, 0.1, 0.3, 1.0))
    box = draw.random.choice(((None, None), (0.0, 1.0)))
    row = draw.normal(3)
    exact = exact_minimum(model, row, x[0], eps, norm=norm, lower=box[0], upper=box[1])
    graph = bounds.trace(model, x)
    found["operators"] = sorted({named(node.target) for node in graph.nodes.values()})
    region, net = bounds.NORMS[norm](x, eps, *box), graph.bind()
    table = methods()
    for name in draw.random.sample(list(table), 2 * METHODS):
        entry: dict[str, Any] = {
            "norm": norm,
            "dtype": "float64",
            "method": name,
            "place": f"eps={eps}, box={box}",
        }
        lower = float(bounds.lower_bounds(net, region, row.reshape(1, 1, 3), table[name]).detach())
        excess, slack = lower - exact.value, SOLVER * (1 + abs(exact.value))
        entry |= {"outcome": "sound", "worst": max(0.0, round(excess / slack, 4)), "exact": True}
        if not excess <= slack:
            entry |= {
                "outcome": "violation",
                "kind": "exact",
                "lower": lower,
                "reached": exact.value,
                "allowed": slack,
            }
        found["trials"].append(entry)


def _small(draw: Draw) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Dense layers, or convolutions with a pool, with drawn weights in float64."""
    if draw.chance(0.5):
        width, depth = draw.random.randint(2, 8), draw.random.randint(1, 3)
        layers: list[nn.Module] = [nn.Linear(4, width), nn.ReLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.ReLU()]
        layers.append(nn.Linear(width, 3))
        shape: tuple[int, ...] = (4,)
    else:
        shape = (1, 3, 3)
        layers = [nn.Conv2d(1, 2, draw.random.choice((2, 3)), padding=1), nn.BatchNorm2d(2), nn.ReLU()]
        layers.append(
            draw.random.choice((nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2, 1), nn.AvgPool2d(1)))
        )
        layers.append(nn.Flatten())
        units = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).shape[1]
        layers.append(nn.Linear(units, 3))
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                drawn = draw.weight(*tensor.shape, fan=tensor[0].numel() if tensor.dim() > 1 else 1)
                tensor.copy_(drawn.square() + 0.125 if name.endswith("running_var") else drawn)
    return model, shape


NUMBER = re.compile(r"-?\d[\d.e+-]*")


def _reason(error: Exception) -> str:
    """The message without names and numbers that differ from network to network."""
    text = str(error).split(" at node")[0].split("; ")[0].split(": got")[0]
    return f"{type(error).__name__}: {NUMBER.sub('#', text)[:110]}"


def _crash(error: Exception) -> str:
    return f"crash: {type(error).__name__}: {' '.join(str(error).split())[:110]}"
