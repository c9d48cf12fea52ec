"""Networks that both auto_LiRPA and `bounds` can read, DARTS operations among them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certnas.models import Normalize
from certnas.nas.space.ops import OPS, FactorizedReduce, ReLUConvBN

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
    single: bool = True
    """Whether no single bound may be looser than auto_LiRPA's; else only the mean width, see the test."""
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
    "max pool": Case(lambda: on_stem(nn.ReLU(), nn.MaxPool2d(2)), equal=False, single=False),
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
