"""The closed form of each DARTS block against the engine's CROWN, and the paper's own equations against points."""

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds.interval import Interval
from certnas.nas.space.ops import OPS, FactorizedReduce, ReLUConvBN
from tests import closed_forms as blocks
from tests.closed_forms import BatchNorm, BlockBounds, Convolution

SIDE = 5


def interval(channels: int, side: int = SIDE) -> Interval:
    center = torch.randn(2, channels, side, side).double()
    radius = torch.rand_like(center) * torch.tensor([0.05, 1.0])[:, None, None, None]
    return Interval(center - radius, center + radius)


def warmed(module: nn.Module, sign: str = "mixed") -> nn.Module:
    """Float64, evaluation mode, batch norms with statistics of their own and γ of the sign asked for."""
    module = module.double().eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.2, 2.0)
                if part.affine:
                    size = torch.rand_like(part.weight) + 0.3
                    signs = {"positive": 1.0, "negative": -1.0, "mixed": torch.randn_like(size).sign()}[sign]
                    part.weight.copy_(size * signs)
                    part.bias.normal_()
    return module


def norm_of(part: nn.BatchNorm2d) -> BatchNorm:
    return BatchNorm(part.running_mean, part.running_var, part.weight, part.bias, part.eps)


def stage(conv: nn.Conv2d, pointwise: nn.Conv2d | None, norm: nn.BatchNorm2d) -> Convolution:
    second = None if pointwise is None else pointwise.weight
    return Convolution(conv.weight, norm_of(norm), second, conv.stride[0], conv.padding[0], conv.dilation[0])


def closed(name: str, module: nn.Module, x: Interval, stride: int) -> BlockBounds:
    """The block of `blocks` that stands for a module of the search space."""
    parts = list(module.children())
    if name.startswith("sep_conv"):
        return blocks.sep_conv(x, stage(*parts[1:4]), stage(*parts[5:8]))
    if name.startswith("dil_conv"):
        return blocks.dil_conv(x, stage(*parts[1:4]))
    if name == "relu_conv_bn":
        return blocks.relu_conv_bn(x, stage(parts[1], None, parts[2]))
    if isinstance(module, FactorizedReduce):
        return blocks.factorised_reduce(x, module.conv_1.weight, module.conv_2.weight, norm_of(module.bn))
    return {
        "none": lambda: blocks.zero(x, stride),
        "skip_connect": lambda: blocks.skip(x),
        "max_pool_3x3": lambda: blocks.max_pool(x, stride=stride),
        "avg_pool_3x3": lambda: blocks.avg_pool(x, stride=stride),
    }[name]()


def engine(module: nn.Module, x: Interval) -> Interval:
    """CROWN of the module alone, on the box as an l∞ region with a radius for each pixel."""
    network = bounds.trace(module, x.center).bind(dtype=torch.float64)
    with torch.no_grad():
        return bounds.output_bounds(network, bounds.Linf(x.center, x.radius), bounds.Crown())


def assert_equal(found: Interval, expected: Interval) -> None:
    torch.testing.assert_close(found.lower, expected.lower, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.upper, expected.upper, rtol=1e-10, atol=1e-10)


NAMES = (
    "none", "skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip


@pytest.mark.parametrize("sign", ["positive", "negative", "mixed"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "name", NAMES[1:]
)  # the zero operator has no engine bounds: it does not read its input
def test_closed_form_equals_the_engine(name: str, stride: int, sign: str) -> None:
    module = warmed(OPS[name](4, stride, True), sign)
    x = interval(4)
    with torch.no_grad():
        assert_equal(closed(name, module, x, stride).concretise(x), engine(module, x))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("sign", ["positive", "negative", "mixed"])
def test_closed_form_of_relu_conv_bn_equals_the_engine(sign: str, kernel: int) -> None:
    module, x = warmed(ReLUConvBN(3, 5, kernel), sign), interval(3)
    with torch.no_grad():
        assert_equal(closed("relu_conv_bn", module, x, 1).concretise(x), engine(module, x))


@pytest.mark.parametrize("side", [4, 5])
def test_closed_form_of_factorised_reduce_equals_the_engine_on_even_and_odd_sides(side: int) -> None:
    module, x = warmed(FactorizedReduce(3, 4)), interval(3, side)
    with torch.no_grad():
        assert_equal(closed("", module, x, 2).concretise(x), engine(module, x))


def points_in(x: Interval, count: int = 400) -> Tensor:
    share = torch.rand(count, *x.lower.shape).double()
    share[: count // 2] = share[: count // 2].round()
    return x.lower + share * (x.upper - x.lower)


def planes_at(block: BlockBounds, points: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides' values at points [P, N, C, H, W] -> [P, N, O]."""
    (a, b), (c, d) = block.lower, block.upper
    flat = points.flatten(2).unsqueeze(3)
    return (a @ flat).squeeze(3) + b, (c @ flat).squeeze(3) + d


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_the_planes_themselves_hold_at_points(name: str, stride: int) -> None:
    module, x = warmed(OPS[name](2, stride, True)), interval(2)
    points = points_in(x)
    with torch.no_grad():
        block = closed(name, module, x, stride)
        values = module(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
        low, high = planes_at(block, points)
    assert (low <= values + 1e-10).all() and (values <= high + 1e-10).all()


class Mixed(nn.Module):
    """Σ αₒ·o(x): a mixed edge."""

    def __init__(self, names: tuple[str, ...], alpha: Tensor) -> None:
        super().__init__()
        self.ops = nn.ModuleList(OPS[name](2, 1, True) for name in names)
        self.register_buffer("alpha", alpha)

    def forward(self, x: Tensor) -> Tensor:
        terms = [share * op(x) for share, op in zip(self.alpha, self.ops, strict=True)]
        return sum(terms[1:], start=terms[0])


def test_a_mixed_edge_is_the_sum_of_its_scaled_blocks() -> None:
    alpha = torch.softmax(torch.randn(5), 0).double()
    names = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3", "avg_pool_3x3")
    module, x = warmed(Mixed(names, alpha)), interval(2)
    with torch.no_grad():
        parts = [
            closed(name, op, x, 1).scaled(share)
            for name, op, share in zip(names, module.ops, alpha, strict=True)
        ]
        assert_equal(sum(parts[1:], start=parts[0]).concretise(x), engine(module, x))


class Join(nn.Module):
    """The sum of two blocks on the two halves of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = OPS["dil_conv_3x3"](2, 1, True), OPS["max_pool_3x3"](2, 1, True)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x[:, :2]) + self.two(x[:, 2:])


def test_a_node_is_the_sum_of_its_edges_inputs_side_by_side() -> None:
    module, x = warmed(Join()), interval(4)
    one, two = (Interval(x.lower[:, s], x.upper[:, s]) for s in (slice(2), slice(2, 4)))
    with torch.no_grad():
        node = blocks.edges([closed("dil_conv_3x3", module.one, one, 1), blocks.max_pool(two)])
        assert_equal(node.concretise(x), engine(module, x))


def test_recursive_composition_is_sound_and_never_tighter_than_the_products_first() -> None:
    """The paper composes block after block; multiplying the matrices before splitting signs only gains."""
    module, x = warmed(OPS["sep_conv_3x3"](3, 1, True)), interval(3)
    points = points_in(x)
    parts = list(module.children())
    with torch.no_grad():
        first = blocks.dil_conv(x, stage(*parts[1:4]))
        recursive = blocks.dil_conv(first.concretise(x), stage(*parts[5:8])).after(first)
        values = module(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
        low, high = planes_at(recursive, points)
        assert (low <= values + 1e-10).all() and (values <= high + 1e-10).all()
        whole = closed("sep_conv_3x3", module, x, 1).concretise(x)
    composed = recursive.concretise(x)
    assert (whole.lower >= composed.lower - 1e-10).all() and (whole.upper <= composed.upper + 1e-10).all()
    assert (whole.lower > composed.lower + 1e-3).any(), "no gain: is the test's network trivial?"


def test_the_papers_equation_4_is_violated_where_gamma_is_negative() -> None:
    """A_bn·(A_conv,L·Φ + B_conv,L) + B_bn as printed, without splitting signs, is above points of the region."""
    module, x = warmed(ReLUConvBN(3, 4, 3), "negative"), interval(3)
    conv, norm = module[1], module[2]
    points = points_in(x)
    with torch.no_grad():
        one, zero = torch.ones(4).double(), torch.zeros(4).double()
        before = Convolution(conv.weight, BatchNorm(zero, one, eps=0.0))
        low, _ = planes_at(blocks.relu_conv_bn(x, before), points)
        shape = (-1, 4, SIDE - 2, SIDE - 2)
        printed = norm_of(norm)(low.reshape(shape)).reshape(low.shape)
        values = module(points.flatten(0, 1)).reshape(low.shape)
        ours, _ = planes_at(closed("relu_conv_bn", module, x, 1), points)
    assert (printed > values + 0.1).any()
    assert (ours <= values + 1e-10).all()


def test_the_papers_equations_9_and_10_without_their_relu_are_violated() -> None:
    """They bound BN(W·(W·Φ)), which is not what the block computes: the block is outside on both sides."""
    module, x = warmed(OPS["dil_conv_3x3"](3, 1, True)), interval(3)
    points = points_in(x)
    with torch.no_grad():
        values = module(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
        affine = nn.Sequential(*list(module.children())[1:])
        printed = affine(points.flatten(0, 1)).reshape(values.shape)  # its own bound
    assert (values < printed - 0.1).any() and (values > printed + 0.1).any()


def test_a_negative_architecture_variable_is_refused() -> None:
    with pytest.raises(bounds.InvalidInput, match=r"architecture variable must be ≥ 0, got -0\.5"):
        blocks.skip(interval(1)).scaled(-0.5)


def test_the_bounds_are_differentiable_in_weights_and_architecture_variable() -> None:
    x = interval(2, 3)
    weight = torch.randn(2, 1, 3, 3).double().requires_grad_()
    gamma = torch.tensor([0.7, -1.2]).double().requires_grad_()
    alpha = torch.tensor(0.4).double().requires_grad_()
    pointwise, zero, one = torch.randn(2, 2, 1, 1).double(), torch.zeros(2).double(), torch.ones(2).double()

    def lower(weight: Tensor, gamma: Tensor, alpha: Tensor) -> Tensor:
        stage = Convolution(weight, BatchNorm(zero, one, gamma, zero), pointwise, padding=1)
        return blocks.dil_conv(x, stage).scaled(alpha).concretise(x).lower

    assert torch.autograd.gradcheck(lower, (weight, gamma, alpha))
