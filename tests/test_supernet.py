"""Supernets against the published sizes, their definition, and the bounds that a search takes of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

import bounds
from certnas.space import DARTS, Supernet

SMALL: dict[str, Any] = {"nodes": 2, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


@pytest.mark.parametrize(("partial", "weights", "architecture"), [(1, 1_930_618, 224), (4, 299_578, 252)])
def test_sizes_are_the_published_ones(partial: int, weights: int, architecture: int) -> None:
    network = Supernet(16, 8, 10, partial=partial)
    assert sum(parameter.numel() for parameter in network.weight_parameters()) == weights
    assert sum(parameter.numel() for parameter in network.architecture_parameters()) == architecture
    everything = {id(parameter) for parameter in network.parameters()}
    split = [*network.weight_parameters(), *network.architecture_parameters()]
    assert len(split) == len(everything) and {id(parameter) for parameter in split} == everything


def test_architecture_starts_nearly_uniform() -> None:
    values = torch.cat([p.flatten() for p in Supernet(4, 3, 10, partial=2).architecture_parameters()])
    assert 0.7e-3 < values.std() < 1.3e-3


def reference_edge(edge: Any, x: Tensor, weights: Tensor, partial: int) -> Tensor:
    """Σ_o w_o·op_o on the first C/k channels; the others pass; channel c of group g goes to place c·k + g."""
    mixed = x.shape[1] // partial
    out: Tensor = sum(w * op(x[:, :mixed]) for w, op in zip(weights, edge.ops, strict=True))  # type: ignore[assignment]
    if partial == 1:
        return out
    out = torch.cat([out, edge.bypass(x[:, mixed:])], dim=1)
    return torch.stack([out[:, g * mixed + c] for c in range(mixed) for g in range(partial)], dim=1)


def reference(network: Any, x: Tensor, partial: int) -> Tensor:
    """The definition of a supernet, edge by edge."""
    older = newer = network.stem(network.normalize(x))
    for cell in network.cells:
        kind = "reduce" if cell.reduction else "normal"
        alpha = getattr(network, f"alpha_{kind}").softmax(1)
        states, first = [cell.preprocess0(older), cell.preprocess1(newer)], 0
        for node in range(2, 2 + network.nodes):
            each = [
                reference_edge(cell.edges[first + s], states[s], alpha[first + s], partial)
                for s in range(node)
            ]
            weights = torch.ones(node)
            if partial > 1:
                weights = getattr(network, f"beta_{kind}")[first : first + node].softmax(0)
            states.append(sum(w * out for w, out in zip(weights, each, strict=True)))
            first += node
        older, newer = newer, torch.cat([states[s] for s in network.concat], 1)
    return network.classifier(newer.mean((2, 3)))


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("nodes", [1, 3])
def test_network_is_its_definition(nodes: int, partial: int) -> None:
    network = Supernet(4, 3, 7, nodes=nodes, partial=partial).eval()
    for parameter in network.architecture_parameters():
        torch.nn.init.normal_(parameter)
    x = torch.rand(2, 3, 12, 9)
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(logits, reference(network, x, partial))
    assert logits.std(0).min() > 0


def test_each_edge_holds_every_operator_once() -> None:
    edge: Any = Supernet(4, 1, 10, reductions=()).cells[0].edges[0]
    assert edge.operators == DARTS.normal[0]
    kinds = [type(op[0] if isinstance(op, torch.nn.Sequential) else op).__name__ for op in edge.ops]
    assert kinds == ["Zero", "MaxPool2d", "AvgPool2d", "Identity", "ReLU", "ReLU", "ReLU", "ReLU"]
    pooled = edge.ops[1][1]
    assert isinstance(pooled, torch.nn.BatchNorm2d) and not pooled.affine
    assert not [m for m in edge.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.affine]


def test_none_takes_mass_but_passes_nothing_on() -> None:
    network = Supernet(4, 3, 10, nodes=2).eval()
    for kind in ("normal", "reduce"):
        getattr(network, f"alpha_{kind}").data[:, 0] = 200.0  # the softmax is 1 on none
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(network(x), network.classifier.bias.expand(2, 10))
    loss = network.train()(x).square().sum()
    gradients = torch.autograd.grad(loss, network.architecture_parameters())
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_bounds_hold_and_lead_to_alpha(training: bool, partial: int) -> None:
    network = Supernet(4, 2, 5, partial=partial, reductions=(1,), **SMALL).double().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x, labels = torch.rand(3, 3, 8, 8).double(), torch.tensor([0, 1, 2])
    graph = bounds.trace(network, x.float())
    bounds.check(graph)
    architecture = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in network.named_parameters()
        if name.startswith(("alpha", "beta"))
    }
    bound = graph.bind(architecture, batch=x if training else None)
    rows = bounds.margins(labels, 5)
    eps = 0.004
    lower = bounds.lower_bounds(bound, bounds.Linf(x, eps=eps, lower=0.0, upper=1.0), rows, bounds.IBP())
    with torch.no_grad():
        for _ in range(50):
            noise = (2 * torch.rand_like(x) - 1).sign() * eps
            logits = bound((x + noise).clamp(0, 1))
            margins = logits.gather(1, labels[:, None]) - logits
            others = margins[torch.arange(5) != labels[:, None]].view(3, 4)
            assert (lower <= others + 1e-12).all()
    gradients = torch.autograd.grad(lower.sum(), list(architecture.values()))
    assert all(gradient.isfinite().all() and gradient.abs().max() > 0 for gradient in gradients)
    if not training:
        torch.testing.assert_close(bound(x), network(x))
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_all_mass_on_none_bounds_exactly_the_bias() -> None:
    network = Supernet(4, 2, 5, nodes=2, reductions=(1,)).eval()
    alpha = torch.zeros(5, 8)
    alpha[:, 0] = 200.0
    alpha.requires_grad_()
    x = torch.rand(2, 3, 8, 8)
    bound = bounds.trace(network, x).bind({"alpha_reduce": alpha, "alpha_normal": alpha})
    lower = bounds.lower_bounds(
        bound, bounds.Linf(x, eps=0.1), bounds.margins(torch.tensor([0, 1]), 5), bounds.IBP()
    )
    bias = network.classifier.bias
    torch.testing.assert_close(lower[0], bias[0] - bias[1:])
    assert torch.autograd.grad(lower.sum(), alpha)[0].isfinite().all()
