"""Verdicts against exact optima and points; splits that stay sound; ends that come early."""

import contextlib
import itertools
import math
import signal
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from oracles import exact_minimum
from torch import Tensor, nn

import bounds
from bounds.analysis import Analysis
from bounds.memory import Budget
from certnas import certify
from certnas.errors import UserError
from certnas.verify import Box, Clause, Constraint, Property, Step, Verdict, network_of, search, tighten
from certnas.verify import verify as verify_network
from certnas.verify.deadline import Deadline, OutOfTime
from certnas.verify.problem import problem_of
from certnas.verify.relaxed import Batch, Split
from certnas.verify.search import Search


def dense(seed: int, *sizes: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1]).double().eval().requires_grad_(False)


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 2)).double().eval().requires_grad_(False)


def pooled(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def verify(network: nn.Module, prop: Property, shape: tuple[int, ...], **options: Any) -> Verdict:
    return verify_network(network_of(network, shape), prop, **options)


def ball(x: Tensor, eps: float) -> Box:
    return Box(
        tuple((Fraction(v) - Fraction(eps), Fraction(v) + Fraction(eps)) for v in x.flatten().tolist())
    )


def below(row: Tensor, bound: float) -> Constraint:
    return Constraint(tuple((j, Fraction(v)) for j, v in enumerate(row.tolist()) if v), Fraction(bound))


def least(network: nn.Module, box: Box, shape: tuple[int, ...], count: int = 20_000) -> Tensor:
    """Outputs at many points of the box, and at its corners where they are few."""
    low, high = (torch.from_numpy(side) for side in box.outward)
    way = torch.rand(count, len(low), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = low + (high - low) * torch.cat([way, way[:2000].round()])
    with torch.no_grad():
        return network(points.reshape(-1, *shape))


NETWORKS = {
    "dense": (lambda seed: dense(seed, 3, 8, 8, 2), (3,), 0.7),
    "deep": (lambda seed: dense(seed, 4, 6, 6, 6, 2), (4,), 0.8),
    "convolutional": (convolutional, (1, 5, 5), 0.4),
    "pooled": (pooled, (1, 5, 5), 0.3),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("name", "few"), [*((name, 0) for name in NETWORKS), ("dense", 24), ("deep", 24)]
)  # of few: inputs are halved, otherwise activations are split
def test_verdicts_are_those_of_an_exact_solver(
    name: str, seed: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    build, shape, eps = NETWORKS[name]
    network = build(seed)
    x = torch.rand(shape, dtype=torch.float64).round(decimals=3)
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    exact = exact_minimum(network, row, x, eps)
    slack = 0.01 * (1 + abs(exact.value))
    box = ball(x, eps)
    for bound, expected in ((exact.proved - slack, "unsat"), (exact.value + slack, "sat")):
        prop = Property(x.numel(), 2, (Clause(box, (below(row, bound),)),))
        verdict = verify(network, prop, shape, timeout=10 if name == "pooled" else 60)
        if name == "pooled" and expected == "unsat":
            assert verdict.status != "sat"  # no split settles a max pool
        else:
            assert verdict.status == expected, verdict
        if expected == "sat":
            found = verdict.counterexample
            assert found is not None
            assert prop.violated_by(found.inputs, found.outputs)
            again = network(torch.from_numpy(found.inputs).double().reshape(1, *shape))
            assert float((again @ row)[0]) <= bound
        if verdict.status != "sat":
            assert verdict.bound <= exact.value - bound + 1e-6 or verdict.status == "unsat"


@pytest.mark.parametrize("few", [0, 24], ids=["activations", "inputs"])
@pytest.mark.parametrize("seed", range(2))
def test_a_search_that_sees_no_points_never_proves_what_is_false(
    seed: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an attack and with its points ignored: only the bounds are left to keep it from `unsat`."""
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    network = dense(seed, 3, 8, 8, 2)
    x, row = torch.full((3,), 0.5, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    exact = exact_minimum(network, row, x, 1.0)
    bound = exact.value + 1e-3 * (1 + abs(exact.value))
    prop = Property(3, 2, (Clause(ball(x, 1.0), (below(row, bound),)),))
    traced = network_of(network, (3,))
    found = Search(
        problem_of(traced, prop), Deadline(4), 1 << 26, lambda points: False, lambda p, name: False
    )
    with contextlib.suppress(OutOfTime):
        found.go()
    assert found.stage in ("branch and bound", "input splitting")
    assert found.state.done > 10
    assert found.state.left == 1
    assert found.state.bound <= exact.value - bound + 1e-6


@pytest.mark.parametrize("few", [0, 24], ids=["activations", "inputs"])
@pytest.mark.parametrize("seed", range(4))
def test_cases_and_conjunctions(seed: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boxes, clauses of two constraints each: sat only where sampled points say so, or near it."""
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    network = dense(seed, 2, 6, 6, 3)
    boxes = [ball(torch.tensor([0.0, 0.5]), 0.5), ball(torch.tensor([1.0, 0.0]), 0.25)]
    rows = torch.eye(3, dtype=torch.float64)
    clauses, nearest = [], []
    for box in boxes:
        outputs = least(network, box, (2,))
        spread = outputs.amax(0) - outputs.amin(0)
        for a, b in ((0, 1), (1, 2)):
            # each can be met alone; whether both can is what branching has to find out
            level = outputs[:, [a, b]].quantile(0.2, dim=0)
            excess = ((outputs[:, [a, b]] - level) / spread[[a, b]]).amax(1)
            clauses.append(Clause(box, (below(rows[a], float(level[0])), below(rows[b], float(level[1])))))
            nearest.append(float(excess.min()))
    for chosen in [*([c] for c in range(4)), range(4)]:
        prop = Property(2, 3, tuple(clauses[c] for c in chosen))
        verdict = verify(network, prop, (2,), timeout=30)
        near = min(nearest[c] for c in chosen)
        if near <= -0.01:
            assert verdict.status == "sat"
        elif near >= 0.03:
            assert verdict.status == "unsat", verdict
        if verdict.status == "sat":
            found = verdict.counterexample
            assert found is not None and prop.violated_by(found.inputs, found.outputs)


@pytest.mark.parametrize("act", [nn.Sigmoid, nn.Tanh, nn.LeakyReLU])
def test_other_activations(act: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW_INPUTS", 0)
    network = dense(0, 3, 8, 8, 2, act=act)
    box = ball(torch.zeros(3), 2.0)
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    value = float((least(network, box, (3,)) @ row).min())
    spread = float((least(network, box, (3,)) @ row).max()) - value
    for bound, expected in ((value - 0.1 * spread, "unsat"), (value + 0.02 * spread, "sat")):
        prop = Property(3, 2, (Clause(box, (below(row, bound),)),))
        assert verify(network, prop, (3,), timeout=60).status == expected


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_any_multipliers_and_slopes_are_sound_for_any_splits(act: type[nn.Module]) -> None:
    network = dense(1, 2, 6, 6, 2, act=act)
    region = bounds.Linf(torch.tensor([[0.1, -0.2]], dtype=torch.float64), eps=1.0)
    net = bounds.trace(network, region.x).bind()
    root = Analysis(net, region, Budget(1 << 20), bounds.Slope.ADAPTIVE)
    rows = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    bounds.Crown().lower(root, rows)
    nodes = root.relaxed_before(net.graph.output)
    points = region.x + 2 * torch.rand(4000, 2, dtype=torch.float64) - 1
    values = {}
    current = points
    for layer in network:
        values[layer] = current = layer(current).detach()
    activations = [layer for layer in network if isinstance(layer, act)]
    linears = [network[list(network).index(layer) - 1] for layer in activations]
    generator = torch.Generator().manual_seed(0)
    checked = 0
    for trial in range(12):
        splits, keep = [], torch.ones(len(points), dtype=torch.bool)
        for node, linear in zip(reversed(nodes), linears, strict=True):
            x = root.interval(net.graph.nodes[node].operands[0])
            unit = int(torch.randint(6, (1,), generator=generator))
            low, high = float(x.lower[0, unit]), float(x.upper[0, unit])
            point = 0.0 if act is nn.ReLU else low + 0.4 * (high - low)
            if not low < point < high:
                continue
            side = 1 if trial % 2 else -1
            splits.append(Split(node, unit, point, side))
            keep &= side * (values[linear][:, unit] - point) >= 0
        if not keep.any():
            continue
        batch = Batch(root, torch.tensor([0]), rows, torch.zeros(1, 2, dtype=torch.float64), [splits])
        plain = batch.start([None])
        drawn = plain.rebuilt([torch.rand(t.shape, generator=generator).double() for t in plain.tensors()])
        mixed = current[keep] @ drawn.mix.softmax(1).T
        least_seen = torch.cat([current[keep], mixed], 1).amin(0)
        assert (batch.bound(drawn, batch.region)[0] <= least_seen + 1e-9).all()
        best = batch.optimise([None], 8, torch.tensor([math.inf]))
        assert (best.lower >= batch.bound(plain, batch.region) - 1e-9).all()
        assert (best.lower[0, :2] <= least_seen[:2] + 1e-9).all()
        checked += bool(splits)
    assert checked > 5


def test_multipliers_close_the_gap_that_splits_leave() -> None:
    """max(z, 0) + max(−z, 0) ≥ z where z ≥ 1/2 is known: only the multiplier carries that to the input."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double().requires_grad_(False)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        network[0].bias.zero_()
        network[2].weight.copy_(torch.tensor([[0.0, 1.0]]))
        network[2].bias.zero_()
    region = bounds.Linf(torch.zeros(1, 2, dtype=torch.float64), eps=1.0)
    net = bounds.trace(network, region.x).bind()
    root = Analysis(net, region, Budget(1 << 20), bounds.Slope.ADAPTIVE)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    bounds.Crown().lower(root, one)
    (node,) = root.relaxed_before(net.graph.output)
    # x0 + x1 ≥ 1 and x0 − x1 ≤ −1 leave x0 + x1 ≤ 1: row −relu(x0 − x1)·1 with unit 1 off is 0; unit 0 tells nothing
    splits = [[Split(node, 0, 1.0, 1), Split(node, 1, 0.5, 1)]]
    batch = Batch(root, torch.tensor([0]), one, torch.zeros(1, 1, dtype=torch.float64), splits)
    assert float(batch.bound(batch.start([None]), batch.region)) == pytest.approx(-2)
    assert float(batch.optimise([None], 200, torch.tensor([math.inf])).lower) == pytest.approx(0.5, abs=0.02)


def hard() -> tuple[nn.Sequential, Property]:
    """A property that holds as far as a descent from many points can tell, and only just."""
    network = dense(0, 40, 60, 60, 60, 2)
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    way = 2 * torch.rand(200, 40, dtype=torch.float64) - 1
    best = []
    for step in range(100):
        way.requires_grad_(True)
        value = network(0.5 + 0.5 * way) @ row
        best.append(float(value.detach().min()))
        (slope,) = torch.autograd.grad(value.sum(), way)
        way = (way.detach() - 0.3 * 0.95**step * slope.sign()).clamp(-1, 1)
    bound = min(best) - 1e-3
    return network, Property(40, 2, (Clause(ball(torch.full((40,), 0.5), 0.5), (below(row, bound),)),))


def test_a_timeout_ends_in_time_with_the_best_bound() -> None:
    network, prop = hard()
    seen: list[Step] = []
    traced = network_of(network, (40,))
    began = time.monotonic()
    verdict = verify_network(traced, prop, timeout=5.0, progress=seen.append)
    assert time.monotonic() - began < 8
    assert verdict.status == "timeout"
    assert [s.stage for s in seen[:4]] == ["attack", "ibp", "crown-ibp", "crown"]
    proved = [step.bound for step in seen]
    assert proved == sorted(proved)
    assert math.isfinite(verdict.bound) and verdict.bound >= proved[-1]
    assert verdict.domains > 0


def test_an_interruption_reports_the_best_bound() -> None:
    network, prop = hard()

    def press(step: Step) -> None:
        if step.stage == "branch and bound" and step.done:
            raise KeyboardInterrupt

    verdict = verify(network, prop, (40,), progress=press)
    assert (verdict.status, verdict.interrupted) == ("unknown", True)
    assert math.isfinite(verdict.bound)


def test_more_open_boxes_than_fit_end_the_search() -> None:
    network = dense(4, 8, 12, 12, 2)
    x, row = torch.zeros(8), torch.tensor([1.0, -1.0], dtype=torch.float64)
    bound = exact_minimum(network, row, x.double(), 1.0).value - 1e-4
    prop = Property(8, 2, (Clause(ball(x, 1.0), (below(row, bound),)),))
    verdict = verify(network, prop, (8,), memory=20_000)
    assert (verdict.status, verdict.note) == ("unknown", "the open subproblems exceed the memory budget")
    assert -math.inf < verdict.bound <= 2e-4


def test_no_time_at_all() -> None:
    network, prop = hard()
    verdict = verify(network, prop, (40,), timeout=0.0)
    assert (verdict.status, verdict.bound) == ("timeout", -math.inf)


def test_a_deadline_rings_and_leaves_no_trace() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(OutOfTime), Deadline(0.05).enforced():
        while True:
            pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_property_of_another_network_is_refused() -> None:
    prop = Property(3, 2, (Clause(ball(torch.zeros(3), 1.0), (below(torch.ones(2), 0.0),)),))
    with pytest.raises(UserError, match="3 inputs and 2 outputs, the network 4 and 2"):
        verify(dense(0, 4, 3, 2), prop, (4,))


def test_a_replay_has_the_last_word() -> None:
    """A network that answers otherwise where it is run than where it is proved is never `sat` by proof alone."""
    network = dense(0, 2, 4, 2)
    row = torch.tensor([1.0, 0.0], dtype=torch.float64)
    value = float((least(network, ball(torch.zeros(2), 1.0), (2,)) @ row).min())
    prop = Property(2, 2, (Clause(ball(torch.zeros(2), 1.0), (below(row, value + 0.1),)),))
    assert verify(network, prop, (2,), timeout=5).status == "sat"
    never = verify(network, prop, (2,), timeout=3, replay=lambda x: np.array([1e9, 0.0]))
    assert never.status in ("unknown", "timeout")
    assert never.counterexample is None


def test_the_same_seed_gives_the_same_search() -> None:
    network = dense(3, 3, 8, 8, 2)
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    value = float((least(network, ball(torch.zeros(3), 1.0), (3,)) @ row).min())
    prop = Property(3, 2, (Clause(ball(torch.zeros(3), 1.0), (below(row, value - 0.02),)),))
    state = torch.get_rng_state()
    first, second = (verify(network, prop, (3,), seed=1) for _ in range(2))
    assert (first.status, first.domains, first.bound) == (second.status, second.domains, second.bound)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_certified_radii_grow_towards_the_attacked_ones(norm: str) -> None:
    """The exact l∞ radius of a small network, and never beyond an adversarial example."""
    network = dense(2, 6, 12, 12, 3).float()
    x = torch.rand(200, 6, generator=torch.Generator().manual_seed(0))
    two = network(x).topk(2).values
    x = x[(two[:, 0] - two[:, 1]).topk(2).indices]  # far from the boundary, where crown is loose
    y = network(x).argmax(1)
    before = certify(network, x, y, norm)
    after = tighten(network_of(network, (6,)), x, y, before, timeout=30, tol=0.04)
    assert (after.radius_lower >= before.radius_lower).all()
    assert (after.radius_lower <= before.radius_upper).all()
    assert after.radius_lower.sum() > before.radius_lower.sum()
    assert after.method == f"{before.method}, then branch and bound"
    for i in range(2 if norm == "linf" else 0):
        radius, rows = float(after.radius_lower[i]), bounds.margins(y[i : i + 1], 3)[0].double()
        for eps, sign in ((radius, 1), (radius * 1.08, -1)):
            least_margin = min(
                exact_minimum(network.double(), row, x[i].double(), eps, lower=0.0, upper=1.0).value
                for row in rows
            )
            assert sign * least_margin > -1e-5
        network.float()


def test_tightening_what_cannot_be() -> None:
    network = dense(2, 3, 4, 2).float()
    x = torch.rand(2, 3)
    wrong = 1 - network(x).argmax(1)
    before = certify(network, x, wrong, attack=False)
    assert (tighten(network_of(network, (3,)), x, wrong, before, timeout=5).radius_lower == 0).all()
    with pytest.raises(UserError, match="2 certificates for 1 images"):
        tighten(network_of(network, (3,)), x[:1], wrong[:1], before, timeout=5)
