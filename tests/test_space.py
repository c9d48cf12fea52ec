"""Operators against their definitions, and networks of cells against published figures."""

import json
from importlib.resources import files
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from certnas.errors import UserError
from certnas.nas.space import GENOTYPES, IMAGENET, OPS, DiscreteNetwork, Genotype, parameter_count
from certnas.nas.space.frame import imagenet_auxiliary, small_auxiliary
from certnas.nas.space.network import Cell
from certnas.nas.space.ops import FactorizedReduce, ReLUConvBN

RECORDS = json.loads((files("certnas.nas.space") / "genotypes.json").read_text(encoding="utf-8"))
PARAMETERS = "params_C36_L20_10cls_no_aux"
CIFAR: dict[str, Any] = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
GREY: dict[str, Any] = {"mean": (0.5,), "std": (0.25,)}


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if record.get(PARAMETERS)])
def test_parameter_count_is_the_published_one(name: str) -> None:
    assert parameter_count(GENOTYPES[name], 36, 20, 10) == RECORDS[name][PARAMETERS]


def test_parameter_count_is_that_of_the_network_and_draws_nothing() -> None:
    state = torch.random.get_rng_state()
    counted = parameter_count(GENOTYPES["NASNet"], 4, 3, 10, in_channels=1, reductions=(1,))
    assert torch.equal(torch.random.get_rng_state(), state)
    network = DiscreteNetwork(GENOTYPES["NASNet"], 4, 3, 10, in_channels=1, reductions=(1,), **GREY)
    assert counted == sum(parameter.numel() for parameter in network.parameters())


def test_normalisation_is_inside_and_not_trained() -> None:
    network = DiscreteNetwork(GENOTYPES["DARTS_V2"], 4, 3, 10, **CIFAR).eval()
    plain = DiscreteNetwork(GENOTYPES["DARTS_V2"], 4, 3, 10).eval()
    state = network.state_dict()
    assert {"normalize.mean", "normalize.std"} <= set(state)
    plain.load_state_dict({key: value for key, value in state.items() if not key.startswith("normalize")})
    x = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(CIFAR[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(network(x), plain((x - mean) / std))


@pytest.mark.parametrize("name", GENOTYPES)
def test_network_of_every_genotype(name: str) -> None:
    network = DiscreteNetwork(GENOTYPES[name], 4, 3, 7, **CIFAR).eval()
    x = torch.rand(3, 3, 13, 10)
    with torch.no_grad():
        logits = network(x)
        torch.testing.assert_close(network(x[1:2]), logits[1:2])
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    assert logits.std(dim=0).min() > 0


def reference_cell(
    cell: Any, edges: list[tuple[str, int]], concat: list[int], older: Tensor, newer: Tensor
) -> Tensor:
    """The definition of a cell, edge by edge."""
    states = {0: cell.preprocess0(older), 1: cell.preprocess1(newer)}
    for position, (_, state) in enumerate(edges):
        node = 2 + position // 2
        out = cell.ops[position](states[state])
        states[node] = out if position % 2 == 0 else states[node] + out
    return torch.cat([states[state] for state in concat], dim=1)


@pytest.mark.parametrize("name", ["DARTS_V1", "NASNet", "AmoebaNet"])
def test_network_is_the_composition_of_its_cells(name: str) -> None:
    record = RECORDS[name]
    network: Any = DiscreteNetwork(GENOTYPES[name], 4, 3, 10).eval()
    x = torch.rand(2, 3, 16, 16)
    older = newer = network.stem(x)
    for index, cell in enumerate(network.cells):
        kind = "reduce" if index in (1, 2) else "normal"
        older, newer = newer, reference_cell(cell, record[kind], record[f"{kind}_concat"], older, newer)
        assert newer.shape == (
            2,
            4 * 2**index * len(record[f"{kind}_concat"]),
            16 // 2**index,
            16 // 2**index,
        )
    torch.testing.assert_close(network(x), network.classifier(newer.mean(dim=(2, 3))))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (7, 10), (1, 1), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op", OPS)
def test_every_operator_rounds_its_size_up(op: str, stride: int, height: int, width: int) -> None:
    out = OPS[op](4, stride, True).eval()(torch.rand(2, 4, height, width))
    assert out.shape == (2, 4, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("size", [(8, 6), (7, 7), (6, 9), (1, 1)])
def test_factorized_reduce(size: tuple[int, int]) -> None:
    op = FactorizedReduce(3, 6).eval()
    x = torch.randn(2, 3, *size)
    height, width = size
    even = torch.zeros(2, 3, height + height % 2, width + width % 2)
    even[:, :, :height, :width] = x.clamp(min=0)
    first = torch.einsum("oi,nihw->nohw", op.conv_1.weight[:, :, 0, 0], even[:, :, ::2, ::2])
    second = torch.einsum("oi,nihw->nohw", op.conv_2.weight[:, :, 0, 0], even[:, :, 1::2, 1::2])
    torch.testing.assert_close(op(x), torch.cat([first, second], 1) / (1 + op.bn.eps) ** 0.5)


def test_factorized_reduce_of_an_even_size_has_no_padding() -> None:
    exported = torch.export.export(FactorizedReduce(3, 6).eval(), (torch.rand(2, 3, 8, 8),))
    assert not [node for node in exported.graph.nodes if "pad" in str(node.target)]


def test_average_pool_leaves_padding_out() -> None:
    out = OPS["avg_pool_3x3"](1, 1, True)(torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(out, torch.ones(1, 1, 4, 4))


CONVOLUTIONS = [
    ("sep_conv_3x3", [((3, 3), (1, 1), 1), ((3, 3), (1, 1), 1)], True),
    ("sep_conv_5x5", [((5, 5), (2, 2), 1), ((5, 5), (2, 2), 1)], True),
    ("sep_conv_7x7", [((7, 7), (3, 3), 1), ((7, 7), (3, 3), 1)], True),
    ("dil_conv_3x3", [((3, 3), (2, 2), 2)], True),
    ("dil_conv_5x5", [((5, 5), (4, 4), 2)], True),
    ("conv_7x1_1x7", [((1, 7), (0, 3), 1), ((7, 1), (3, 0), 1)], False),
]


@pytest.mark.parametrize(("op", "kernels", "depthwise"), CONVOLUTIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_their_definition(op: str, kernels: list[Any], depthwise: bool, stride: int) -> None:
    module = OPS[op](4, stride, False).eval()
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    x = out = torch.randn(2, 4, 9, 9)
    weights = iter([layer.weight for layer in convolutions])
    scale = (1 + 1e-5) ** 0.5
    if depthwise:
        for position, (_, padding, dilation) in enumerate(kernels):
            first = stride if position == 0 else 1
            out = functional.conv2d(out.relu(), next(weights), None, first, padding, dilation, groups=4)
            out = functional.conv2d(out, next(weights)) / scale
    else:
        for (kernel, padding, _), step in zip(kernels, [(1, stride), (stride, 1)], strict=True):
            weight = next(weights)
            assert weight.shape[2:] == kernel
            out = functional.conv2d(out.relu() if out is x else out, weight, None, step, padding)
        out = out / scale
    torch.testing.assert_close(module(x), out)
    assert [layer.weight.shape[2:] for layer in convolutions if layer.weight.shape[2:] != (1, 1)] == [
        kernel for kernel, _, _ in kernels
    ]
    assert not list(module.parameters())[len(convolutions) :], "affine=False leaves convolutions alone"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("stride", [1, 2])
def test_zero_is_zero_whatever_it_reads(bad: float, stride: int) -> None:
    x = torch.full((2, 3, 5, 5), bad, requires_grad=True)
    out = OPS["none"](3, stride, True)(x)
    assert torch.equal(out, torch.zeros(2, 3, -(-5 // stride), -(-5 // stride)))


def test_noise_is_its_mean_in_evaluation() -> None:
    noise, x = OPS["noise"](3, 1, True), torch.rand(8, 3, 16, 16)
    assert torch.equal(noise.eval()(x), torch.zeros_like(x))
    drawn = noise.train()(x)
    assert abs(drawn.mean()) < 0.1
    assert abs(drawn.std() - 1) < 0.1


@pytest.mark.parametrize("name", ["DARTS_V1", "PDARTS"])
def test_export_is_the_network(name: str) -> None:
    network = DiscreteNetwork(GENOTYPES[name], 4, 3, 10, auxiliary=True, **CIFAR).eval()
    x = torch.rand(2, 3, 9, 9)
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), network(x))
    assert not [node for node in exported.graph.nodes if "_." in str(node.target)], "an in-place operator"


def test_drop_path_drops_edges_of_single_images_and_only_in_training() -> None:
    genotype = Genotype((("avg_pool_3x3", 0), ("skip_connect", 1)), (2,), (("max_pool_3x3", 0),) * 2, (2,))
    cell: Any = Cell(genotype.cell(0, reduction=False), (4, 4), 4, reduction=False, after_reduction=False)
    cell.preprocess0, cell.preprocess1 = nn.Identity(), nn.Identity()
    older, newer = torch.ones(400, 4, 8, 8), torch.full((400, 4, 8, 8), 10.0)
    out = cell.train()(older, newer, 0.25)
    kept = (out > 10).all(dim=(1, 2, 3))
    assert torch.equal(out[~kept], newer[~kept])
    torch.testing.assert_close(out[kept], newer[kept] + 1 / 0.75)
    assert 270 <= kept.sum() <= 330
    assert torch.equal(cell.eval()(older, newer, 0.25), older + newer)


@pytest.mark.parametrize("drop_path", [-0.1, 1.0, float("nan")])
def test_a_wrong_drop_path_is_refused(drop_path: float) -> None:
    with pytest.raises(UserError, match=r"^drop_path: got .*; give a probability from 0 to below 1$"):
        DiscreteNetwork(GENOTYPES["DARTS_V2"], 4, 3, 10)(torch.rand(2, 3, 8, 8), drop_path)


def test_auxiliary_head_is_for_training_alone() -> None:
    network = DiscreteNetwork(GENOTYPES["DARTS_V2"], 4, 3, 10, auxiliary=True)
    x = torch.rand(2, 3, 32, 32)
    logits, auxiliary = network.train().with_auxiliary(x)
    assert logits.shape == auxiliary.shape == (2, 10)
    assert isinstance(network(x), Tensor)
    with pytest.raises(UserError, match="auxiliary head: exists in training mode"):
        network.eval().with_auxiliary(x)
    with pytest.raises(UserError, match="built with auxiliary=True"):
        DiscreteNetwork(GENOTYPES["DARTS_V2"], 4, 3, 10).with_auxiliary(x)
    with pytest.raises(UserError, match="its input is 4×4, but it needs 8×8 or more"):
        network.train().with_auxiliary(torch.rand(2, 3, 16, 16))


def test_auxiliary_heads_have_the_published_sizes() -> None:
    body = 576 * 128 + 2 * 128 + 128 * 768 * 4
    small, imagenet = small_auxiliary(576, 10), imagenet_auxiliary(576, 1000)
    assert sum(p.numel() for p in small.parameters()) == body + 2 * 768 + 768 * 10 + 10
    assert sum(p.numel() for p in imagenet.parameters()) == body + 768 * 1000 + 1000


def test_imagenet_network_is_the_composition_of_its_cells() -> None:
    record = RECORDS["PDARTS"]
    network: Any = DiscreteNetwork(GENOTYPES["PDARTS"], 4, 4, 10, frame=IMAGENET, **CIFAR).eval()
    x = torch.rand(2, 3, 64, 48)
    older = network.stem(network.normalize(x))
    newer = network.stem1(older)
    assert older.shape == (2, 4, 16, 12)
    assert newer.shape == (2, 4, 8, 6), "the first cell starts at one eighth"
    sides, channels = [(8, 6), (4, 3), (2, 2), (2, 2)], [16, 32, 64, 64]
    for index, cell in enumerate(network.cells):
        kind = "reduce" if index in (1, 2) else "normal"
        assert isinstance(cell.preprocess0, FactorizedReduce) == (index in (0, 2, 3))
        older, newer = newer, reference_cell(cell, record[kind], record[f"{kind}_concat"], older, newer)
        assert newer.shape == (2, channels[index], *sides[index])
    torch.testing.assert_close(network(x), network.classifier(newer.mean(dim=(2, 3))))


def test_imagenet_stems_are_the_published_ones() -> None:
    network = DiscreteNetwork(GENOTYPES["PDARTS"], 48, 1, 10, reductions=(), frame=IMAGENET)
    kinds = [type(layer).__name__ for stem in (network.stem, network.stem1) for layer in stem]  # type: ignore[arg-type, union-attr]
    assert kinds == [
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Conv2d",
        "BatchNorm2d",
    ]
    layers = [m for s in (network.stem, network.stem1) for m in s if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
    assert [(m.in_channels, m.out_channels) for m in layers] == [(3, 24), (24, 48), (48, 48)]
    assert all(m.kernel_size == (3, 3) and m.stride == (2, 2) and m.padding == (1, 1) for m in layers)


# millions, as the papers' ImageNet tables give them, for 48 channels and 14 cells
IMAGENET_SIZES = [("DARTS_V2", 4.7), ("PC_DARTS_image", 5.3), ("PDARTS", 4.9)]


@pytest.mark.parametrize(("name", "millions"), IMAGENET_SIZES)
def test_imagenet_parameter_counts(name: str, millions: float) -> None:
    assert round(parameter_count(GENOTYPES[name], 48, 14, 1000, frame=IMAGENET) / 1e6, 1) == millions


def test_auxiliary_head_of_an_imagenet_network() -> None:
    network = DiscreteNetwork(GENOTYPES["DARTS_V2"], 4, 3, 7, auxiliary=True, frame=IMAGENET).train()
    logits, auxiliary = network.with_auxiliary(torch.rand(2, 3, 224, 224))
    assert logits.shape == auxiliary.shape == (2, 7)
    with pytest.raises(UserError, match="its input is 3×3, but it needs 7×7 or more"):
        network.with_auxiliary(torch.rand(2, 3, 96, 96))


NETWORK_MISTAKES = [
    ({"channels": 0}, "channels: got 0; give 1 or more"),
    ({"layers": 0}, "layers: got 0; give 1 or more"),
    ({"classes": -1}, "classes: got -1; give 1 or more"),
    ({"reductions": (3,)}, "reductions: got [3]; 3 layers have cells 0 to 2"),
    ({"mean": (0.5,), "std": (0.5,)}, "normalisation: got mean (0.5,) and std (0.5,) for 3 channels"),
    ({"mean": (0.5,) * 3}, "normalisation: got mean (0.5, 0.5, 0.5) and std None for 3 channels"),
    (
        {"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)},
        "normalisation: Normalize needs finite means and positive stds",
    ),
]


@pytest.mark.parametrize(("change", "message"), NETWORK_MISTAKES)
def test_wrong_sizes_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"channels": 4, "layers": 3, "classes": 10} | change
    with pytest.raises(UserError) as caught:
        DiscreteNetwork(GENOTYPES["DARTS_V2"], **arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_odd_channels_of_a_factorized_reduce_are_refused() -> None:
    with pytest.raises(UserError, match="FactorizedReduce: got 5 output channels"):
        OPS["skip_connect"](5, 2, True)


def test_relu_conv_bn() -> None:
    op: Any = ReLUConvBN(3, 5).eval()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(op(x), functional.conv2d(x.clamp(min=0), op[1].weight) / (1 + 1e-5) ** 0.5)
