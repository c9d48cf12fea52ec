"""A bound does not depend on how much memory it was given."""

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.chunking import MemoryBudget

METHODS: dict[str, bounds.Method] = {
    "crown-ibp": bounds.CrownIBP(),
    "zonotope+crown": bounds.ZonotopeCrown(),
    "crown": bounds.Crown(),
    # two steps: at a kink of the bound the last bit decides a subgradient, and later iterates may part
    "alpha-crown": bounds.AlphaCrown(iterations=2),
}
TINY = 400_000  # bytes: a few rows at a time


class Net(nn.Module):
    """Two layers, a pool, a mixed pair of branches; `plain`: ReLU and average pooling only."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.bend = torch.relu if plain else torch.tanh
        self.pool = nn.AvgPool2d(3, 2, 1) if plain else nn.MaxPool2d(3, 2, 1)
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 9, 5)
        self.alpha = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.one(x))
        share = torch.softmax(self.alpha, 0)
        z = share[0] * self.bend(self.two(z)) + share[1] * z
        return self.head(self.pool(z).flatten(1))


def setting(plain: bool = False) -> tuple[bounds.Graph, Tensor, Tensor]:
    torch.manual_seed(3)
    model = Net(plain).double().eval()
    x = torch.rand(3, 1, 6, 6).double()
    return bounds.trace(model, x), x, bounds.margins(torch.tensor([0, 3, 4]), 5, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_chunked_equals_unchunked(method: bounds.Method, norm: str) -> None:
    graph, x, rows = setting()
    region = bounds.NORMS[norm](x, torch.tensor([0.02, 0.1, 0.2]), 0.0, 1.0)
    whole = bounds.lower_bounds(graph.bind(), region, rows, method, memory=2**31)
    chunked = bounds.lower_bounds(graph.bind(), region, rows, method, memory=TINY)
    default = bounds.lower_bounds(graph.bind(), region, rows, method)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(default, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_gradients_of_a_chunked_bound_equal_those_of_an_unchunked_one(method: bounds.Method) -> None:
    """In every parameter, the architecture variables among them, the radius and the centre.

    α-CROWN on ReLUs alone: the slopes it starts from are kinks of the other relaxations, without one gradient.
    """
    graph, x, rows = setting(plain=isinstance(method, bounds.AlphaCrown))
    found = []
    for memory in (2**31, TINY):
        params = {name: t.detach().clone().requires_grad_() for name, t in graph.defaults.items()}
        eps = torch.tensor([0.02, 0.1, 0.2]).double().requires_grad_()
        centre = (0.1 + 0.8 * x).requires_grad_()
        region = bounds.Linf(centre, eps, 0.0, 1.0)
        lower = bounds.lower_bounds(graph.bind(params), region, rows, method, memory=memory)
        found.append(torch.autograd.grad(lower.sum(), [*params.values(), eps, centre]))
    for whole, chunked in zip(*found, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-11)


def test_a_tiny_budget_does_cut_into_several_blocks() -> None:
    """Otherwise the tests above compare a thing with itself."""
    graph, x, rows = setting()
    counted: list[int] = []
    original = MemoryBudget.chunks

    def counting(self: MemoryBudget, counts: list[int], cost: int):
        blocks = list(original(self, counts, cost))
        counted.append(len(blocks))
        return iter(blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBudget, "chunks", counting)
        bounds.lower_bounds(graph.bind(), bounds.Linf(x, 0.1), rows, bounds.Crown(), memory=TINY)
    assert max(counted) > 5


@pytest.mark.parametrize("images", [1, 2, 7])
@pytest.mark.parametrize("rows", [1, 5, 100, 1000])
@pytest.mark.parametrize("coefficients", [10, 64, 999, 10**6])
def test_blocks_cover_every_row_once_and_keep_to_the_budget(
    coefficients: int, rows: int, images: int
) -> None:
    cost = 10
    seen = torch.zeros(images, rows)
    for some_images, some_rows in MemoryBudget(coefficients).chunks([rows] * images, cost):
        seen[some_images, some_rows] += 1
        assert seen[some_images, some_rows].numel() * cost <= coefficients
    assert (seen == 1).all()


@pytest.mark.parametrize("coefficients", [100, 10**4, 10**6])
@pytest.mark.parametrize("idle", [0, 300, 10**6])
def test_images_have_the_rows_they_need_and_few_others(
    coefficients: int, idle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bounds.chunking.PADDING_COEFFICIENTS", idle)
    counts, cost = [3, 0, 50, 7, 50, 49, 4], 10
    seen = torch.zeros(len(counts), max(counts))
    for some_images, some_rows in MemoryBudget(coefficients).chunks(counts, cost):
        block = seen[some_images][:, some_rows]
        assert block.numel() * cost <= coefficients
        assert sum(some_rows.stop - min(some_rows.stop, counts[i]) for i in some_images) * cost <= max(
            idle, 0
        )
        seen[some_images, some_rows] += 1
    needed = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
    assert (seen <= 1).all() and (seen[needed] == 1).all()


@pytest.mark.parametrize(
    "method", [bounds.Crown(), bounds.AlphaCrown(iterations=1)], ids=["crown", "alpha-crown"]
)
def test_a_row_that_does_not_fit_is_one_clear_line(method: bounds.Method) -> None:
    graph, x, rows = setting()
    with pytest.raises(
        bounds.InvalidInput, match=r"memory: one row needs .* MiB .* give a larger memory budget"
    ) as caught:
        bounds.lower_bounds(graph.bind(), bounds.Linf(x, 0.1), rows, method, memory=1000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory", [0, -5])
def test_a_budget_of_nothing_is_refused(memory: int) -> None:
    graph, x, rows = setting()
    with pytest.raises(bounds.InvalidInput, match=f"memory: must be positive, got {memory} bytes"):
        bounds.lower_bounds(graph.bind(), bounds.Linf(x, 0.1), rows, bounds.Crown(), memory=memory)


@pytest.mark.parametrize("images, rows", [(0, 2), (2, 0)])
def test_no_images_or_no_rows_have_no_bounds(images: int, rows: int) -> None:
    network = bounds.trace(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(1, 3)
    ).bind()
    region = bounds.L2(torch.rand(images, 3), 0.1, 0.0, 1.0)
    for method in (bounds.IBP(), bounds.Zonotope(), bounds.Crown(), bounds.AlphaCrown(iterations=1)):
        assert bounds.lower_bounds(network, region, torch.rand(images, rows, 2), method).shape == (
            images,
            rows,
        )


@pytest.mark.parametrize("memory", [None, TINY])
def test_images_of_unlike_counts_are_bounded_as_if_alone(memory: int | None) -> None:
    graph, x, rows = setting(plain=True)
    x, rows = torch.cat([x, x]), torch.cat([rows, rows])
    eps = torch.linspace(0.3, 0.0, len(x), dtype=x.dtype)  # the last has no unstable unit, the first most
    eps = eps[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    network = graph.bind()
    together = bounds.lower_bounds(network, bounds.Linf(x, eps), rows, bounds.Crown(), memory=memory)
    for i in range(len(x)):
        one = slice(i, i + 1)
        alone = bounds.lower_bounds(network, bounds.Linf(x[one], eps[one]), rows[one], bounds.Crown())
        torch.testing.assert_close(together[one], alone)
