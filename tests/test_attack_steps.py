"""The search for counterexamples step by step, and who judges them."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from certnas.verifier import Box, Clause, Constraint, Property, attack
from certnas.verifier.attack import DESCENTS, CounterexampleJudge, Descent, _descend, _start
from certnas.verifier.deadline import Deadline, OutOfTime
from certnas.verifier.problem import Problem

DOUBLE = torch.float64


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def test_descents_are_as_long_as_said() -> None:
    assert {"quick": Descent(20, 1), "thorough": Descent(100, 10)} == DESCENTS
    assert (attack.CHUNK, attack.NEAR) == (256, 1e-4)


def test_steps_go_down_the_slope_and_shrink() -> None:
    """Steps fall from 1/2 of the radius to 1/100, follow the sign and stay in the box.

    x0 is to fall, x1 to rise, and x2 has no slope.
    """
    centre, radius = tensor([[10.0, 20.0, 30.0]]), tensor([[1.0, 2.0, 4.0]])
    steps = list(_descend(centre, radius, tensor([[0.5, 0.25, 0.75]]), lambda x: x[:, 0] - 3 * x[:, 1], 2))
    sizes = [0.5, 0.5 * 0.02**0.5]
    way = tensor([0.5, 0.25, 0.75])
    for number, (x, value) in enumerate(steps):
        torch.testing.assert_close(x[0], centre[0] + radius[0] * way, rtol=1e-12, atol=1e-12)
        assert float(value) == pytest.approx(float(x[0, 0] - 3 * x[0, 1]))
        assert not x.requires_grad and not value.requires_grad
        if number < 2:
            way = (way + sizes[number] * tensor([-1.0, 1, 0])).clamp(-1, 1)
    assert len(steps) == 3 and steps[-1][0][0].tolist() == pytest.approx([9.93, 21.64, 33.0], abs=0.01)
    assert len(list(_descend(centre, radius, tensor([[0.0, 0, 0]]), lambda x: x[:, 0], 0))) == 1
    far = list(_descend(centre, radius, tensor([[-0.9, 0.9, 0]]), lambda x: x[:, 0] - x[:, 1], 2))
    assert far[-1][0][0].tolist() == [9.0, 22.0, 30.0], "the box is not left"


def test_restarts_are_uniform_and_at_corners_by_turns() -> None:
    shape, drawn = torch.Size((50,)), torch.Generator().manual_seed(0)
    assert torch.equal(_start(0, shape, drawn), torch.zeros(50))
    inner, corner = _start(1, shape, drawn), _start(2, shape, drawn)
    again = torch.Generator().manual_seed(0)
    assert torch.equal(inner, 2 * torch.rand(shape, generator=again) - 1)
    assert torch.equal(corner, (2 * torch.rand(shape, generator=again) - 1).sign())
    assert bool((inner.abs() < 1).all()) and set(corner.tolist()) == {-1.0, 1.0}


# Who judges.

BOX = Box(((Fraction(0), Fraction(1)), (Fraction(-1), Fraction(1, 10))))
FAR = Box(((Fraction(5), Fraction(6)), (Fraction(5), Fraction(6))))
PROP = Property(2, 1, (
    Clause(BOX, (Constraint(((0, Fraction(1)),), Fraction(1, 2)),)),
    Clause(FAR, (Constraint(((0, Fraction(-1)),), Fraction(-7)),)),
))  # fmt: skip


def replayed(seen: list[list[float]], *, plus: float = 0.0):
    """Y = X_0 + X_1."""

    def replay(inputs: np.ndarray) -> np.ndarray:
        assert inputs.dtype == np.float32
        seen.append(inputs.tolist())
        return np.array([float(inputs[0]) + float(inputs[1]) + plus])

    return replay


def test_points_are_moved_into_the_box_in_single_precision_and_replayed() -> None:
    seen: list[list[float]] = []
    judge = CounterexampleJudge(PROP, replayed(seen))
    tenth = float(np.nextafter(np.float32(0.1), np.float32(0)))  # the greatest float32 below 1/10
    found = judge(tensor([[0.9, 0.1], [-1e-5, 0.1]]))
    assert found is not None and found.inputs.tolist() == [0.0, pytest.approx(tenth, abs=1e-9)]
    assert found.inputs[1] < 0.1 and found.outputs.tolist() == [pytest.approx(0.1)]
    assert len(seen) == 2, "the first is replayed and is none"
    assert judge(tensor([[-2e-4, 0.0]])) is None and len(seen) == 2, "too far from every box"
    assert judge(tensor([[0.9, 0.05]])) is None and len(seen) == 3
    far = judge(tensor([[5.5, 5.5]]))
    assert far is not None and far.outputs.tolist() == [11.0]
    shaped = judge(tensor([[[0.25], [0.125 - 0.03]]]))
    assert shaped is not None and shaped.inputs.shape == (2,)
    assert judge(tensor([[-0.99e-4, 0.0]])) is not None, "near enough to be moved"
    assert CounterexampleJudge(PROP, replayed([], plus=9.0))(tensor([[0.25, 0.0]])) is None, (
        "the replay has the last word"
    )
    relative = tensor([[6.0 + 6.9e-4, 5.5]])
    assert judge(relative) is not None and judge(relative + tensor([[2e-4, 0]])) is None


class Affine:
    """f(x) = A x + b as a network that counts its calls."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias, self.points = weight, bias, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        self.points.append(x.detach())
        return x @ self.weight.T + self.bias


class Region:
    def __init__(self, x: Tensor, radii: Tensor) -> None:
        self.x, self.radii = x, radii

    def at(self, group: Tensor) -> "Region":
        return Region(self.x[group], self.radii[group])


def problem(offset: list[list[float]]) -> Problem:
    """Two clauses of two rows on two boxes: x0 and x1 below offsets; −x0 and x0 + x1."""
    region = Region(tensor([[0.0, 0.0], [4.0, 4.0]]), tensor([[1.0, 1.0], [1.0, 2.0]]))
    coef = tensor([[[1.0, 0], [0, 1]], [[-1, 0], [1, 1]]])
    network = Affine(torch.eye(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE))
    return Problem(network, region, torch.tensor([0, 1]), coef, tensor(offset), tensor([0, 0]))  # type: ignore[arg-type]


def judged(kept: list[Tensor], answer: object = None):
    def judge(points: Tensor) -> object:
        kept.append(points)
        return answer

    return judge


def run(
    offset: list[list[float]], descent: Descent, answer: object = None, seed: int = 0
) -> tuple[list[Tensor], object, Problem]:
    kept, given = list[Tensor](), problem(offset)
    found = attack.attack(given, judged(kept, answer), descent, Deadline(None), seed=seed)  # type: ignore[arg-type]
    return kept, found, given


def test_nothing_near_zero_is_judged() -> None:
    kept, found, given = run([[-9.0, -9.0], [-99.0, -99.0]], Descent(3, 2))
    assert (kept, found) == ([], None)
    assert [len(points) for points in given.network.points] == [4] * 4  # type: ignore[attr-defined]
    first = given.network.points[0]  # type: ignore[attr-defined]
    assert first[:2].tolist() == [[0, 0], [4, 4]], "the centres first"


def test_points_within_the_tolerance_are_judged() -> None:
    """The greatest row of clause 0 is 0 at its centre; 1e-4 · (1 + |−8|) lies above it or below."""
    tolerance = 1e-4 * 9
    for excess, judges in ((0.999 * tolerance, True), (1.001 * tolerance, False)):
        kept, _, _ = run([[-excess, -8.0 + 7], [-8.0, -8.0]], Descent(0, 1))
        assert kept == []
        kept, _, _ = run([[-excess, -excess], [-8.0, -8.0]], Descent(0, 1))
        assert bool(kept) == judges


def test_points_that_surely_hold_come_before_those_that_may() -> None:
    kept, found, _ = run([[0.0, 0.0], [5.0, 99.0]], Descent(0, 1), "found")
    assert found == "found" and kept[0].tolist() == [[4.0, 4.0]], "clause 1 is met by far, clause 0 by a hair"
    kept, found, _ = run([[0.0, 0.0], [-4.0, 8.0]], Descent(0, 1))
    assert found is None and kept[0].tolist() == [[0, 0], [4, 4]]


def test_at_most_four_points_are_judged_the_least_first() -> None:
    kept, _, given = run([[0.5, 0.5], [-99.0, -99.0]], Descent(0, 12))
    (points,) = kept
    values = points.amax(1) - 0.5
    assert len(points) == 4 and values.tolist() == sorted(values.tolist())
    every = given.network.points[0][0::2]  # type: ignore[attr-defined]
    assert values.tolist() == (every.amax(1) - 0.5).sort().values[:4].tolist()


def test_a_seed_decides_the_restarts_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    same = [
        run([[-9.0, -9.0], [-99.0, -99.0]], Descent(1, 3), seed=seed)[2].network.points for seed in (0, 0, 1)
    ]  # type: ignore[attr-defined]
    assert torch.equal(same[0][0], same[1][0]) and not torch.equal(same[0][0], same[2][0])
    monkeypatch.setattr(attack, "CHUNK", 4)
    cut = run([[-9.0, -9.0], [-99.0, -99.0]], Descent(1, 3))[2].network.points  # type: ignore[attr-defined]
    assert [len(part) for part in cut] == [4, 4, 2, 2] and torch.equal(
        torch.cat([cut[0], cut[2]]), same[0][0]
    )
    with pytest.raises(OutOfTime):
        attack.attack(problem([[0.0, 0], [0, 0]]), judged([]), Descent(1, 1), Deadline(0.0), seed=0)  # type: ignore[arg-type]
