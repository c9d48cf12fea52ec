"""Properties that relate inputs to outputs, and strict inequalities at the exact bound."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from property_networks import dense
from torch import nn

from certnas.errors import UserError
from certnas.proofs import Uncertified, write_proof
from certnas.verifier import Box, Clause, Constraint, Property, network_of, parse_vnnlib, search, verify
from certnas.verifier.exact import equal_bounds
from certnas.verifier.input_split import mixture
from certnas.verifier.problem import problem_of

DECLARED = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "".join(f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(2))


def identity() -> nn.Sequential:
    """Y_0 = X_0 and Y_1 = X_0 + X_1, each as relu(z) − relu(−z): loose wherever a unit bends."""
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).requires_grad_(False)
    network[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [1, 1], [-1, -1]]))
    network[2].weight.copy_(torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]]))
    network[0].bias.zero_(), network[2].bias.zero_()
    return network.eval()


def answer(formulas: str, **options: object) -> str:
    network = network_of(identity(), (2,))
    return verify(network, parse_vnnlib(DECLARED + BOX + formulas), timeout=20, **options).status


@pytest.mark.parametrize("few", [0, 24], ids=["activations", "inputs"])
@pytest.mark.parametrize(
    ("formulas", "expected"),
    [
        ("(assert (<= (+ X_0 X_1) 1))(assert (>= Y_1 1.001))", "unsat"),
        ("(assert (<= (+ X_0 X_1) 1))(assert (>= Y_1 0.999))", "sat"),
        ("(assert (>= Y_0 (+ X_0 0.001)))", "unsat"),
        ("(assert (>= Y_0 (- X_0 0.001)))", "sat"),
        ("(assert (or (>= Y_0 (+ X_0 0.01)) (and (>= X_0 0.5) (<= Y_1 (- X_1 0.1)))))", "unsat"),
        ("(assert (or (>= Y_0 (+ X_0 0.01)) (and (>= X_0 0.5) (<= Y_1 (+ X_1 0.6)))))", "sat"),
        ("(assert (= (+ X_0 X_1) 0.5))(assert (>= Y_1 0.6))", "unsat"),
        ("(assert (>= X_0 2))(assert (>= Y_1 0.6))", "unsat"),
    ],
)
def test_relations_between_inputs_and_outputs(
    formulas: str, expected: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    assert answer(formulas) == expected


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_many_points(seed: int) -> None:
    """Y_0 − X_0 where Σ X ≤ 0.5: its greatest value over two million points, and a little to both sides."""
    network = dense(seed, 3, 12, 2)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(300_000, 3, dtype=torch.float64, generator=generator) * 2 - 1
    value = (network(x)[:, 0] - x[:, 0])[x.sum(1) <= 0.5]
    top, box = float(value.max()), Box(((Fraction(-1), Fraction(1)),) * 3)
    one = Fraction(1)
    below = Constraint((), Fraction(1, 2), False, tuple((i, one) for i in range(3)))
    for slack, expected in ((0.05, "unsat"), (-0.05, "sat")):
        above = Constraint(((0, -one),), -Fraction(top + slack), False, ((0, one),))
        prop = Property(3, 2, (Clause(box, (below, above)),))
        verdict = verify(network_of(network, (3,)), prop, timeout=60)
        assert verdict.status == expected
        if verdict.counterexample is not None:
            inputs, outputs = verdict.counterexample.inputs, verdict.counterexample.outputs
            assert Fraction(float(inputs.astype(np.float64).sum())) <= Fraction(1, 2) + Fraction(1, 10**6)
            assert prop.violated_by(inputs, outputs)


def test_a_mixture_is_below_the_mixed_forms_and_proves_what_none_alone_does() -> None:
    """Forms x − y + 0.1 and y − x + 0.1 on [−1, 1]²: both are ≤ 0 nowhere, each is somewhere."""
    slopes = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
    least = torch.tensor([[-1.9, -1.9]], dtype=torch.float64)
    bound, form = mixture(least, slopes, torch.ones(1, 2, dtype=torch.float64))
    assert float(bound) == pytest.approx(0.1)
    assert form.abs().max() < 1e-9
    slopes = torch.randn(50, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius, centre = torch.rand(50, 4, dtype=torch.float64) + 0.1, torch.randn(50, 3, dtype=torch.float64)
    bound, _ = mixture(centre - (slopes.abs() * radius.unsqueeze(1)).sum(2), slopes, radius)
    way = torch.rand(2000, 50, 4, dtype=torch.float64) * 2 - 1
    values = centre + torch.einsum("bsn,mbn->mbs", slopes, way * radius)
    assert (values.amax(2).amin(0) >= bound - 1e-12).all(), "the greatest form is above every mixture"


@pytest.mark.parametrize("few", [0, 24], ids=["activations", "inputs"])
@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("(> Y_0 1.0)", "unsat"),
        ("(>= Y_0 1.0)", "sat"),
        ("(> Y_0 0.999999)", "sat"),
        ("(< Y_0 -1)", "unsat"),
        ("(> Y_1 2)", "unsat"),
        ("(and (< X_0 -1) (<= Y_1 5))", "unsat"),
        ("(or (> Y_0 1.0) (> Y_1 1.9))", "sat"),
    ],
)
def test_a_strict_inequality_at_the_exact_bound(
    formula: str, expected: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    assert answer(f"(assert {formula})") == expected


def test_equality_that_no_plane_shows_is_found_in_halves_of_the_box() -> None:
    assert answer("(assert (> Y_0 X_0))") == "unsat"


def test_equality_at_a_bound_counts_only_where_the_inequality_is_strict() -> None:
    network = network_of(identity(), (2,))
    for strict in (True, False):
        prop = Property(2, 2, (Clause(Box(((Fraction(-1), Fraction(1)),) * 2),
                                      (Constraint(((0, -Fraction(1)),), -Fraction(1), strict),)),))  # fmt: skip
        equal = equal_bounds(problem_of(network, prop).network, prop)
        assert (equal is not None) == strict
        if equal is not None:
            one = torch.ones(2, dtype=torch.float64)
            assert equal(0, 0 * one, 2 * one), "where no unit bends; 2 is outside of the property's own box"
            assert equal(0, -one, one)


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.ReLU6, nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize("related", [False, True])
def test_exact_bounds_hold_every_point(act: type[nn.Module], related: bool) -> None:
    """Bounds of random rows, asked by strict constraints that just fail and just hold."""
    network = dense(0, 3, 5, 4, 2, act=act)
    rng = np.random.default_rng(0)
    for _ in range(5):
        low = [Fraction(int(v), 10) for v in rng.integers(-10, 10, 3)]
        box = Box(tuple((side, side + Fraction(2, 7)) for side in low))
        terms = [Fraction(int(v), 3) for v in rng.integers(-3, 4, 5)]
        coef, inputs = tuple(enumerate(terms[:2])), tuple(enumerate(terms[2:])) if related else ()
        way = np.vstack([rng.random((2000, 3)), np.array(np.meshgrid(*[[0, 1]] * 3)).reshape(3, -1).T])
        x = torch.from_numpy(box.outward[0] + (box.outward[1] - box.outward[0]) * way)
        value = network(x) @ torch.tensor([float(v) for v in terms[:2]], dtype=torch.float64)
        value = value + (
            x @ torch.tensor([float(v) for v in terms[2:]], dtype=torch.float64) if related else 0
        )
        least, wide = float(value.min()), float(value.max() - value.min())
        for bound, expected in ((least + 1e-9, False), (least - 10 * wide - 50, True)):
            row = Constraint(coef, Fraction(bound), True, inputs)
            prop = Property(3, 2, (Clause(box, (row,)),))
            equal = equal_bounds(problem_of(network_of(network, (3,)), prop).network, prop)
            assert equal is not None
            assert equal(0, *map(torch.from_numpy, box.outward)) == expected


def test_what_no_certificate_can_say_is_said(tmp_path: Path) -> None:
    network = network_of(identity(), (2,))
    for formula, why in (
        ("(> Y_0 1.0)", "exact bound"),
        ("(>= Y_0 (+ X_0 0.1))", "relates outputs to inputs"),
    ):
        prop = parse_vnnlib(f"{DECLARED}{BOX}(assert {formula})")
        verdict = verify(network, prop, timeout=20, proof=True)
        assert verdict.status == "unsat" and verdict.proof is not None
        with pytest.raises(Uncertified, match=why):
            write_proof(tmp_path / "x.npz", prop, verdict.proof)


@pytest.mark.parametrize("end", ["1e39", "1e300", "1e400"])
def test_a_box_beyond_float32_is_refused(end: str) -> None:
    with pytest.raises(UserError, match="input 1 of the property reaches beyond what float32 holds"):
        stated = DECLARED + BOX.replace("X_1 1)", f"X_1 {end})") + "(assert (<= Y_0 0))"
        verify(network_of(identity(), (2,)), parse_vnnlib(stated))
