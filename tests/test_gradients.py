"""Derivatives of bounds against finite differences, in float64: weights, architecture variables, radius, centre."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from operators import Function, norm
from soundness import REGIONS
from torch import Tensor, nn
from torch.autograd import gradcheck

import bounds
from bounds.chunking import budget
from bounds.state import BoundState

SHAPE, CLASSES = (1, 3, 3), 2


class Mixed(nn.Module):
    """Σ softmax(alpha)ₖ · opₖ(x): a mixed edge of an architecture search, with the zero operation."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([0.3, -0.2, 0.1, 0.4]))
        self.conv = nn.Conv2d(2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.alpha, 0)
        average = F.avg_pool2d(x, 2, 1)
        return (
            weights[0] * self.conv(F.relu(x))
            + weights[1] * average
            + weights[2] * x[:, :, 1:, 1:]
            + weights[3] * average.mul(0.0)
        )


NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "relu": lambda: [nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU()],
    "mixed edge": lambda: [nn.LeakyReLU(0.1), Mixed(), nn.ReLU()],
    "max pool": lambda: [nn.ReLU(), nn.MaxPool2d(2, 1, 1), nn.Conv2d(2, 2, 2)],
    "batch norm": lambda: [norm([-1.2, 0.7]), nn.ReLU(), nn.Conv2d(2, 2, 2), norm([0.5, -0.8]), nn.ReLU()],
    "sigmoid": lambda: [nn.Sigmoid(), nn.Conv2d(2, 2, 2), nn.Tanh()],
    "curves": lambda: [nn.SiLU(), nn.Conv2d(2, 2, 2), nn.GELU()],
    "pieces": lambda: [nn.ELU(2.0), nn.Conv2d(2, 2, 2), nn.Hardtanh(-0.3, 0.2), Function(lambda x: F.hardswish(4 * x))],
    "softplus": lambda: [nn.Softplus(), Function(torch.exp), nn.Conv2d(2, 2, 2), Function(torch.square)],
    "product": lambda: [Function(lambda x: x * torch.sigmoid(x.sum((2, 3), keepdim=True))), nn.ReLU()],
}  # fmt: skip


def ready(name: str) -> nn.Module:
    """A 2-channel stem, the modules, a linear head; nothing of it sits on a kink."""
    torch.manual_seed(5)
    model = (
        nn.Sequential(nn.Conv2d(1, 2, 2), *NETS[name](), nn.Flatten(), nn.LazyLinear(CLASSES)).double().eval()
    )
    with torch.no_grad():
        model(images())
    return model


def images() -> Tensor:
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(6)).double()


def method_of(name: str, network: bounds.Network, region: bounds.Region, rows: Tensor) -> bounds.Method:
    """α-CROWN at slopes drawn at random: they are constants of its derivative, and the best ones lie on kinks."""
    if name != "alpha-crown":
        return bounds.METHODS[name]
    state = BoundState(network, region, budget(None, network.dtype, network.device), bounds.Slope.ADAPTIVE)
    found = bounds.AlphaCrown(iterations=1).optimise(state, rows)
    generator = torch.Generator().manual_seed(7)
    return bounds.CrownAtAlphas(
        {
            target: {
                node: tuple(0.2 + 0.6 * torch.rand(t.shape, generator=generator).to(t) for t in alphas)
                for node, alphas in node_alphas.items()
            }
            for target, node_alphas in found.alphas.items()
        }
    )


@pytest.mark.parametrize("method", bounds.METHODS)
@pytest.mark.parametrize("name", NETS)
def test_bounds_are_differentiable_in_everything(name: str, method: str) -> None:
    model, x = ready(name), images()
    graph = bounds.trace(model, x)
    rows = torch.tensor([[[1.0, -1.0], [0.3, 1.0]]]).double().expand(2, -1, -1)
    norm_of = {"ibp": "l2", "crown": "linf", "zonotope": "l1"}.get(method, "linf")
    ball, box = REGIONS[norm_of], (-0.5, 1.5)
    eps = torch.tensor([0.11, 0.17]).double()
    chosen = method_of(method, graph.bind(), ball(x, eps, *box), rows)
    names = [key for key, _ in model.named_parameters()]
    leaves = [p.detach().clone().requires_grad_() for _, p in model.named_parameters()]

    def bound(center: Tensor, radius: Tensor, *weights: Tensor) -> Tensor:
        network = graph.bind(dict(zip(names, weights, strict=True)))
        return bounds.lower_bounds(network, ball(center, radius, *box), rows, chosen)

    given = (x.requires_grad_(), eps.requires_grad_(), *leaves)
    assert gradcheck(bound, given, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("norm_of", REGIONS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_bounds_are_differentiable_in_the_region(norm_of: str, box: tuple[float, float] | None) -> None:
    """A common radius, one for each image, one for each element; the centre; with the box and without."""
    model, x = ready("relu"), images()
    network = bounds.trace(model, x).bind()
    rows = torch.tensor([[[1.0, -1.0]]]).double().expand(2, -1, -1)
    for eps in (torch.tensor(0.1), torch.tensor([0.1, 0.2]), torch.full(x.shape, 0.1) * (1 + x) + 0.03):

        def bound(center: Tensor, radius: Tensor) -> Tensor:
            region = REGIONS[norm_of](center, radius, *(box or ()))
            return bounds.lower_bounds(network, region, rows, bounds.Crown())

        given = (x.clone().requires_grad_(), eps.double().requires_grad_())
        assert gradcheck(bound, given, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_a_bound_grows_with_its_mixed_edges_weight_as_its_derivative_says() -> None:
    """The derivative in alpha is not zero: a step along it raises the bound."""
    model, x = ready("mixed edge"), images()
    graph = bounds.trace(model, x)
    rows = torch.tensor([[[1.0, -1.0]]]).double().expand(2, -1, -1)

    def bound(alpha: Tensor) -> Tensor:
        return bounds.lower_bounds(
            graph.bind({"2.alpha": alpha}), bounds.Linf(x, 0.1), rows, bounds.Crown()
        ).sum()

    alpha = model[2].alpha.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound(alpha), alpha)
    assert slope.norm() > 1e-3
    assert bound(alpha + 1e-3 * slope) > bound(alpha)
