"""float32 and float64 agree; CUDA agrees with the CPU."""

import pytest
import torch
from torch import Tensor, nn

import bounds

METHODS: dict[str, bounds.Method] = {
    **bounds.METHODS,
    "alpha-crown": bounds.AlphaCrown(iterations=2),  # each step of an ascent magnifies rounding
    "crown parallel": bounds.Crown(bounds.Slope.PARALLEL),
    "zonotope of 2": bounds.Zonotope(2),
}


class Net(nn.Module):
    """Most kinds of operator, with constants of their own: softmax of a parameter, a literal, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
        self.head = nn.Linear(4 * 9, 4)
        self.alpha = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.register_buffer("shift", torch.linspace(-1, 1, 2).reshape(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.conv((x - self.shift) * 0.7))
        share = torch.softmax(self.alpha, 0)
        z = share[0] * torch.relu(z) + share[1] * torch.sigmoid(self.deep(z))
        z = nn.functional.avg_pool2d(nn.functional.max_pool2d(z, 3, 1, 1), 3, 2, 1, count_include_pad=False)
        return self.head(z.flatten(1))


def setting() -> tuple[bounds.Network, Tensor, Tensor]:
    """In float64, of numbers that float32 holds exactly."""
    torch.manual_seed(1)
    model = Net().eval()
    with torch.no_grad():
        model.norm.running_var.uniform_(0.5, 2)
        model.norm.weight.normal_()
    x = torch.rand(2, 2, 5, 5)
    return bounds.trace(model, x).bind(dtype=torch.float64), x, bounds.margins(torch.tensor([0, 3]), 4)


def bound(network: bounds.Network, x: Tensor, rows: Tensor, method: bounds.Method, norm: str) -> Tensor:
    return bounds.lower_bounds(network, bounds.NORMS[norm](x, 0.05, 0.0, 1.0), rows, method).detach()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_single_and_double_precision_agree(method: bounds.Method, norm: str) -> None:
    network, x, rows = setting()
    double = bound(network, x, rows, method, norm)
    single = bound(network.to(torch.float32), x, rows, method, norm)
    assert single.dtype is torch.float32 and double.dtype is torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_to_gives_the_same_function_in_another_dtype_and_leaves_the_first_alone() -> None:
    network, x, _ = setting()
    single = network.to(torch.float32)
    assert network.dtype is torch.float64 and single.dtype is torch.float32
    assert network(x).dtype is torch.float64 and single(x).dtype is torch.float32
    torch.testing.assert_close(single(x).double(), network(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.to(torch.float64)(x), network(x), rtol=1e-6, atol=1e-6)


def test_bind_in_double_precision_equals_the_model_in_double_precision() -> None:
    torch.manual_seed(1)
    model = Net().eval()
    x = torch.rand(3, 2, 5, 5)
    network = bounds.trace(model, x).bind(dtype=torch.float64)
    expected = model.double()(x.double())
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_cuda_equals_the_cpu(method: bounds.Method) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    network, x, rows = setting()
    there = network.to(torch.float64, "cuda")
    assert there(x.cuda()).is_cuda
    for norm in ("linf", "l2", "l1"):
        on_cpu = bound(network, x, rows, method, norm)
        on_gpu = bound(there, x.cuda(), rows.cuda(), method, norm)
        assert on_gpu.is_cuda
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-9, atol=1e-9)
