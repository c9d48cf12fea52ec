"""Where single precision overflows there is no bound, and above all no certificate."""

import pytest
import torch
from torch import nn

import bounds


def exploding(layers: int = 26) -> nn.Module:
    """A network whose interval bounds leave float32 long before its clean values do."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(8, 8), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(32)
    return model


@pytest.mark.parametrize("method", [name for name in bounds.METHODS if name != "alpha-crown"])
@pytest.mark.parametrize("eps", [1.0, 1e20])
def test_overflow_certifies_nothing(method: str, eps: float) -> None:
    x = torch.rand(4, 8)
    network = bounds.trace(exploding(), x).bind()
    with torch.no_grad():
        clean = network(x)
        rows = bounds.margins(clean.argmax(1), 3)
        lower = bounds.lower_bounds(network, bounds.Linf(x, eps), rows, bounds.METHODS[method])
        corners = torch.stack([x + eps * torch.randn_like(x).sign() for _ in range(200)])
        reached = torch.stack([(rows @ network(point).unsqueeze(-1)).squeeze(-1) for point in corners]).amin(
            0
        )
    assert torch.isfinite(clean).all()
    assert not (lower > 0).any()
    assert not lower.isnan().any()
    assert not (lower > reached).any()


def test_unknown_bounds_are_never_taken_for_settled_ones() -> None:
    nothing = bounds.Interval(
        torch.tensor([torch.nan, 0.0]), torch.tensor([torch.nan, 1.0])
    ).overflow_as_infinite()
    assert nothing.lower.tolist() == [-torch.inf, 0.0] and nothing.upper.tolist() == [torch.inf, 1.0]
