"""Verdicts against exact optima and points; certified radii raised."""

import numpy as np
import pytest
import torch
from oracles import exact_minimum
from property_networks import ball, below, convolutional, dense, least, pooled, verify
from torch import nn

import bounds
from certnas import certify
from certnas.errors import UserError
from certnas.verifier import Clause, Property, network_of, search, tighten

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
