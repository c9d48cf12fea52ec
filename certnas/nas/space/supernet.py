"""Supernets: networks of cells in which every edge is a mixed operation over its candidate operators."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.nas.space.derivation import strongest_edges
from certnas.nas.space.frame import SMALL, Frame, check_sizes, normalisation, reduction_cells
from certnas.nas.space.genotypes import Genotype
from certnas.nas.space.ops import OPS, POOLING, FactorizedReduce, ReLUConvBN
from certnas.nas.space.spaces import DARTS, SearchSpace, edge_count


class Mixture(NamedTuple):
    """The weights of the mixed operations of one kind of cell. All weights are scalars."""

    operators: list[tuple[Tensor, ...]]
    """operators[e][o] is the weight of candidate o on edge e."""
    edges: tuple[Tensor, ...] | None
    """edges[e] is the weight of edge e; None: every edge has weight 1."""


class MixedEdge(nn.Module):
    """A mixed operation: Σ_o w_o·op_o(x) over the candidates. [N,C,H,W] -> [N,C,⌈H/s⌉,⌈W/s⌉]

    Batch norms have no affine parameters, and pooling has a batch norm behind it. `none` contributes
    nothing for any x. With partial = k > 1, the operators act on the first C/k channels; the others bypass
    them (max-pooled 2×2 at stride 2), and a channel shuffle in k groups follows. Liu et al. 2019, equation
    2; Xu et al. 2020 (PC-DARTS), equation 2.
    """

    def __init__(self, operators: Sequence[str], channels: int, stride: int, partial: int) -> None:
        super().__init__()
        self.operators = tuple(operators)
        self.partial = partial
        self.mixed = channels // partial
        self.ops = nn.ModuleList(_candidate(op, self.mixed, stride) for op in operators)
        self.bypass = nn.MaxPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        inner = x if self.partial == 1 else x[:, : self.mixed]
        kept = zip(self.operators, self.ops, weights, strict=True)
        out = _total([weight * op(inner) for name, op, weight in kept if name != "none"])
        if self.partial == 1:
            return out
        out = torch.cat([out, self.bypass(x[:, self.mixed :])], dim=1)
        return out.unflatten(1, (self.partial, self.mixed)).transpose(1, 2).flatten(1, 2)


class MixedCell(nn.Module):
    """One cell; each node is the sum of mixed operations on all earlier states.

    ([N,C₀,H₀,W₀], [N,C₁,H,W]) -> [N,M·C,H',W'] for M listed states; H' = ⌈H/2⌉ in a reduction cell, else H.
    """

    def __init__(
        self,
        candidates: Sequence[Sequence[str]],
        channels_in: tuple[int, int],
        channels: int,
        concat: tuple[int, ...],
        *,
        reduction: bool,
        after_reduction: bool,
        partial: int,
    ) -> None:
        super().__init__()
        older, newer = channels_in
        self.concat = concat
        self.reduction = reduction
        self.preprocess0: nn.Module = (
            FactorizedReduce(older, channels, affine=False)
            if after_reduction
            else ReLUConvBN(older, channels, affine=False)
        )
        self.preprocess1 = ReLUConvBN(newer, channels, affine=False)
        self.edges = nn.ModuleList()
        node = 2
        while len(self.edges) < len(candidates):
            for state in range(node):
                stride = 2 if reduction and state < 2 else 1
                self.edges.append(MixedEdge(candidates[len(self.edges)], channels, stride, partial))
            node += 1

    def forward(self, older: Tensor, newer: Tensor, mixture: Mixture) -> Tensor:
        states = [self.preprocess0(older), self.preprocess1(newer)]
        edge = 0
        while edge < len(self.edges):
            terms = []
            for state in states:
                term = self.edges[edge](state, mixture.operators[edge])
                terms.append(term if mixture.edges is None else mixture.edges[edge] * term)
                edge += 1
            states.append(_total(terms))
        return torch.cat([states[state] for state in self.concat], dim=1)


class Supernet(nn.Module):
    """The supernet of a search space. [N,C,H,W] in [0, 1] pixels -> logits [N,K]

    The architecture variables α are alpha_normal and alpha_reduce [E,O], one row per edge, shared by all
    cells of a kind. Edge e is the mixed operation with weights softmax(α_e). With partial = k > 1, the
    supernet is that of PC-DARTS: the operators act on 1/k of the channels, and softmax(β) over the edges of
    a node weights them, with beta_normal and beta_reduce [E]. All variables start at 10⁻³·N(0,1).

    If `mean` and `std` are given, the first layer normalises, so that ε is in [0, 1] pixels. `nodes` is the
    number of intermediate nodes and `concat` lists a cell's output states, by default all nodes. Raises
    UserError for numbers that give no network. Liu et al. 2019; Xu et al. 2020.
    """

    def __init__(
        self,
        channels: int,
        layers: int,
        classes: int,
        *,
        space: SearchSpace = DARTS,
        nodes: int = 4,
        concat: Sequence[int] | None = None,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        partial: int = 1,
        reductions: Collection[int] | None = None,
        frame: Frame = SMALL,
    ) -> None:
        super().__init__()
        check_sizes(
            channels=channels, layers=layers, classes=classes, nodes=nodes, in_channels=in_channels,
            partial=partial,
        )  # fmt: skip
        if channels % partial:
            raise UserError(f"partial: got {partial} for {channels} channels; give a divisor of the channels")
        reducing = reduction_cells(layers, reductions)
        self.nodes = nodes
        self.concat = tuple(range(2, nodes + 2)) if concat is None else tuple(concat)
        if not self.concat or not set(self.concat) <= set(range(2, nodes + 2)):
            raise UserError(f"concat: got {list(self.concat)}; list at least one state from 2 to {nodes + 1}")
        self.candidates = {kind: space.candidates(kind, nodes) for kind in ("normal", "reduce")}
        self.normalize = normalisation(in_channels, mean, std)
        stem = frame.stem(in_channels, channels)
        self.stem, self.stem1 = stem.first, stem.second
        older = newer = stem.channels_out
        self.cells = nn.ModuleList()
        for index in range(layers):
            reduction = index in reducing
            channels = 2 * channels if reduction else channels
            self.cells.append(
                MixedCell(
                    self.candidates["reduce" if reduction else "normal"], (older, newer), channels, self.concat,
                    reduction=reduction, partial=partial,
                    after_reduction=index - 1 in reducing if index else stem.second is not None,
                )
            )  # fmt: skip
            older, newer = newer, len(self.concat) * channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(newer, classes)
        edges = edge_count(nodes)
        for kind, rows in self.candidates.items():
            self.register_parameter(f"alpha_{kind}", nn.Parameter(1e-3 * torch.randn(edges, len(rows[0]))))
        for kind in self.candidates:
            beta = nn.Parameter(1e-3 * torch.randn(edges)) if partial > 1 else None
            self.register_parameter(f"beta_{kind}", beta)

    def forward(self, x: Tensor) -> Tensor:
        normal, reduce = self._mixture("normal"), self._mixture("reduce")
        older = newer = self.stem(self.normalize(x))
        if self.stem1 is not None:
            newer = self.stem1(older)
        for cell in self.cells:
            older, newer = newer, cell(older, newer, reduce if cell.reduction else normal)
        return self.classifier(self.pool(newer).flatten(1))

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The architecture variables: alpha_normal, alpha_reduce, and in PC-DARTS also beta_normal,
        beta_reduce.
        """
        return [parameter for name, parameter in self.named_parameters() if _is_architecture(name)]

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters except the architecture variables."""
        return [parameter for name, parameter in self.named_parameters() if not _is_architecture(name)]

    def genotype(self) -> Genotype:
        """Derive the genotype: the two strongest edges of each node by softmax(α), times softmax(β) in PC-DARTS.

        `none` takes part in the softmax but is never chosen. Liu et al. 2019, section 2.4; Xu et al. 2020.
        """
        with torch.no_grad():
            cells = [
                strongest_edges(self._strengths(k), self.candidates[k], self.nodes) for k in self.candidates
            ]
        return Genotype(cells[0], self.concat, cells[1], self.concat)

    def _strengths(self, kind: str) -> list[list[float]]:
        alpha, beta = getattr(self, f"alpha_{kind}"), getattr(self, f"beta_{kind}")
        strengths = alpha.double().softmax(-1)
        return (strengths if beta is None else strengths * self._per_node(beta.double())[:, None]).tolist()

    def _mixture(self, kind: str) -> Mixture:
        alpha, beta = getattr(self, f"alpha_{kind}"), getattr(self, f"beta_{kind}")
        operators = [row.unbind(0) for row in alpha.softmax(-1).unbind(0)]
        return Mixture(operators, None if beta is None else self._per_node(beta).unbind(0))

    def _per_node(self, beta: Tensor) -> Tensor:
        """softmax(β) over the edges into each node. [E] -> [E]"""
        return torch.cat([node.softmax(0) for node in beta.split(list(range(2, self.nodes + 2)))])


def _is_architecture(name: str) -> bool:
    return name.startswith(("alpha_", "beta_"))


def _candidate(op: str, channels: int, stride: int) -> nn.Module:
    module = OPS[op](channels, stride, False)
    return nn.Sequential(module, nn.BatchNorm2d(channels, affine=False)) if op in POOLING else module


def _total(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
