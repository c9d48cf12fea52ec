"""Networks of DARTS cells with a fixed genotype."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.space.frame import check_sizes, normalisation, reduction_cells, small_stem
from certnas.space.genotypes import Genotype
from certnas.space.ops import OPS, FactorizedReduce, ReLUConvBN


class Cell(nn.Module):
    """One cell: each node is the sum of its two edges, the output the concatenation of the listed states.

    ([N,C₀,H₀,W₀], [N,C₁,H,W]) -> [N,M·C,H',W'] for M listed states, H' = ⌈H/2⌉ in a reduction cell, else H.
    After a reduction cell the older input is twice as large, and is reduced on entry.  Liu et al. 2019,
    section 2.1.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels_in: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        older, newer = channels_in
        edges = genotype.reduce if reduction else genotype.normal
        self.concat = genotype.reduce_concat if reduction else genotype.normal_concat
        self.inputs = tuple(state for _, state in edges)
        self.preprocess0: nn.Module = (
            FactorizedReduce(older, channels) if after_reduction else ReLUConvBN(older, channels)
        )
        self.preprocess1 = ReLUConvBN(newer, channels)
        self.ops = nn.ModuleList(
            OPS[op](channels, 2 if reduction and state < 2 else 1, True) for op, state in edges
        )

    def forward(self, older: Tensor, newer: Tensor, drop_path: float = 0.0) -> Tensor:
        states = [self.preprocess0(older), self.preprocess1(newer)]
        for first in range(0, len(self.ops), 2):
            left, right = (self._edge(k, states[self.inputs[k]], drop_path) for k in (first, first + 1))
            states.append(left + right)
        return torch.cat([states[state] for state in self.concat], dim=1)

    def _edge(self, position: int, x: Tensor, drop_path: float) -> Tensor:
        op = self.ops[position]
        out = op(x)
        if not self.training or drop_path == 0 or isinstance(op, nn.Identity):
            return out
        keep = torch.empty_like(out[:, :1, :1, :1]).bernoulli_(1 - drop_path)
        return out * keep / (1 - drop_path)


class AuxiliaryHead(nn.Module):
    """The classifier that reads the network two thirds up while training.  [N,C,H,W], H, W ≥ 8 -> [N,K]

    For 8×8 this is the published head; larger maps are averaged before the last layer.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, 3, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 8:
            raise UserError(
                f"auxiliary head: its input is {x.shape[2]}×{x.shape[3]}, it needs 8×8 or more; "
                "use larger images or auxiliary=False"
            )
        return self.classifier(self.features(x))


class DiscreteNetwork(nn.Module):
    """A network of cells for small images.  [N,C,H,W] in [0, 1] pixels -> [N,K]

    Normalisation (when `mean` and `std` are given) is the first layer, so ε is in pixel units. Then a 3×3
    convolution to 3·channels, `layers` cells and a linear classifier of the averaged map. The cells in
    `reductions` (by default those at one and two thirds) halve the map and double the channels; images of any
    size are taken, odd sides are rounded up.  Raises UserError for numbers that give no network.
    Liu et al. 2019, section 3.2.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int,
        layers: int,
        classes: int,
        *,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        reductions: Collection[int] | None = None,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, layers=layers, classes=classes, in_channels=in_channels)
        reducing = reduction_cells(layers, reductions)
        self.normalize = normalisation(in_channels, mean, std)
        self.stem = small_stem(in_channels, 3 * channels)
        older = newer = 3 * channels
        self.cells = nn.ModuleList()
        self.auxiliary_after = 2 * layers // 3
        auxiliary_channels = 0
        for index in range(layers):
            reduction = index in reducing
            channels = 2 * channels if reduction else channels
            cell = Cell(
                genotype,
                (older, newer),
                channels,
                reduction=reduction,
                after_reduction=index - 1 in reducing,
            )
            self.cells.append(cell)
            older, newer = newer, len(cell.concat) * channels
            if index == self.auxiliary_after:
                auxiliary_channels = newer
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(newer, classes)
        self.auxiliary_head = AuxiliaryHead(auxiliary_channels, classes) if auxiliary else None

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """Logits [N,K]; training drops each edge but an identity, per image, with chance `drop_path`."""
        return self.classifier(self.pool(self._states(x, drop_path)[-1]).flatten(1))

    def with_auxiliary(self, x: Tensor, drop_path: float = 0.0) -> tuple[Tensor, Tensor]:
        """Logits and auxiliary logits, [N,K] each.  Raises UserError in evaluation or without the head."""
        if not self.training or self.auxiliary_head is None:
            raise UserError(
                "auxiliary head: exists in training mode of a network built with auxiliary=True only"
            )
        states = self._states(x, drop_path)
        logits = self.classifier(self.pool(states[-1]).flatten(1))
        return logits, self.auxiliary_head(states[self.auxiliary_after])

    def _states(self, x: Tensor, drop_path: float) -> list[Tensor]:
        """The output of every cell."""
        if not 0 <= drop_path < 1:
            raise UserError(f"drop_path: got {drop_path}; give a probability from 0 to below 1")
        older = newer = self.stem(self.normalize(x))
        outputs = []
        for cell in self.cells:
            older, newer = newer, cell(older, newer, drop_path)
            outputs.append(newer)
        return outputs
