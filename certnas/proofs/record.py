"""A certificate from the bound engine: its intervals and planes, moved outward by more than its rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import bounds
from bounds.alpha import Slopes
from bounds.analysis import EVERYTHING, Analysis, Meet, Tunings
from bounds.memory import budget
from bounds.ops.rule import Tuning
from bounds.relaxation import Diagonal, Relaxation, Slope, Windowed
from bounds.relaxation import Plane as Engine
from certnas.checker import Certificate, Plane, Planes, Step
from certnas.proofs.extract import Plain, array

WIDENED = 2.0**-34
"""A claimed bound is moved outward by this share of 1 + its size: above float64's rounding, in the engine and the
checker, and below what a radius can show."""
LIFTED = 2.0**-40
"""A plane is moved outward by this share of its terms."""


class _Outward(Analysis):
    """The engine's analysis with every plane and every refined interval moved outward."""

    def tuned(
        self, name: str, tuning: Tuning, images: slice = EVERYTHING, slope: Slope | None = None
    ) -> Relaxation:
        """The relaxation for a given choice among the sound planes."""
        relaxed = super().tuned(name, tuning, images, slope)
        operand = self.interval(self.network.graph.nodes[name].operands[0]).at(images)
        size = torch.maximum(operand.lower.abs(), operand.upper.abs()).unsqueeze(1)
        return Relaxation(_lifted(relaxed.lower, size, -1), _lifted(relaxed.upper, size, 1))

    def refine(
        self, target: str, tunings: Tunings | None = None, *, meet: Meet = bounds.Interval.intersect
    ) -> None:
        """Tighten the interval of a tensor, and widen it by less."""
        super().refine(target, tunings, meet=meet)
        low, high = self.intervals[target]
        self.intervals[target] = bounds.Interval(
            low - WIDENED * (1 + low.abs()), high + WIDENED * (1 + high.abs())
        )


def _lifted(plane: Engine, size: Tensor, sign: int) -> Engine:
    terms = plane.map.magnitude().apply(size) + plane.bias.abs()
    return Engine(plane.map, plane.bias + sign * LIFTED * terms)


def _written(plane: Engine) -> Plane:
    """[R, *out] biases and [R, *out] or [R, *out, k] slopes of one image."""
    if isinstance(plane.map, Diagonal):
        slope, bias = torch.broadcast_tensors(plane.map.slopes[0], plane.bias)
        return Plane(array(slope[0]), array(bias[0]))
    assert isinstance(plane.map, Windowed)
    weights = plane.map.weights
    slope = weights.transpose(-1, -2).reshape(*weights.shape[:2], *plane.map.output, -1)
    return Plane(array(slope[0]), array(plane.bias[0]))


@dataclass
class _Record:
    """What is claimed so far."""

    plain: Plain
    steps: list[Step] = field(default_factory=list)
    planes: dict[str, Planes] = field(default_factory=dict)
    keys: dict[tuple[str, bytes], str] = field(default_factory=dict)

    def named(self, analysis: Analysis, target: str, tunings: Tunings | None) -> dict[str, str]:
        """The planes of every nonlinear node before a target, each kept once."""
        found = {}
        for name in analysis.relaxed_before(target):
            relaxed = analysis.relaxation(name) if tunings is None else analysis.tuned(name, tunings[name])
            both = Planes(_written(relaxed.lower), _written(relaxed.upper))
            raw = b"".join(a.tobytes() for p in (both.lower, both.upper) for a in (p.slope, p.bias))
            key = self.keys.setdefault((self.plain.ids[name], raw), f"planes{len(self.planes)}")
            self.planes.setdefault(key, both)
            found[self.plain.ids[name]] = key
        return found

    def claim(self, analysis: Analysis, target: str, tunings: Tunings | None) -> None:
        """The present interval of a target."""
        lower, upper = (array(side[0]) for side in analysis.intervals[target])
        self.steps.append(Step(self.plain.ids[target], lower, upper, self.named(analysis, target, tunings)))

    def run(self, analysis: Analysis, slopes: Slopes) -> None:
        """CROWN's intermediate bounds in order, each claimed before the next is made."""
        output = analysis.network.graph.output
        for target in _met_exactly(analysis):
            analysis.refine(target)
            self.claim(analysis, target, None)
        for target in analysis.plan.readers:
            if target != output:
                tunings = slopes.get(target)
                analysis.refine(target, tunings)
                self.claim(analysis, target, tunings)


def _met_exactly(analysis: Analysis) -> list[str]:
    """Tensors affine in the input whose exact bounds interval arithmetic goes on from."""
    plan, graph = analysis.plan, analysis.network.graph
    nodes = [node for node in graph.nodes.values() if node.name not in plan.prefix]
    read = {operand for node in nodes for operand in node.operands} & plan.prefix - set(plan.readers)
    plain = plan.plain if analysis.region.is_box else {graph.input}
    return [name for name in plan.order if name in read and name not in plain]


def certificate_of(
    network: bounds.Network,
    plain: Plain,
    region: bounds.Region,
    rows: Tensor,
    method: bounds.Method,
    *,
    memory: int | None = None,
    about: Mapping[str, object] | None = None,
) -> Certificate | None:
    """A certificate that rows·f > 0 on the region of one image; None where CROWN, or α-CROWN if asked, shows it not.

    network in float64, plain its `extract.plain`; region of one image, with one radius and a box that is none or two
    numbers; rows [1, S, K].
    """
    room = budget(memory, network.dtype, network.device)
    record, analysis = _Record(plain), _Outward(network, region, room, method.slope)
    output = network.graph.output
    with torch.no_grad():
        record.run(analysis, {})
        final = None
        if isinstance(method, bounds.AlphaCrown):
            found = method.optimise(Analysis(network, region, room, method.slope), rows)
            again = _Outward(network, region, room, method.slope)
            known = {*analysis.plan.readers, *_met_exactly(analysis)} & set(analysis.intervals)
            again.intervals.update({name: analysis.intervals[name] for name in known})
            analysis, final = again, found.slopes[output]
            record.run(analysis, found.slopes)
        lower = analysis.rows(output, rows, final)[0]
        proved = lower - WIDENED * (1 + lower.abs())
        if not bool((torch.isfinite(proved) & (proved > 0)).all()):
            return None
        planes = record.named(analysis, output, final)
    return Certificate(
        network=plain.network.output,
        norm=next(name for name, kind in bounds.NORMS.items() if type(region) is kind),
        x=array(region.x[0]),
        eps=float(region.radii.flatten()[0]),
        box=(float(region.lower), float(region.upper)) if region.clipped else None,  # type: ignore[arg-type]
        rows=array(rows[0]),
        bounds=array(proved),
        steps=tuple(record.steps),
        final=planes,
        planes=record.planes,
        about=dict(about or {}),
    )
