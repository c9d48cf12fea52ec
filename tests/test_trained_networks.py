"""Trained networks on disk: what is stored, and damaged folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CELL, bars, tiny, weights

from certnas.errors import UserError
from certnas.models import open_model
from certnas.nas.space import GENOTYPES
from certnas.training import train
from certnas.training.images import channel_statistics, held_out


def test_the_kept_network_has_no_auxiliary_head_and_its_own_normalisation(tmp_path: Path) -> None:
    data = bars(20, 32, 3)
    used = tiny(epochs=1, batch=16, auxiliary=0.4, layers=3)
    trained = train(CELL, data, used, tmp_path / "run", validation=0.2)
    assert not [name for name in weights(tmp_path / "run") if "auxiliary" in name]
    opened = open_model(str(trained.best))
    assert (opened.classes, opened.input_shape, opened.origin) == (3, (3, 32, 32), f"folder {trained.best}")
    mean, _ = channel_statistics(held_out(data, 0.2, 0)[0].x)
    assert opened.module.normalize.mean.flatten().tolist() == pytest.approx(mean)


def written(folder: Path, **changes: Any) -> Path:
    record = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps(record | changes))
    return folder


DAMAGE = {
    "no description": (lambda f: (f / "network.json").write_text("{"), "cannot read '.*network.json': "),
    "no table": (lambda f: written(f, network=3), "lacks one of the tables genotype, network, training"),
    "bad cell": (lambda f: written(f, genotype={}), "genotype .*key 'normal' is missing"),
    "bad sizes": (lambda f: written(f, network={"channels": 2}), "network.layers: is missing; give it"),
    "other weights": (
        lambda f: written(f, genotype=GENOTYPES["DARTS_V2"].record()),
        "does not have the weights of network.json: Error",
    ),
    "no weights": (
        lambda f: (f / "weights.safetensors").unlink(),
        "does not have the weights of network.json",
    ),
    "cut weights": (
        lambda f: (f / "weights.safetensors").write_bytes((f / "weights.safetensors").read_bytes()[:-8]),
        "does not have the weights of network.json",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_network_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    train(CELL, bars(), tiny(epochs=1), tmp_path / "run")
    damage, message = DAMAGE[what]
    damage(tmp_path / "run" / "best")
    with pytest.raises(UserError, match=message) as caught:
        open_model(str(tmp_path / "run" / "best"))
    assert "\n" not in str(caught.value)


def test_a_trained_folder_takes_no_architecture_of_its_own(tmp_path: Path) -> None:
    trained = train(CELL, bars(), tiny(epochs=1), tmp_path / "run")
    with pytest.raises(UserError, match="is complete: it takes no mean"):
        open_model(str(trained.best), mean=[0.5], std=[0.5])
    before = torch.get_rng_state()
    open_model(str(trained.best))
    assert torch.equal(torch.get_rng_state(), before)
