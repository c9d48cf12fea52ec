"""Networks of DARTS cells with a fixed genotype."""

from collections.abc import Collection, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.nas.space.frame import SMALL, Frame, check_sizes, normalisation, reduction_cells
from certnas.nas.space.genotypes import CellPlan, Genotype
from certnas.nas.space.ops import OPS, FactorizedReduce, ReLUConvBN
from certnas.nas.space.robnets import RobNet


class Cell(nn.Module):
    """One cell: each node is the sum of its edges, and the output is the concatenation of the listed states.

    ([N,C₀,H₀,W₀], [N,C₁,H,W]) -> [N,M·C,H',W'] for M listed states; H' = ⌈H/2⌉ in a reduction cell, else H.
    After a reduction cell the older input has twice the size, and a strided operator reduces it first. Liu
    et al. 2019, section 2.1.
    """

    def __init__(
        self,
        plan: CellPlan,
        channels_in: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        after_reduction: bool,
        affine: bool = True,
    ) -> None:
        super().__init__()
        older, newer = channels_in
        self.plan = plan
        self.preprocess0: nn.Module = (
            FactorizedReduce(older, channels, affine=affine)
            if after_reduction
            else ReLUConvBN(older, channels, affine=affine)
        )
        self.preprocess1 = ReLUConvBN(newer, channels, affine=affine)
        self.ops = nn.ModuleList(
            OPS[op](channels, 2 if reduction and state < 2 else 1, affine)
            for edges in plan.nodes
            for op, state in edges
        )

    def forward(self, older: Tensor, newer: Tensor, drop_path: float = 0.0) -> Tensor:
        states = [self.preprocess0(older), self.preprocess1(newer)]
        position = 0
        for edges in self.plan.nodes:
            terms = []
            for _, state in edges:
                terms.append(self._edge(position, states[state], drop_path))
                position += 1
            states.append(reduce(torch.add, terms))
        return torch.cat([states[state] for state in self.plan.concat], dim=1)

    def _edge(self, position: int, x: Tensor, drop_path: float) -> Tensor:
        op = self.ops[position]
        out = op(x)
        if not self.training or drop_path == 0 or isinstance(op, nn.Identity):
            return out
        keep = torch.empty_like(out[:, :1, :1, :1]).bernoulli_(1 - drop_path)
        return out * keep / (1 - drop_path)


class DiscreteNetwork(nn.Module):
    """A network of cells with a fixed genotype. [N,C,H,W] in [0, 1] pixels -> logits [N,K]

    The layers are: normalisation (if `mean` and `std` are given, so that ε is in [0, 1] pixels), the
    frame's stem, `layers` cells, and a linear classifier of the averaged map. The cells in `reductions` (by
    default those at one and two thirds) halve the map and double the channels. Images may have any size;
    odd sides are rounded up. Raises UserError for numbers that give no network. Liu et al. 2019, section
    3.2.
    """

    def __init__(
        self,
        genotype: Genotype | RobNet,
        channels: int,
        layers: int,
        classes: int,
        *,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        reductions: Collection[int] | None = None,
        auxiliary: bool = False,
        frame: Frame = SMALL,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, layers=layers, classes=classes, in_channels=in_channels)
        if genotype.depth not in (None, layers):
            raise UserError(f"layers: got {layers}; this architecture is of {genotype.depth} cells")
        reducing = reduction_cells(layers, reductions)
        self.normalize = normalisation(in_channels, mean, std)
        stem = frame.stem(in_channels, channels)
        self.stem, self.stem1 = stem.first, stem.second
        older = newer = stem.channels_out
        self.cells = nn.ModuleList()
        self.auxiliary_after = 2 * layers // 3
        auxiliary_channels = 0
        for index in range(layers):
            reduction = index in reducing
            channels = 2 * channels if reduction else channels
            plan = genotype.cell(index, reduction=reduction)
            cell = Cell(
                plan, (older, newer), channels, affine=genotype.affine, reduction=reduction,
                after_reduction=index - 1 in reducing if index else stem.second is not None,
            )  # fmt: skip
            self.cells.append(cell)
            older, newer = newer, len(plan.concat) * channels
            if index == self.auxiliary_after:
                auxiliary_channels = newer
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(newer, classes)
        self.auxiliary_head = frame.auxiliary(auxiliary_channels, classes) if auxiliary else None

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """Logits [N,K].

        In training, each edge except an identity is dropped with probability `drop_path`, per image.
        """
        return self.classifier(self.pool(self._states(x, drop_path)[-1]).flatten(1))

    def with_auxiliary(self, x: Tensor, drop_path: float = 0.0) -> tuple[Tensor, Tensor]:
        """Logits and auxiliary logits, [N,K] each.

        Raises UserError in evaluation mode, or without an auxiliary head.
        """
        if not self.training or self.auxiliary_head is None:
            raise UserError(
                "auxiliary head: exists in training mode of a network built with auxiliary=True only"
            )
        states = self._states(x, drop_path)
        logits = self.classifier(self.pool(states[-1]).flatten(1))
        return logits, self.auxiliary_head(states[self.auxiliary_after])

    def _states(self, x: Tensor, drop_path: float) -> list[Tensor]:
        """The outputs of all cells."""
        if not 0 <= drop_path < 1:
            raise UserError(f"drop_path: got {drop_path}; give a probability from 0 to below 1")
        older = newer = self.stem(self.normalize(x))
        if self.stem1 is not None:
            newer = self.stem1(older)
        outputs = []
        for cell in self.cells:
            older, newer = newer, cell(older, newer, drop_path)
            outputs.append(newer)
        return outputs


def parameter_count(
    genotype: Genotype | RobNet,
    channels: int,
    layers: int,
    classes: int,
    *,
    in_channels: int = 3,
    reductions: Collection[int] | None = None,
    frame: Frame = SMALL,
) -> int:
    """The number of trainable parameters of the DiscreteNetwork with these arguments.

    The network is built on the meta device, without memory for its parameters.
    """
    with torch.device("meta"):
        network = DiscreteNetwork(
            genotype, channels, layers, classes, in_channels=in_channels, reductions=reductions, frame=frame
        )
    return sum(parameter.numel() for parameter in network.parameters())
