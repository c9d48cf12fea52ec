"""No bound makes a tensor anywhere but where its network is: on a GPU every stray one would be an error or a copy."""

from typing import Any

import pytest
import torch
from effort import in_turn
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bounds
from certnas.models import open_model

METHODS = (
    bounds.IBP(),
    bounds.ZonotopeCrown(8),
    bounds.Crown(),
    bounds.Crown(bounds.Slope.PARALLEL),
    bounds.AlphaCrown(iterations=1),
    bounds.AlphaCrown(iterations=1, shared=True),
)


class Elsewhere(TorchDispatchMode):
    """Within: torch makes tensors on the device `meta` unless told where; the operators that met one are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "meta" for tensor in tensors):
            self.found.add(str(func))
        return result


def mixed() -> nn.Module:
    """Operators that the cells of the embedded network lack."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.LeakyReLU(0.1), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def cell() -> nn.Module:
    return open_model("digits-cell").module.float()


NETWORKS = [(mixed, torch.float32), (mixed, torch.float64), (cell, torch.float32)]


def asked(network: int) -> list[tuple[int, int]]:
    """Each network meets other pairs of a region and a method by day; together these are all of them."""
    return in_turn([(r, m) for r in range(3) for m in range(len(METHODS))], "devices", network, count=6)


def test_every_region_meets_every_method() -> None:
    assert len({pair for network in range(len(NETWORKS)) for pair in asked(network)}) == 3 * len(METHODS)
    for network in range(len(NETWORKS)):
        assert len({r for r, _ in asked(network)}) == 3


@pytest.mark.parametrize(("build", "dtype"), NETWORKS)
def test_nothing_is_made_where_the_network_is_not(build: Any, dtype: torch.dtype) -> None:
    model = build()
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(x)
    network = bounds.trace(model, x[:1]).bind(dtype=dtype)
    rows, eps = bounds.margins(logits.argmax(1), logits.shape[1]), torch.tensor([0.02, 0.03])
    regions = (bounds.Linf(x, eps, 0.0, 1.0), bounds.L2(x, eps), bounds.L1(x, eps, 0.0, 1.0))
    for region, method in ((regions[r], METHODS[m]) for r, m in asked(NETWORKS.index((build, dtype)))):
        expected = bounds.lower_bounds(network, region, rows, method)
        with torch.device("meta"), Elsewhere() as elsewhere:
            found = bounds.lower_bounds(network, region, rows, method)
        assert not elsewhere.found, (region, method)
        assert torch.equal(found, expected)
