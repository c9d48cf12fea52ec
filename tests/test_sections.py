"""Zonotopes through parts of a network: each part from its own clean input, written out on plain matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.nas.metrics.sections import sections


class Parts(nn.Module):
    """A layer with a ReLU that two branches read; they meet in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.side = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).relu()
        return (self.two(y) + self.side(y)).relu() + 1


def subject() -> tuple[Parts, bounds.Network, Tensor]:
    torch.manual_seed(2)
    model = Parts().double().requires_grad_(False)
    x = torch.rand(2, 3, dtype=torch.float64)
    return model, bounds.trace(model, x).bind(), x


@pytest.mark.parametrize("errors", [0, 2, None])
def test_a_section(errors: int | None) -> None:
    model, network, x = subject()
    given: dict[str, Tensor] = {}

    def generators(name: str, value: Tensor) -> Tensor:
        torch.testing.assert_close(
            value, {"linear": model.one(x), "add": model.two(y) + model.side(y)}.get(name, model(x))
        )
        draw = torch.Generator().manual_seed(len(given))
        given[name] = 0.4 * torch.randn(2, 3, value.shape[1], generator=draw, dtype=torch.float64)
        return given[name]

    y = model.one(x).relu()
    found = sections(network, x, ["linear", "add", "add_1"], generators, errors=errors)
    assert list(found) == ["linear", "add", "add_1"]
    assert not found["linear"].radius.any()
    torch.testing.assert_close(found["linear"].center, model.one(x))

    def relu(value: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre, slope and error of a ReLU on value ± |g|."""
        low, high = value - g.abs().sum(1), value + g.abs().sum(1)
        open_ = (low < 0) & (high > 0)
        assert open_.any()
        slope = torch.where(open_, high / torch.where(open_, high - low, 1), (high > 0).double())
        error = torch.where(open_, -slope * low / 2, 0)
        return slope * value + error, slope, error

    center, slope, error = relu(model.one(x), given["linear"])
    weight = model.two.weight + model.side.weight
    torch.testing.assert_close(found["add"].center, center @ weight.T + model.two.bias + model.side.bias)
    straight = ((given["linear"] * slope.unsqueeze(1)) @ weight.T).abs().sum(1)
    top = error.topk(error.shape[1] if errors is None else errors, 1).indices
    kept = torch.zeros_like(error).scatter(1, top, 1.0) * error
    fresh = (torch.diag_embed(kept) @ weight.T).abs().sum(1)
    boxed = (error - kept) @ (model.two.weight.abs() + model.side.weight.abs()).T
    torch.testing.assert_close(found["add"].radius, straight + fresh + boxed)
    torch.testing.assert_close(found["add"].value, model.two(y) + model.side(y))
    center, slope, error = relu(found["add"].value, given["add"])
    torch.testing.assert_close(found["add_1"].center, center + 1)
    torch.testing.assert_close(
        found["add_1"].radius, (given["add"] * slope.unsqueeze(1)).abs().sum(1) + error
    )
    torch.testing.assert_close(found["add_1"].value, model(x))


def test_before_the_first_end_nothing_is_perturbed() -> None:
    _, network, x = subject()
    found = sections(network, x.float(), ["add"], lambda _, value: value.unsqueeze(1))
    assert found["add"].value.dtype is torch.float64 and not found["add"].radius.any()


def test_an_end_that_is_none_is_named() -> None:
    _, network, x = subject()
    with pytest.raises(bounds.InvalidInput, match="sections: the network has no node 'nowhere'"):
        sections(network, x, ["add", "nowhere"], lambda _, value: value.unsqueeze(1))
