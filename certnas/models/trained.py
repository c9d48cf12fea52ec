"""Storage of a trained network of cells: a folder with network.json, its description, and weights.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.models.architectures import Architecture
from certnas.runs import from_table, write_atomically

if TYPE_CHECKING:
    from certnas.nas.space import DiscreteNetwork, Genotype, RobNet

DESCRIPTION, WEIGHTS = "network.json", "weights.safetensors"


@dataclass(frozen=True)
class Sizes:
    """The arguments of a `DiscreteNetwork` besides its genotype."""

    channels: int
    """Initial number of channels."""
    layers: int
    """Number of cells."""
    classes: int
    """Number of classes."""
    input_shape: tuple[int, int, int]
    """Shape of an image (C, H, W)."""
    mean: tuple[float, ...] | None = None
    """Mean per channel of the normalisation, in [0, 1] pixels; None: no normalisation."""
    std: tuple[float, ...] | None = None
    """Standard deviation per channel of the normalisation, in [0, 1] pixels."""

    def build(self, genotype: Genotype | RobNet, *, auxiliary: bool = False) -> DiscreteNetwork:
        """Build the untrained network with torch's random state. Raises UserError for sizes that give no network."""
        from certnas.nas.space import DiscreteNetwork  # imported here because it imports certnas.models

        return DiscreteNetwork(
            genotype, self.channels, self.layers, self.classes, in_channels=self.input_shape[0],
            mean=self.mean, std=self.std, auxiliary=auxiliary,
        )  # fmt: skip


def write_network(
    folder: Path, network: nn.Module, genotype: Genotype | RobNet, sizes: Sizes, training: Mapping[str, Any]
) -> None:
    """Store the network, without its auxiliary head, in the folder.

    `training` describes the training and has its results under `figures`. Each file is replaced atomically.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if not name.startswith("auxiliary_head.")
    }
    record = {"genotype": genotype.record(), "network": asdict(sizes), "training": dict(training)}
    write_atomically(folder / WEIGHTS, save(state))
    write_atomically(folder / DESCRIPTION, json.dumps(record, indent=1) + "\n")


def read_network(folder: Path) -> Architecture:
    """Read the network that `write_network` stored, with its weights. No code in the files runs.

    Torch's random state is restored. Raises UserError for files that are missing, damaged or inconsistent.
    """
    from certnas.nas.space import parse_architecture

    path, record = folder / DESCRIPTION, _record(folder)
    genotype = parse_architecture(record["genotype"], str(path))
    sizes = from_table(Sizes, record["network"], f"{path}, network.")
    try:
        tensors = load_file(folder / WEIGHTS, device="cpu")
        with torch.random.fork_rng(devices=[]):
            network = sizes.build(genotype)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"'{folder / WEIGHTS}' does not have the weights of {DESCRIPTION}: {reason}; train the network again"
        ) from error
    return Architecture(network, sizes.input_shape)


def figures_of(folder: Path) -> dict[str, float]:
    """The results that were stored with the network. Raises UserError if the folder is damaged."""
    figures = _record(folder)["training"].get("figures")
    return figures if isinstance(figures, dict) else {}


def _record(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}; train the network again") from error
    tables = ("genotype", "network", "training")
    if not isinstance(record, dict) or not all(isinstance(record.get(key), dict) for key in tables):
        raise UserError(f"'{path}' lacks one of the tables {', '.join(tables)}; train the network again")
    return record
