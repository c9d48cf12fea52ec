"""A trained network of cells on disk: a folder of network.json, which says what it is, and weights.safetensors."""

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
    """The sizes of a `DiscreteNetwork`: input_shape is (C, H, W); mean and std as it takes them, in [0, 1] pixels."""

    channels: int
    layers: int
    classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def build(self, genotype: Genotype | RobNet, *, auxiliary: bool = False) -> DiscreteNetwork:
        """The untrained network; it draws from torch's random state.  Raises UserError for sizes that give none."""
        from certnas.nas.space import DiscreteNetwork  # here: it imports certnas.models

        return DiscreteNetwork(
            genotype, self.channels, self.layers, self.classes, in_channels=self.input_shape[0],
            mean=self.mean, std=self.std, auxiliary=auxiliary,
        )  # fmt: skip


def write_network(
    folder: Path, network: nn.Module, genotype: Genotype | RobNet, sizes: Sizes, training: Mapping[str, Any]
) -> None:
    """Keeps the network, without its auxiliary head, in the folder; training: how it was trained, with its `figures`.

    Each file is replaced whole.
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
    """The network that `write_network` kept in the folder, with its weights.  No code in it is run.

    Torch's random state is left as it was.  Raises UserError for files that are missing, damaged or do not fit
    each other.
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
            f"'{folder / WEIGHTS}' does not hold the weights of {DESCRIPTION}: {reason}; train the network again"
        ) from error
    return Architecture(network, sizes.input_shape)


def figures_of(folder: Path) -> dict[str, float]:
    """The figures that were kept with the network in the folder.  Raises UserError where it is damaged."""
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
