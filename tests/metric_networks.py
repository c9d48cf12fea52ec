"""Tiny supernets in float64 and the derivatives of metrics on them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from certnas.nas.metrics import Session, build_metric
from certnas.nas.metrics.traced import Traced
from certnas.nas.space.spaces import uniform
from certnas.nas.space.supernet import Supernet

CLASSES = 3
SPACE = uniform("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")
GRAPHS: dict[tuple[str, bool], Traced] = {}


def supernet(*, layers: int = 2, partial: int = 1, seed: int = 0) -> Supernet:
    """Two nodes, 4 channels, one reduction; α far from uniform, running statistics of a batch."""
    torch.manual_seed(seed)
    network = Supernet(
        4, layers, CLASSES, space=SPACE, nodes=2, in_channels=1, partial=partial, reductions={layers - 1}
    ).double()
    with torch.no_grad():
        for alpha in network.architecture_parameters():
            alpha.copy_(torch.randn_like(alpha) / 2)
        network.train()
        for _ in range(20):
            network(batch(16, seed + 1)[0])
    return network.eval()


def session(name: str, settings: dict[str, object]) -> Session:
    """A session of a metric; those that bound networks share graphs, which take seconds to read."""
    started = build_metric(name, settings).session()
    traced = getattr(started, "traced", None)
    if traced is not None:
        started.traced = GRAPHS.setdefault((traced.bn, traced.keep_none), traced)  # type: ignore[attr-defined]
    return started


def measure(name: str, settings: dict[str, object], network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """R on one batch, as by `build_metric(name, settings)(network, x, y)`."""
    return session(name, settings)(network, x, y)


def batch(images: int = 4, seed: int = 3, size: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(images, 1, size, size, generator=random).double() * 0.8 + 0.1
    return x, torch.randint(CLASSES, (images,), generator=random)


def predicted(network: nn.Module, x: Tensor, *, training: bool) -> Tensor:
    """The network's own labels, so that every image is classified right."""
    mode, state = network.training, {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        labels = network.train(training)(x).argmax(1)
    network.train(mode).load_state_dict(state)
    return labels


def alpha_slopes(
    network: Supernet, measured: Callable[[], Tensor], step: float, directions: int = 3
) -> list[tuple[float, float]]:
    """(derivative, central difference) of a measurement along random directions of all α."""
    parameters = network.architecture_parameters()
    gradients = torch.autograd.grad(measured(), parameters)
    found = []
    for seed in range(directions):
        random = torch.Generator().manual_seed(seed)
        way = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
        length = sum(float(w.square().sum()) for w in way) ** 0.5
        slope = sum(float((g * w).sum()) for g, w in zip(gradients, way, strict=True)) / length
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, w in zip(parameters, way, strict=True):
                    p.add_(sign * step * w / length)
            values.append(float(measured().detach()))
            with torch.no_grad():
                for p, w in zip(parameters, way, strict=True):
                    p.sub_(sign * step * w / length)
        found.append((slope, (values[0] - values[1]) / (2 * step)))
    return found
