"""RobNets: several operators on an edge, cells of one code or a code each."""

from typing import Any

import pytest
import torch
from torch import nn

import bounds
from certnas.errors import UserError
from certnas.nas.space import ROBNETS, DiscreteNetwork, RobNet, parse_architecture


def separable(channels: int) -> int:
    """The weights of two depthwise 3×3 and two pointwise convolutions."""
    return 2 * (9 * channels + channels**2)


def counted(robnet: RobNet, channels: int, layers: int, classes: int) -> int:
    """Parameters by the definition: no batch norm has any but the stem's."""
    total = 3 * 3 * 9 * channels + 2 * 3 * channels
    older = newer = 3 * channels
    for index in range(layers):
        reduction = index in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduction else 1
        total += older * channels + newer * channels
        codes = iter(robnet.cells[index % len(robnet.cells)])
        for node in range(2, 6):
            for state in range(node):
                code = next(codes)
                total += separable(channels) if code[1] == "1" else 0
                total += channels**2 if code[0] == "1" and reduction and state < 2 else 0
        older, newer = newer, 4 * channels
    return total + newer * classes + classes


@pytest.mark.parametrize(
    ("name", "channels", "layers", "millions"),
    [("RobNet_large", 36, 20, 6.84), ("RobNet_large", 64, 33, 33.33), ("RobNet_free", 36, 20, 5.44)],
)
def test_parameter_count(name: str, channels: int, layers: int, millions: float) -> None:
    with torch.device("meta"):
        network = DiscreteNetwork(ROBNETS[name], channels, layers, 10)
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == counted(ROBNETS[name], channels, layers, 10)
    assert round(total / 1e6, 2) == millions


def test_an_edge_is_the_sum_of_its_operators() -> None:
    robnet = RobNet((("11", "10", "00", "00", "00"),))
    assert robnet.cell(7, reduction=True).nodes == (
        (("sep_conv_3x3", 0), ("skip_connect", 0), ("skip_connect", 1)),
        (("none", 0),),
    )
    network: Any = DiscreteNetwork(robnet, 4, 1, 5, reductions=()).eval()
    x = torch.rand(2, 3, 6, 6)
    cell, stem = network.cells[0], network.stem(x)
    older, newer = cell.preprocess0(stem), cell.preprocess1(stem)
    node = cell.ops[0](older) + older + newer
    expected = torch.cat([node, torch.zeros_like(node)], 1)
    torch.testing.assert_close(network(x), network.classifier(expected.mean((2, 3))))


def test_cells_have_no_affine_batch_norm_and_their_own_codes() -> None:
    robnet = ROBNETS["RobNet_free"]
    network: Any = DiscreteNetwork(robnet, 4, 20, 10)
    norms = [m for m in network.cells.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.affine for norm in norms)
    assert network.stem[1].affine
    assert len({cell.plan for cell in network.cells}) == 20
    assert network.cells[1].plan.nodes[0] == (("sep_conv_3x3", 0), ("skip_connect", 0))
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_a_robnet_can_be_bounded() -> None:
    network = DiscreteNetwork(ROBNETS["RobNet_large"], 4, 3, 5).eval()
    x = torch.rand(2, 3, 8, 8)
    bound = bounds.trace(network, x).bind()
    rows = bounds.margins(torch.tensor([0, 1]), 5)
    lower = bounds.lower_bounds(bound, bounds.Linf(x, eps=0.0), rows, bounds.IBP())
    logits = network(x)
    torch.testing.assert_close(lower[0], logits[0, 0] - logits[0, 1:], atol=1e-4, rtol=1e-4)


MISTAKES = [
    ({"cells": []}, "genotype 'mine': cells: is empty; give the edge codes of one cell, or of each cell"),
    ({"cells": "11"}, "genotype 'mine': cells: give a list of lists of edge codes"),
    ({"cells": ["11"]}, "genotype 'mine': cells: give a list of lists of edge codes"),
    (
        {"cells": [["11", "12"]]},
        "genotype 'mine': cells, 0, edge 1: unknown code '12'; accepted: 00, 01, 10, 11",
    ),
    (
        {"cells": [["11", "01"], ["11", "01", "10"]]},
        "genotype 'mine': cells, 1: got 3 edge codes; a cell has 2, 5, 9, 14, ... of them, one for each edge into "
        "1, 2, 3, 4, ... nodes",
    ),
]


@pytest.mark.parametrize(("record", "message"), MISTAKES)
def test_wrong_codes_are_refused_in_one_line(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_architecture(record, "mine")
    assert str(caught.value) == message


def test_codes_of_each_cell_make_a_network_of_that_depth_alone() -> None:
    with pytest.raises(UserError, match=r"^layers: got 8; this architecture is of 20 cells$"):
        DiscreteNetwork(ROBNETS["RobNet_free"], 4, 8, 10)
