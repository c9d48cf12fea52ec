"""Bounds against auto_LiRPA: equal where it is right and exact, never looser; and where it is wrong."""

import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from oracles import descend_region, sample_region
from torch import Tensor, nn

import bounds
from certnas.crosscheck import LirpaBounds, OracleUnusable, auto_lirpa, auto_lirpa_bounds
from certnas.errors import UserError
from certnas.models import Normalize
from certnas.space.ops import OPS, FactorizedReduce, ReLUConvBN

METHODS = {"IBP": bounds.IBP(), "CROWN-IBP": bounds.CrownIBP(), "CROWN": bounds.Crown()}
REGIONS = {"linf": bounds.Linf, "l2": bounds.L2, "l1": bounds.L1}
EPS = {"linf": 0.01, "l2": 0.1}
CHANNELS, CLASSES = 4, 5


class Residual(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Concat(nn.Module):
    """Channels of all branches of x, one after another."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def on_stem(*middle: nn.Module, channels: int = CHANNELS) -> nn.Sequential:
    """DARTS's stem, the modules, one ReLU-conv-BN, ReLU and a linear layer; input [3, 8, 8].

    Its affine runs at both ends are one layer long, where exact affine forms are no tighter than intervals.
    """
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, bias=False),
        nn.BatchNorm2d(CHANNELS),
        *middle,
        ReLUConvBN(channels, CHANNELS),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


def op(name: str, stride: int = 1) -> nn.Module:
    return OPS[name](CHANNELS, stride, True)


def conv(a: int, b: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, **options)


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Sequential]
    equal: bool = True
    """Whether both bound every nonlinearity's input alike and relax it alike; else ours may be tighter."""
    norms: tuple[str, ...] = ("linf", "l2")


CASES = {
    "mlp": Case(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, CLASSES)
        )
    ),
    "cnn": Case(
        lambda: nn.Sequential(
            conv(3, 6, stride=2),
            nn.ReLU(),
            conv(6, 8, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 20),
            nn.ReLU(),
            nn.Linear(20, CLASSES),
        )
    ),
    "normalised": Case(
        lambda: nn.Sequential(Normalize([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]), *CASES["cnn"].build()),
        norms=("linf",),
    ),
    "batch norm": Case(lambda: on_stem(nn.ReLU(), conv(4, 4, padding=1), nn.BatchNorm2d(4))),
    "residual": Case(
        lambda: on_stem(
            nn.ReLU(),
            Residual(nn.Sequential(conv(4, 4, padding=1), nn.ReLU(), conv(4, 4, padding=1)), nn.Identity()),
        )
    ),
    "residual, projected": Case(
        lambda: on_stem(
            nn.ReLU(),
            Residual(
                nn.Sequential(conv(4, 6, padding=1, stride=2), nn.ReLU(), conv(6, 6, padding=1)),
                nn.Conv2d(4, 6, 1, stride=2),
            ),
            channels=6,
        )
    ),
    "relu_conv_bn": Case(lambda: on_stem(ReLUConvBN(4, 4, 3))),
    "sep_conv_3x3": Case(lambda: on_stem(op("sep_conv_3x3"))),
    "sep_conv_5x5, stride 2": Case(lambda: on_stem(op("sep_conv_5x5", 2))),
    "dil_conv_3x3": Case(lambda: on_stem(op("dil_conv_3x3"))),
    "dil_conv_5x5, stride 2": Case(lambda: on_stem(op("dil_conv_5x5", 2))),
    "dilated, dense": Case(lambda: on_stem(nn.ReLU(), conv(4, 4, padding=2, dilation=2))),
    "grouped": Case(lambda: on_stem(nn.ReLU(), conv(4, 8, padding=1, groups=2), channels=8)),
    "conv_7x1_1x7": Case(lambda: on_stem(op("conv_7x1_1x7"))),
    "avg pool": Case(lambda: on_stem(nn.ReLU(), nn.AvgPool2d(2))),
    "edges summed": Case(
        lambda: on_stem(Residual(op("sep_conv_3x3"), Residual(op("dil_conv_3x3"), nn.Identity())))
    ),
    "sigmoid": Case(lambda: on_stem(nn.Sigmoid(), conv(4, 4, padding=1), nn.Sigmoid()), equal=False),
    "tanh": Case(lambda: on_stem(nn.Tanh(), conv(4, 4, padding=1), nn.Tanh()), equal=False),
    "max pool": Case(lambda: on_stem(nn.ReLU(), nn.MaxPool2d(2)), equal=False),
    "factorized reduce": Case(lambda: on_stem(FactorizedReduce(4, 4)), equal=False),
    "concat": Case(
        lambda: on_stem(
            Concat(op("sep_conv_3x3"), op("dil_conv_3x3"), nn.Identity()), ReLUConvBN(12, 4, 3), channels=4
        ),
        equal=False,
    ),
}


def ready(build: Callable[[], nn.Sequential], seed: int = 0) -> nn.Sequential:
    """The network in float64 and eval mode, its batch norms warmed up and their weights of both signs."""
    torch.manual_seed(seed)
    network = build().double()
    network(torch.rand(8, 3, 8, 8).double())
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.randn_like(module.weight))
                module.bias.copy_(0.3 * torch.randn_like(module.bias))
        for _ in range(20):
            network(torch.rand(8, 3, 8, 8).double())
    return network.eval()


def images(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def margins(n: int) -> Tensor:
    return bounds.margins(torch.arange(n) % CLASSES, CLASSES).double()


def ours(
    model: nn.Module, x: Tensor, eps: float, norm: str, method: str, rows: Tensor
) -> tuple[Tensor, Tensor]:
    network = bounds.trace(model, x).bind().to(torch.float64)
    region = REGIONS[norm](x, eps)
    lower = bounds.lower_bounds(network, region, rows, METHODS[method])
    return lower.detach(), -bounds.lower_bounds(network, region, -rows, METHODS[method]).detach()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name, case in CASES.items() for norm in case.norms]
)
def test_bounds_equal_auto_lirpa_or_are_tighter(name: str, norm: str, method: str) -> None:
    model, x = ready(CASES[name].build), images()
    rows = torch.cat([torch.eye(CLASSES).double().expand(len(x), -1, -1), margins(len(x))], dim=1)
    lower, upper = ours(model, x, EPS[norm], norm, method, rows)
    alone = [  # one image at a time: auto_LiRPA 0.3's bounds of an image change with its company
        auto_lirpa_bounds(model, x[n : n + 1], EPS[norm], norm, method=method, rows=rows[n : n + 1])
        for n in range(len(x))
    ]
    theirs_lower = torch.cat([found.lower for found in alone])
    theirs_upper = torch.cat([found.upper for found in alone])
    width = theirs_upper - theirs_lower
    assert (width > 1e-4).all(), "a region this small compares nothing"
    assert (lower >= theirs_lower - 1e-6 * width).all(), ((theirs_lower - lower) / width).max()
    assert (upper <= theirs_upper + 1e-6 * width).all(), ((upper - theirs_upper) / width).max()
    if CASES[name].equal:
        assert (lower <= theirs_lower + 1e-5 * width).all(), ((lower - theirs_lower) / width).max()
        assert (upper >= theirs_upper - 1e-5 * width).all(), ((theirs_upper - upper) / width).max()


# -- where auto_LiRPA is wrong ------------------------------------------------------------------------------


def violation(model: nn.Module, x: Tensor, eps: float, norm: str, lower: Tensor, upper: Tensor) -> float:
    """How far points of the ball leave [lower, upper], in widths of it; ≤ 0 where none does."""
    points = [sample_region(x, eps, norm, count=500, generator=torch.Generator().manual_seed(0))]
    for row in torch.eye(CLASSES).double():
        points += [descend_region(model, row, x, eps, norm), descend_region(model, -row, x, eps, norm)]
    with torch.no_grad():
        outputs = model(torch.cat(points).flatten(0, 1)).reshape(-1, len(x), CLASSES)
    width = (upper - lower).clamp(min=1e-9)
    return torch.maximum((lower - outputs) / width, (outputs - upper) / width).max().item()


@dataclass(frozen=True)
class Wrong:
    build: Callable[[], nn.Sequential]
    norm: str = "linf"
    conv_mode: str = "matrix"
    methods: tuple[str, ...] = ("CROWN",)
    why: str = ""


WRONG = {
    "average pool without counting padding": Wrong(
        lambda: on_stem(nn.ReLU(), nn.AvgPool2d(2, 2, 1, count_include_pad=False)),
        methods=("IBP", "CROWN-IBP", "CROWN"),
        why="count_include_pad=False",
    ),
    "DARTS average pool": Wrong(
        lambda: on_stem(nn.ReLU(), op("avg_pool_3x3")),
        methods=("CROWN-IBP", "CROWN"),
        why="count_include_pad=False",
    ),
    "depthwise, patches": Wrong(
        lambda: on_stem(op("sep_conv_3x3")), conv_mode="patches", methods=("CROWN",), why="groups"
    ),
    "dilated, patches": Wrong(
        lambda: on_stem(nn.ReLU(), conv(4, 4, padding=2, dilation=2)), conv_mode="patches", why="dilation"
    ),
    "l2 with a normalisation layer": Wrong(
        CASES["normalised"].build,
        norm="l2",
        methods=("IBP", "CROWN-IBP", "CROWN"),
        why="reads the input",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_points_of_the_region_violate_auto_lirpa_and_not_us(name: str) -> None:
    case, x = WRONG[name], images()
    eps = EPS[case.norm]
    model = ready(case.build)
    rows = torch.eye(CLASSES).double().expand(len(x), -1, -1)
    for method in case.methods:
        with pytest.raises(OracleUnusable, match=case.why):
            auto_lirpa_bounds(model, x, eps, case.norm, method=method, conv_mode=case.conv_mode)
        theirs = auto_lirpa_bounds(
            model, x, eps, case.norm, method=method, conv_mode=case.conv_mode, allow_unsound=True
        )
        assert violation(model, x, eps, case.norm, theirs.lower, theirs.upper) > 1e-3, method
        lower, upper = ours(model, x, eps, case.norm, method, rows)
        assert violation(model, x, eps, case.norm, lower, upper) <= 1e-9, method


# -- the adapter itself -------------------------------------------------------------------------------------


def run(model: nn.Module, **options: object) -> LirpaBounds:
    return auto_lirpa_bounds(model, images(), 0.01, "linf", **{"method": "CROWN", **options})


def test_the_adapter_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    model = ready(CASES["batch norm"].build).float().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    filters, handlers, modules = list(warnings.filters), list(logging.getLogger().handlers), set(sys.modules)
    seeds = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = run(model)
    assert found.lower.dtype == torch.float64
    assert not found.lower.requires_grad
    assert capfd.readouterr() == ("", "")
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32
    assert torch.equal(seeds[0], torch.get_rng_state())
    assert (seeds[1], seeds[2]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert list(warnings.filters) == filters
    assert logging.getLogger().handlers == handlers
    assert torch.get_default_dtype() == torch.float32
    assert not hasattr(torch._C.Node, "__getitem__")
    assert "numpy.lib.arraysetops" not in set(sys.modules) - modules


def test_a_model_it_cannot_convert_is_refused_with_its_reason() -> None:
    class Erf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x).flatten(1)

    with pytest.raises(OracleUnusable, match="conversion failed"):
        run(Erf())


def test_a_clean_output_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_lirpa, "_known_wrong", lambda *_: None)
    with pytest.raises(OracleUnusable, match="clean output differs from the model's by"):
        run(ready(WRONG["average pool without counting padding"].build))


def test_a_missing_package_is_one_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise auto_lirpa.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(auto_lirpa.importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="uv sync --group test") as caught:
        run(ready(CASES["mlp"].build))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"method": "DeepPoly"}, {"norm": "l3"}])
def test_arguments_it_does_not_know_are_refused(options: dict[str, str]) -> None:
    arguments = {"norm": "linf", "method": "IBP", **options}
    with pytest.raises(UserError, match="is not one of"):
        auto_lirpa_bounds(ready(CASES["mlp"].build), images(), 0.1, **arguments)
