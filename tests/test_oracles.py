"""The oracles against brute force: grids, vertices, enumerated activation patterns and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from oracles import descend_region, exact_minimum, linear_minimum, sample_region
from torch import Tensor, nn


def mlp(widths: list[int], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        modules += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*modules[:-1]).double().eval()


def cnn(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=False),
        nn.Flatten(),
        nn.Linear(18, 3),
        nn.ReLU(),
        nn.Linear(3, 2),
    ).double()
    network(torch.rand(16, 1, 4, 4).double())
    return network.eval()


# -- MILP ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_milp_equals_a_fine_grid_in_one_dimension(seed: int) -> None:
    network = mlp([1, 7, 5, 2], seed)
    row = torch.tensor([1.0, -1.0]).double()
    x = torch.tensor([0.3]).double()
    grid = torch.linspace(-0.7, 1.3, 200_001).double().unsqueeze(1)
    expected = (network(grid) @ row).min().item()
    found = exact_minimum(network, row, x, 1.0)
    assert found.value == pytest.approx(expected, abs=1e-5)
    assert found.proved <= found.value + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_milp_equals_enumerated_activation_patterns(seed: int) -> None:
    """Two inputs, one hidden layer: the network is affine on every cell of the arrangement of its neurons,
    so its minimum is where two of the lines (box sides and neurons) meet inside the box."""
    network = mlp([2, 6, 1], seed)
    first = network[0]
    assert isinstance(first, nn.Linear)
    x, eps = torch.tensor([0.2, -0.1]).double(), 0.8
    lines = [(w, -b) for w, b in zip(first.weight.detach().numpy(), first.bias.detach().numpy(), strict=True)]
    for axis, side in itertools.product(range(2), (-eps, eps)):
        lines.append((np.eye(2)[axis], x[axis].item() + side))
    corners = []
    for (a, p), (b, q) in itertools.combinations(lines, 2):
        matrix = np.stack([a, b])
        if abs(np.linalg.det(matrix)) > 1e-9:
            corners.append(np.linalg.solve(matrix, np.array([p, q])))
    points = torch.from_numpy(np.stack(corners))
    inside = points[((points - x).abs() <= eps + 1e-9).all(1)]
    expected = network(inside).min().item()
    assert exact_minimum(network, torch.ones(1).double(), x, eps).value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("seed", range(3))
def test_milp_on_a_network_of_convolutions_and_pools(seed: int, norm: str) -> None:
    network = cnn(seed)
    row = torch.tensor([1.0, -1.0]).double()
    x = torch.rand(1, 4, 4).double()
    found = exact_minimum(network, row, x, 0.3, norm=norm, lower=0.0, upper=1.0)
    assert (network(found.point[None]) @ row).item() == pytest.approx(found.value, abs=1e-5), "not attained"
    away = (found.point - x).flatten()
    assert (away.abs().max() if norm == "linf" else away.abs().sum()) <= 0.3 + 1e-6
    assert found.point.min() >= -1e-6 and found.point.max() <= 1 + 1e-6
    generator = torch.Generator().manual_seed(seed)
    points = sample_region(x[None], 0.3, norm, 0.0, 1.0, count=3000, generator=generator)
    assert found.proved <= (network(points.flatten(0, 1)) @ row).min().item() + 1e-6
    attacked = descend_region(network, row, x[None], 0.3, norm, 0.0, 1.0)
    best = (network(attacked.flatten(0, 1)) @ row).min().item()
    assert found.value - 1e-6 <= best < (network(x[None]) @ row).item()


def test_milp_refuses_what_it_cannot_encode() -> None:
    with pytest.raises(TypeError, match="Sigmoid"):
        exact_minimum(nn.Sequential(nn.Sigmoid()), torch.ones(2).double(), torch.zeros(2).double(), 0.1)


# -- linear forms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_l2_linear_minimum_without_a_box_is_the_dual_norm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    form, x, eps = rng.normal(size=7), rng.random(7), rng.random(7) + 0.1
    free = np.full(7, np.inf)
    expected = form @ x - np.linalg.norm(form * eps)
    assert linear_minimum(form, x, eps, "l2", -free, free) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("seed", range(8))
def test_linear_minimum_in_two_dimensions_equals_a_grid(seed: int, norm: str) -> None:
    rng = np.random.default_rng(seed)
    form, x, eps = rng.normal(size=2), rng.random(2), rng.random(2) + 0.2
    side = np.linspace(0, 1, 2001)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    inside = grid[np.linalg.norm((grid - x) / eps, ord=order, axis=1) <= 1]
    found = linear_minimum(form, x, eps, norm, np.zeros(2), np.ones(2))
    best = (inside @ form).min()
    assert found <= best + 1e-9
    assert found == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_linear_minimum_is_a_box_corner_for_a_large_ball_and_the_centre_for_a_zero_form(norm: str) -> None:
    form, x = np.array([1.0, -2.0, 0.5]), np.array([0.1, 0.5, 0.9])
    assert linear_minimum(form, x, 50.0, norm, np.zeros(3), np.ones(3)) == pytest.approx(-2.0, abs=1e-7)
    assert linear_minimum(np.zeros(3), x, 0.5, norm, np.zeros(3), np.ones(3)) == pytest.approx(0.0, abs=1e-9)


# -- points -------------------------------------------------------------------------------------------------

RADII = {
    "scalar": 0.2,
    "per image": torch.tensor([0.1, 0.4]).double(),
    "per element": torch.linspace(0.05, 0.6, 24).double().reshape(2, 3, 2, 2),
}


def distance(away: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(away.flatten(-3), {"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=-1)


def radii_of(eps: float | Tensor, x: Tensor) -> Tensor:
    eps = torch.as_tensor(eps, dtype=x.dtype)
    return (eps.reshape(-1, 1, 1, 1) if eps.ndim == 1 else eps).expand(x.shape)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("eps", RADII.values(), ids=RADII.keys())
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_sampled_points_are_in_the_region_and_reach_its_boundary(
    norm: str, eps: float | Tensor, box: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 2, 2, generator=generator).double()
    lower, upper = (0.0, 1.0) if box else (None, None)
    points = sample_region(x, eps, norm, lower, upper, count=2000, generator=generator)
    assert points.shape == (2000, 2, 3, 2, 2)
    reach = distance((points - x) / radii_of(eps, x), norm)
    assert reach.max() <= 1 + 1e-12
    assert reach.min() < 0.7
    if box:
        assert points.min() == 0.0 and points.max() == 1.0
    else:
        assert (reach > 1 - 1e-9).double().mean() > 0.3


def test_sampling_uses_its_own_generator_only() -> None:
    before = torch.get_rng_state()
    sample_region(
        torch.rand(1, 3).double() * 0, 0.1, "l2", count=3, generator=torch.Generator().manual_seed(1)
    )
    torch.rand(3)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.rand(3)
    torch.rand(3)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_descent_reaches_the_exact_minimum_of_a_linear_form(norm: str) -> None:
    form = torch.randn(12).double()
    x = torch.rand(2, 3, 2, 2).double()
    points = descend_region(lambda z: z.flatten(1) * form, torch.ones(12).double(), x, 0.3, norm, steps=1)
    for n in range(2):
        centre, free = x[n].flatten().numpy(), np.full(12, np.inf)
        expected = linear_minimum(form.numpy(), centre, 0.3, norm, -free, free)
        assert (points[0, n].flatten() @ form).item() == pytest.approx(expected, abs=1e-9)


def test_a_centre_outside_the_box_is_refused_where_clamping_would_leave_the_ball() -> None:
    with pytest.raises(ValueError, match="inside the box"):
        sample_region(
            torch.full((1, 2), 2.0).double(),
            0.5,
            "l2",
            0.0,
            1.0,
            count=3,
            generator=torch.Generator().manual_seed(0),
        )
