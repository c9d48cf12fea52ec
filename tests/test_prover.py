"""The bound engine as the certifier asks it, on affine networks whose answers are known."""

import math

import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.certifier.prover import Prover, prover, search_end
from certnas.errors import UserError
from certnas.faithful import points_about

WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]])
BIAS = torch.tensor([0.125, -0.25, 0.5])
X = torch.tensor([[0.25, 0.75], [0.75, 0.125], [0.5, 0.5]])
DUALS = {"linf": 1, "l2": 2, "l1": math.inf}


def affine() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 3)).eval()
    with torch.no_grad():
        model[0].weight.copy_(WEIGHT)
        model[0].bias.copy_(BIAS)
    return model


def asked(norm: str = "linf", clip: tuple[float, float] | None = None, memory: int | None = None) -> Prover:
    return prover(affine(), X, bounds.Crown(), bounds.NORMS[norm], clip, memory)


SCORES = X.double() @ WEIGHT.double().T + BIAS.double()
Y = SCORES.argmax(1)


@pytest.mark.parametrize("norm", bounds.NORMS)
def test_the_linearised_margin_of_an_affine_network_is_exact(norm: str) -> None:
    part = asked(norm).about(X, Y, None, 3)
    margin, eps = part.linearised()
    rows = WEIGHT.double()[Y][:, None] - WEIGHT.double()
    gaps = SCORES.gather(1, Y[:, None]) - SCORES
    gaps.scatter_(1, Y[:, None], math.inf)
    least = gaps.argmin(1)
    size = torch.linalg.vector_norm(rows[torch.arange(3), least], DUALS[norm], dim=1)
    torch.testing.assert_close(margin, gaps.amin(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(eps, gaps.amin(1) / size, rtol=1e-12, atol=0)
    assert torch.equal(part.margin(X), margin) and torch.equal(part.logits(X), SCORES)
    assert part.logits(X).dtype == torch.float64 and not part.logits(X).requires_grad
    at = torch.tensor([2, 0])
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        lower = part.lower_margin(eps[at] / 2, at, dtype)
        exact = (gaps - eps[:, None] / 2 * torch.linalg.vector_norm(rows, DUALS[norm], dim=2)).amin(1)[at]
        assert lower.dtype == dtype
        torch.testing.assert_close(lower.double(), exact, rtol=tolerance, atol=tolerance)


def test_rows_are_of_all_classes_or_of_the_target() -> None:
    part = asked().about(X, Y, None, 3)
    assert part.rows.shape == (3, 2, 3) and part.rows.dtype == torch.float64
    target = (Y + 1) % 3
    one = asked().about(X, Y, target, 3)
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.equal(one.rows[:, 0], eye[Y] - eye[target]) and one.rows.shape == (3, 1, 3)
    assert torch.equal(one.x, X)


def test_of_no_images_nothing_is_linearised() -> None:
    margin, eps = asked().about(X[:0], Y[:0], None, 3).linearised()
    assert margin.shape == eps.shape == (0,) and margin.dtype == torch.float64


@pytest.mark.parametrize("clip", [(0.0, 1.0), (-1.0, 3.0), None])
def test_the_ball_is_met_with_the_box(
    clip: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bounds.Network, bounds.Region, Tensor, bounds.Method, int | None]] = []
    honest = bounds.lower_bounds

    def spied(network, region, rows, method, memory=None):
        seen.append((network, region, rows, method, memory))
        return honest(network, region, rows, method, memory=memory)

    part = asked("l2", clip, 12_345).about(X, Y, None, 3)
    monkeypatch.setattr(bounds, "lower_bounds", spied)
    eps = torch.tensor([0.5, 0.25], dtype=torch.float64)
    for dtype, network in ((torch.float32, part.single), (torch.float64, part.double)):
        part.lower_margin(eps, torch.tensor([1, 2]), dtype)
        used, region, rows, method, memory = seen.pop()
        assert used is network and method == bounds.Crown() and memory == 12_345
        assert isinstance(region, bounds.L2) and torch.equal(region.x, X[1:].to(dtype))
        assert torch.equal(region.eps, eps.to(dtype)) and torch.equal(rows, part.rows[1:].to(dtype))
        assert (region.lower, region.upper) == ((None, None) if clip is None else clip)


def test_the_search_ends_where_the_ball_holds_the_box() -> None:
    x = torch.tensor([[0.25, 0.875]])
    for clip, far in (
        ((0.0, 1.0), (0.75, 0.875)),
        ((-1.0, 3.0), (2.75, 2.125)),
        ((0.0, 0.875), (0.625, 0.875)),
    ):
        for norm, order in (("linf", math.inf), ("l2", 2), ("l1", 1)):
            expected = torch.linalg.vector_norm(torch.tensor([far], dtype=torch.float64), order, dim=1)
            assert torch.equal(search_end(x, bounds.NORMS[norm], clip, None), expected)
            assert search_end(x, bounds.NORMS[norm], clip, 0.5).tolist() == [0.5]
            assert torch.equal(search_end(x, bounds.NORMS[norm], clip, 9.0), expected)
    assert search_end(x, bounds.NORMS["l2"], None, None).tolist() == [math.inf]
    assert search_end(x, bounds.NORMS["l2"], None, 2.0).tolist() == [2.0]
    two = search_end(X[:2].reshape(2, 1, 2), bounds.NORMS["l1"], (0.0, 1.0), None)
    assert two.tolist() == [1.5, 1.625]
    part = asked("l1", (0.0, 1.0)).about(X[:2], Y[:2], None, 3)
    assert part.end(None).tolist() == [1.5, 1.625] and part.end(1.6).tolist() == [1.5, 1.6]


def test_the_trace_is_compared_in_the_balls(monkeypatch: pytest.MonkeyPatch) -> None:
    part, seen = asked("l1", (0.0, 1.0)), []
    monkeypatch.setattr(type(part.faithful), "check", lambda self, points: seen.append(points))
    part.check(X[:2], 1.6)
    end = torch.tensor([1.5, 1.6], dtype=torch.float64)
    assert torch.equal(seen[0], points_about(X[:2], 1, end, (0.0, 1.0)))


def test_a_prover_has_the_network_in_both_precisions() -> None:
    part = asked("l2", (0.0, 1.0), 77)
    assert (part.single.dtype, part.double.dtype) == (torch.float32, torch.float64)
    assert (part.method, part.norm, part.clip, part.memory) == (
        bounds.Crown(),
        bounds.NORMS["l2"],
        (0.0, 1.0),
        77,
    )
    assert len(part.x) == len(part.rows) == 0
    double = prover(affine().double(), X, bounds.Crown(), bounds.NORMS["l2"], None, None)
    assert torch.equal(double.logits(X), SCORES), "images take the type of the model"

    class Raising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("no such layer")

    with pytest.raises(UserError, match=r"cannot be evaluated on images of shape \[2\]"):
        prover(Raising().eval(), X, bounds.Crown(), bounds.NORMS["l2"], None, None)
