"""Supernets against the published sizes, their definition, and the bounds that a search takes of them."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import bounds
from certnas.errors import UserError
from certnas.nas.space import DARTS, IMAGENET, SPACES, DiscreteNetwork, Genotype, SearchSpace, Supernet

SMALL: dict[str, Any] = {"nodes": 1, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


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
    if network.stem1 is not None:
        newer = network.stem1(older)
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


def test_imagenet_supernet_is_its_definition() -> None:
    network: Any = Supernet(4, 3, 7, nodes=1, partial=2, frame=IMAGENET).eval()
    x = torch.rand(2, 3, 64, 40)
    assert network.stem1(network.stem(x)).shape == (2, 4, 8, 5)
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(network, x, 2))


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


def test_derivation_by_hand() -> None:
    network = Supernet(4, 1, 10, nodes=2, reductions=())
    alpha = torch.zeros(5, 8)
    alpha[0, 0] = 9.0  # none outweighs all on edge (0,2): what is left there is weak
    alpha[1, 5] = 1.0  # sep_conv_5x5 on (1,2)
    alpha[2, 3], alpha[3, 7], alpha[4, 1] = 1.0, 3.0, 2.0  # skip (0,3), dil_conv_5x5 (1,3), max_pool (2,3)
    network.get_parameter("alpha_normal").data.copy_(alpha)
    network.get_parameter("alpha_reduce").data.zero_()
    assert network.genotype() == Genotype(
        (("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("dil_conv_5x5", 1), ("max_pool_3x3", 2)),
        (2, 3),
        (("max_pool_3x3", 0), ("max_pool_3x3", 1), ("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        (2, 3),
    )


@pytest.mark.parametrize("partial", [1, 2])
def test_derivation_is_the_published_one(partial: int) -> None:
    """The choice of two edges, and an operator on each, is the one with the largest product of weights."""
    for seed in range(20):
        torch.manual_seed(seed)
        network = Supernet(4, 1, 10, nodes=3, partial=partial, reductions=())
        for parameter in network.architecture_parameters():
            torch.nn.init.normal_(parameter, std=2.0)
        derived = network.genotype()
        for kind in ("normal", "reduce"):
            weights, first = network.get_parameter(f"alpha_{kind}").softmax(1), 0
            for node in range(2, 5):
                rows = weights[first : first + node].detach().clone()
                if partial > 1:
                    beta = network.get_parameter(f"beta_{kind}")[first : first + node]
                    rows *= beta.softmax(0).detach()[:, None]
                best = max(
                    itertools.permutations(range(node), 2),
                    key=lambda pair: (
                        float(rows[pair[0], 1:].max()) * float(rows[pair[1], 1:].max()),
                        float(rows[pair[0], 1:].max()),
                    ),
                )
                chosen = getattr(derived, kind)[2 * (node - 2) : 2 * (node - 1)]
                expected = [(DARTS.normal[0][1 + int(rows[s, 1:].argmax())], s) for s in best]
                assert list(chosen) == expected
                first += node


def test_derivation_sees_through_mass_on_none() -> None:
    network = Supernet(4, 1, 10, nodes=1, reductions=())
    for kind in ("normal", "reduce"):
        alpha = torch.zeros(2, 8)
        alpha[:, 0], alpha[0, 6], alpha[1, 4] = 300.0, 2.0, 1.0
        network.get_parameter(f"alpha_{kind}").data.copy_(alpha)
    assert network.genotype().normal == (("dil_conv_3x3", 0), ("sep_conv_3x3", 1))


def test_edges_of_s1_have_their_own_operators() -> None:
    network: Any = Supernet(4, 3, 10, space=SPACES["s1"], reductions=(1,))
    assert network.alpha_normal.shape == (14, 2)
    assert network.cells[0].edges[5].operators == ("max_pool_3x3", "skip_connect")
    assert network.cells[1].edges[1].operators == ("max_pool_3x3", "dil_conv_3x3")
    network.alpha_normal.data[:, 1] = 5.0
    second = [row[1] for row in SPACES["s1"].normal]
    assert set(network.genotype().normal) <= {
        (second[first + s], s) for first, n in ((0, 2), (2, 3), (5, 4), (9, 5)) for s in range(n)
    }
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["s2", "s3", "s4", "s5"])
def test_every_space_makes_a_supernet(name: str) -> None:
    network = Supernet(4, 2, 10, space=SPACES[name], nodes=3, concat=(4, 3), reductions=(1,)).eval()
    network.get_parameter("alpha_normal").data.normal_()
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    derived = network.genotype()
    assert derived.normal_concat == (4, 3)
    assert {op for op, _ in derived.normal} <= set(SPACES[name].normal[0]) - {"none"}
    DiscreteNetwork(derived, 4, 2, 10, reductions=(1,))


SUPERNET_MISTAKES = [
    ({"channels": 0}, "channels: got 0; give 1 or more"),
    ({"nodes": 0}, "nodes: got 0; give 1 or more"),
    ({"partial": 3}, "partial: got 3 for 4 channels; give a divisor of the channels"),
    ({"partial": 0}, "partial: got 0; give 1 or more"),
    ({"concat": ()}, "concat: got []; list at least one state from 2 to 5"),
    ({"concat": (1, 2)}, "concat: got [1, 2]; list at least one state from 2 to 5"),
    ({"reductions": (3,)}, "reductions: got [3]; 3 layers have cells 0 to 2"),
    ({"mean": (0.5,)}, "normalisation: got mean (0.5,) and std None for 3 channels"),
    (
        {"space": SPACES["s1"], "nodes": 3},
        "search space: it has 14 edges in normal cells, 3 nodes have 9; choose the number of nodes that the space is "
        "defined for",
    ),
]


@pytest.mark.parametrize(("change", "message"), SUPERNET_MISTAKES)
def test_what_makes_no_supernet_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"channels": 4, "layers": 3, "classes": 10, "reductions": ()} | change
    with pytest.raises(UserError) as caught:
        Supernet(**arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


SPACE_MISTAKES = [
    (((), (("skip_connect",),)), "search space, normal: give every edge the same number of operators"),
    (
        ((("skip_connect",), ("none", "skip_connect")), (("skip_connect",),)),
        "search space, normal: give every edge the same number of operators",
    ),
    (
        ((("skip_connect",),), (("conv_9x9",),)),
        "search space, reduce, edge 0: unknown operator 'conv_9x9'; accepted: none, ",
    ),
    (
        ((("none",),), (("skip_connect",),)),
        "search space, normal, edge 0: got ['none']; give different operators, at least one of them not 'none'",
    ),
    (
        ((("skip_connect", "skip_connect"),), (("skip_connect",),)),
        "search space, normal, edge 0: got ['skip_connect', 'skip_connect']; give different operators",
    ),
]


@pytest.mark.parametrize(("rows", "message"), SPACE_MISTAKES)
def test_what_makes_no_space_is_refused_in_one_line(rows: tuple[Any, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SearchSpace(*rows)
    assert str(caught.value).startswith(message)
