"""The checker's network of every operator that it knows against torch, value by value; what it does not know."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bounds
from certnas.checker import evaluate
from certnas.errors import UserError
from certnas.proofs import linear, movement, plain, windows

SHAPE = (4, 6, 7)
DRAWN = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=DRAWN, dtype=torch.float64))


class Images(nn.Module):
    """Operators on images, each result in a row of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList([
            nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (2, 1), 2),
            nn.Conv2d(4, 2, (2, 3), padding="valid", bias=False),
            nn.Conv2d(4, 2, (3, 5), padding="same", dilation=(2, 1)),
            nn.AvgPool2d((3, 2), (2, 1), (1, 0)),
            nn.AvgPool2d(3, 2, 1, True, False),
            nn.AvgPool2d((2, 3), 2, divisor_override=5),
            nn.AvgPool2d((3, 2), count_include_pad=True, ceil_mode=True),
            nn.MaxPool2d((3, 2), (2, 1), (1, 0), (1, 2)),
            nn.MaxPool2d((2, 3), ceil_mode=True),
            nn.AdaptiveAvgPool2d(1),
            nn.AdaptiveAvgPool2d((3, 7)),
            nn.AdaptiveAvgPool2d((6, 7)),
            nn.ZeroPad2d((1, 0, 2, 3)),
            nn.ReflectionPad2d((2, 1, 0, 1)),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.125),
            nn.ReLU(),
            nn.ReLU6(),
            nn.Hardtanh(-0.75, 0.25),
            nn.Sigmoid(),
            nn.Tanh(),
        ])  # fmt: skip
        self.norm, self.plain = nn.BatchNorm2d(4, eps=0.5), nn.BatchNorm2d(4, affine=False)
        for norm in (self.norm, self.plain):
            norm.running_mean.copy_(torch.tensor([0.5, -1, 2, 0.25]))
            norm.running_var.copy_(torch.tensor([4.0, 0.25, 1, 2]))
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, -2, 0.5, 3]))
            self.norm.bias.copy_(torch.tensor([0.5, 0, -1, 2]))
        self.channel, self.row = drawn(4, 1, 1), drawn(7)

    def forward(self, x: Tensor) -> Tensor:
        other = F.relu(x)
        found = [part(x) for part in self.parts]
        found += [self.norm(x), self.plain(x), x.abs(), x.clamp(-0.5, 1.5), -x]
        found += [x.mean((2, 3)), x.mean((-1, -2), keepdim=True)]
        found += [x + self.channel, self.channel - x, x - self.row, torch.sub(x, self.row, alpha=3)]
        found += [torch.add(self.row, x, alpha=2), torch.sub(self.row, x, alpha=2), x + 0.75, x - 2, 2 - x]
        found += [torch.rsub(x, 2, alpha=3), torch.rsub(x, 5)]
        found += [x + other, x - other, torch.add(x, other, alpha=0.5), torch.sub(other, x, alpha=2), x + x]
        found += [x * self.channel, self.row * x, x * 3, x / self.channel, x / 4]
        found += [torch.cat([x, other], 1), torch.cat([x, other], -1), torch.cat([other[:, :, :2], x], 2)]
        found += [
            torch.cat([x], 1),
            x.flip(2),
            x.permute(0, 2, 3, 1),
            x[:, 1:3, ::2],
            x.unsqueeze(1).squeeze(1),
        ]
        return torch.cat([one.flatten(1) for one in found], 1)


class Rows(nn.Module):
    """Operators on rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense, self.bare, self.matrix = nn.Linear(5, 3), nn.Linear(5, 4, bias=False), drawn(5, 6)
        self.norm = nn.BatchNorm1d(5)
        self.norm.running_mean.copy_(torch.arange(5) / 4)
        self.norm.running_var.copy_(torch.arange(1, 6) / 2)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.dense(x), self.bare(x), x @ self.matrix, torch.mm(x, self.matrix), self.norm(x)]
        return torch.cat(found, 1)


@pytest.mark.parametrize(("model", "shape"), [(Images, SHAPE), (Rows, (5,))])
def test_values_are_those_of_the_model(model: type[nn.Module], shape: tuple[int, ...]) -> None:
    net = model().double().eval()
    x = 2 * torch.randn(3, *shape, generator=DRAWN, dtype=torch.float64)
    found = plain(bounds.trace(net, x).bind(dtype=torch.float64))
    with torch.no_grad():
        for one, expected in zip(x, net(x), strict=True):
            values = evaluate(found.network, one.numpy())
            assert values.shape == expected.shape
            np.testing.assert_allclose(values, expected.numpy(), rtol=1e-12, atol=1e-12)


class Of(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.matrix = nn.Parameter(torch.ones(1, 6, 6).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x).flatten(1)


REFUSED = {
    "a linear layer on more than one axis": (lambda m, x: F.linear(x, m.matrix[0]), (2, 6)),
    "a product whose right factor is not one constant matrix": (lambda m, x: m.matrix[0] @ x, (6, 2)),
    "a sum that broadcasts a perturbed tensor": (lambda m, x: x + x[:, :1], (6,)),
    "a product of two perturbed tensors": (lambda m, x: x[:, :1] * m.matrix[0, :1], (6,)),
    "padding by a number other than zero": (lambda m, x: F.pad(x, (1, 1), value=2.0), (6,)),
    "a clamp with one side open": (lambda m, x: x.clamp(min=0.5), (6,)),
    "a clamp with one side open or none inside": (lambda m, x: x.clamp(max=0.5), (6,)),
    "adaptive pooling to a size that does not divide": (lambda m, x: F.adaptive_avg_pool2d(x, (2, 3)), (1, 5, 6)),
    "a mean over axes other than height and width": (lambda m, x: x.mean((1, 2)), (2, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_the_checker_does_not_know_is_said(said: str) -> None:
    function, shape = REFUSED[said]
    network = bounds.trace(Of(function).eval(), torch.rand(1, *shape).double()).bind(dtype=torch.float64)
    with pytest.raises(UserError, match=f"no certificate can be written or checked for .*{re.escape(said)}"):
        plain(network)


def test_windows_in_numbers() -> None:
    """Two rows and three columns of windows 2 × 2, by steps of 2 and 1, one row of padding above."""
    found = windows.places((3, 3), (2, 3), (2, 2), (2, 1), (1, 1), (1, 0))
    expected = [
        [[-1, -1, 0, 1], [-1, -1, 1, 2], [-1, -1, 2, -1]],
        [[3, 4, 6, 7], [4, 5, 7, 8], [5, -1, 8, -1]],
    ]
    assert found.tolist() == expected
    assert windows._counts(5, 3, 3, 2, 1, True).tolist() == [3, 3, 3]
    assert windows._counts(5, 3, 3, 2, 1, False).tolist() == [2, 3, 2]
    assert windows._counts(5, 3, 3, 2, 0, True).tolist() == [3, 3, 1]
    assert windows.pair(3) == (3, 3) and windows.pair([3]) == (3, 3) and windows.pair((3, 4)) == (3, 4)


def test_tables_name_each_operator_once() -> None:
    tables = [linear.RULES, movement.RULES, windows.RULES]
    assert sum(map(len, tables)) == len({key for table in tables for key in table})
