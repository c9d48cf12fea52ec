"""α-CROWN's slopes: of each unit's own or shared, in any grouping of images, with and without derivatives."""

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.chunking import budget
from bounds.methods import alpha_crown
from bounds.state import BoundState

EPS = 0.06


@pytest.fixture(scope="module")
def subject() -> tuple[bounds.Network, Tensor, Tensor]:
    """A network with convolutions and dense layers behind them, images of it, rows."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(150, 20), nn.ReLU(), nn.Linear(20, 4),
    ).double()  # fmt: skip
    with torch.no_grad():  # far from linear over the ball
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 0)
    x = torch.rand(3, 1, 10, 10, dtype=torch.float64)
    return bounds.trace(model, x).bind(), x, bounds.margins(torch.tensor([0, 1, 2]), 4).double()


def lower(
    subject: tuple[bounds.Network, Tensor, Tensor], method: bounds.Method, memory: int | None = None
) -> Tensor:
    network, x, rows = subject
    return bounds.lower_bounds(network, bounds.Linf(x, EPS), rows, method, memory=memory).detach()


def test_own_slopes_get_further_than_shared_ones(subject) -> None:
    crown = lower(subject, bounds.Crown())
    shared = lower(subject, bounds.AlphaCrown(iterations=40, shared=True)) - crown
    own = lower(subject, bounds.AlphaCrown(iterations=40)) - crown
    assert float(shared.min()) >= 0
    assert float(own.mean()) > 1.02 * float(shared.mean())


def test_too_many_slopes_are_shared(subject, monkeypatch) -> None:
    own = lower(subject, bounds.AlphaCrown(iterations=5))
    monkeypatch.setattr(alpha_crown, "MOST_OWN_ALPHAS", 0)
    limited = lower(subject, bounds.AlphaCrown(iterations=5))
    assert torch.equal(limited, lower(subject, bounds.AlphaCrown(iterations=5, shared=True)))
    assert not torch.allclose(limited, own)


@pytest.mark.parametrize("together", [0, 20_000])
def test_the_grouping_of_images_does_not_matter(subject, together: int, monkeypatch) -> None:
    """Two steps: from the third on, slopes that begin on kinks may part by rounding."""
    method = bounds.AlphaCrown(iterations=2, step=0.3)
    whole = lower(subject, method)
    monkeypatch.setattr(alpha_crown, "ALPHAS_AT_ONCE", together)
    torch.testing.assert_close(lower(subject, method), whole, rtol=0, atol=1e-9)


def test_blocks_of_rows_do_not_matter(subject) -> None:
    method = bounds.AlphaCrown(iterations=2, step=0.3)
    torch.testing.assert_close(lower(subject, method, 300_000), lower(subject, method), rtol=0, atol=1e-9)


def test_each_row_is_bounded_from_below_by_what_it_reaches(subject) -> None:
    network, x, rows = subject
    found = lower(subject, bounds.AlphaCrown(iterations=20))
    draw = torch.Generator().manual_seed(0)
    for step in range(300):
        shift = 2 * torch.rand(x.shape, generator=draw, dtype=x.dtype) - 1
        point = x + EPS * (shift.sign() if step % 2 else shift)
        with torch.no_grad():
            reached = (rows @ network(point).unsqueeze(-1)).squeeze(-1)
        assert bool((found <= reached).all())


def test_derivatives_are_those_of_the_best_iterate(subject) -> None:
    """The bound with derivatives lies between CROWN's and the best of every row, and falls with ε as it says."""
    network, x, rows = subject
    method = bounds.AlphaCrown(iterations=3)
    eps = torch.tensor(EPS, dtype=torch.float64, requires_grad=True)
    bound = bounds.lower_bounds(network, bounds.Linf(x, eps), rows, method)
    assert bool((bound >= lower(subject, bounds.Crown())).all())
    assert bool((bound <= lower(subject, method) + 1e-12).all())
    (slope,) = torch.autograd.grad(bound.sum(), eps)
    assert float(slope) < 0


def test_more_steps_never_lose_the_best_iterate(subject) -> None:
    """Steps so large that iterates rise and fall: the slopes kept are of each image's best, the bound of each row's."""
    network, x, rows = subject
    region = bounds.Linf(x, EPS)
    limit = budget(None, network.dtype, network.device)
    bound, sums = [], []
    for iterations in range(1, 7):
        method = bounds.AlphaCrown(iterations=iterations, step=1.5, decay=1.0, shared=True)
        with torch.no_grad():
            bound.append(lower(subject, method))
        optimised = method.optimise(BoundState(network, region, limit, method.slope), rows)
        sums.append(lower(subject, optimised).sum(1))
    for found in (torch.stack(bound), torch.stack(sums)):
        assert float(found.diff(dim=0).min()) >= -1e-9
        assert float((found[-1] - found[0]).max()) > 1e-3


def test_the_slopes_kept_are_those_of_the_best_iterate_not_of_the_last(subject, monkeypatch) -> None:
    """Bounds made worse with every evaluation: the first slopes are the best, and are what is left."""
    network, x, rows = subject
    evaluations: list[int] = []
    honest = alpha_crown._AlphaSet.bound

    def worsening(self, *arguments) -> Tensor:
        evaluations.append(1)
        return honest(self, *arguments) - 1e3 * len(evaluations)

    monkeypatch.setattr(alpha_crown._AlphaSet, "bound", worsening)
    slopes = []
    for iterations in (0, 3):
        method = bounds.AlphaCrown(iterations=iterations)
        limit = budget(None, network.dtype, network.device)
        optimised = method.optimise(BoundState(network, bounds.Linf(x, EPS), limit, method.slope), rows)
        slopes.append(
            [
                t
                for node_alphas in optimised.alphas.values()
                for alphas in node_alphas.values()
                for t in alphas
            ]
        )
    assert len(evaluations) == 4
    assert all(torch.equal(first, kept) for first, kept in zip(*slopes, strict=True))
