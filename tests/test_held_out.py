"""Which images train and which are held out, in a search and in a training: never the other way round."""

from types import SimpleNamespace

import torch
from torch import nn

from certnas.data import load
from certnas.nas.search.darts import first_order
from certnas.nas.search.stream import split
from certnas.training.images import held_out


def test_a_training_keeps_the_larger_part_and_holds_out_the_share() -> None:
    data = load("digits")
    train, held = held_out(data, 0.2, 3)
    assert len(held.y) == round(0.2 * len(data.y)) and len(train.y) == len(data.y) - len(held.y)
    assert not set(train.index.tolist()) & set(held.index.tolist())


def test_the_first_part_of_a_search_trains_the_weights() -> None:
    data = load("digits")
    config = SimpleNamespace(
        batch_size=8,
        seed=0,
        data=SimpleNamespace(split=0.75, mean=(0.5,), augmentation=lambda: None),
    )
    train, held = split(config, data, torch.device("cpu"), SimpleNamespace(size=1))  # type: ignore[arg-type]
    first = int(0.75 * len(data.y))
    assert torch.equal(train.x, data.x[:first]) and torch.equal(held.x, data.x[first:])
    assert torch.equal(train.y, data.y[:first]) and torch.equal(held.y, data.y[first:])
    assert train.part != held.part


def test_the_architecture_learns_from_held_out_images_and_the_weights_from_the_others() -> None:
    did: list[tuple[str, object]] = []
    trial = SimpleNamespace(
        alpha_moves=True,
        alpha=[nn.Parameter(torch.zeros(1))],
        objective_gradients=lambda batch, of: did.append(("alpha", batch)) or [],
        alpha_step=lambda gradients: None,
        weight_step=lambda batch: did.append(("weights", batch)),
    )
    first_order(trial, "train", "held out")  # type: ignore[arg-type]
    assert did == [("alpha", "held out"), ("weights", "train")]
