"""Search configurations: presets, their files, and settings that cannot be searched."""

from pathlib import Path
from typing import Any

import pytest
from tiny_search import config, found

from certnas.errors import UserError
from certnas.nas.search import (
    PRESETS,
    SearchConfig,
    effective,
    open_data,
)
from certnas.nas.space import parameter_count
from certnas.runs import from_table, merged, read_toml, to_table, to_toml


def test_random_cells_match_a_number_of_parameters() -> None:
    sizes = {"channels": 8, "layers": 3, "nodes": 2}
    options = {"parameters": 5000, "tolerance": 0.1}
    drawn = [
        found(config(algorithm={"name": "random", "options": options}, supernet=sizes, seed=seed)).genotype
        for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1]
    for genotype in drawn:
        assert 4500 <= parameter_count(genotype, 8, 3, 10, in_channels=1, reductions=[1]) <= 5500


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_whole_configurations(name: str, tmp_path: Path) -> None:
    settings = from_table(SearchConfig, merged(PRESETS[name], {"data": {"name": "digits"}}))
    full, _, _ = effective(settings, open_data(settings))
    (tmp_path / "c.toml").write_text(to_toml(to_table(full)))
    again = from_table(SearchConfig, read_toml(tmp_path / "c.toml"))
    assert again == full == effective(again, open_data(again))[0]


def test_presets_are_the_papers() -> None:
    cb, pc, rush = (from_table(SearchConfig, PRESETS[name]) for name in ("dsrna-cb", "pc-darts", "advrush"))
    assert (cb.weights.lr, cb.batch_size, cb.alpha.lr, cb.alpha.weight_decay) == (0.1, 256, 6e-4, 3e-4)
    assert (cb.metric.gamma, cb.supernet.nodes, cb.epochs, cb.supernet.layers) == (0.01, 3, 50, 8)
    assert (pc.weights.lr, pc.weights.lr_min, pc.alpha.warmup, pc.batch_size) == (0.1, 0.0, 15, 256)
    assert (rush.epochs, rush.metric.options["warmup"], rush.batch_size, rush.metric.gamma) == (
        60,
        50,
        32,
        0.01,
    )
    assert (rush.data.crop, rush.data.flip, rush.data.cutout) == (4, True, 0)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"algorithm": {"name": "dart"}}, "algorithm 'dart' is unknown; accepted: darts, pc-darts, random"),
        ({"metric": {"name": "ibp"}}, "metric: unknown name 'ibp'; accepted: none, cb"),
        ({"metric": {"gamma": -1.0}}, "metric.gamma: got -1.0; give 0 or more"),
        ({"metric": {"name": "pgd", "options": {"step": 1}}}, "metric pgd: unknown setting 'step'"),
        ({"algorithm": {"options": {"order": 3}}}, "algorithm darts: order is 3; give 1 or 2"),
        ({"algorithm": {"options": {"k": 3}}}, "algorithm.options.k: no such setting; accepted: order"),
        ({"algorithm": {"name": "pc-darts", "options": {"k": 3}}}, "partial: got 3 for 4 channels"),
        ({"algorithm": {"name": "random", "options": {"parameters": 0}}}, "parameters is 0; give 1 or more"),
        ({"data": {"images": 15}}, "data digits: 15 images split into 7 and 8, too few for batches of 8"),
        ({"data": {"images": 5000}}, "data digits: 5000 images asked for"),
        ({"data": {"split": 1.0}}, "data.split: got 1.0; give a share between 0 and 1"),
        ({"data": {"mean": [0.5, 0.5], "std": [1.0, 1.0]}}, "normalisation: got mean (0.5, 0.5)"),
        (
            {"supernet": {"layers": 5, "reductions": [0, 1, 2, 3]}},
            "images of 8×8 can be halved 3 times, the supernet has 4 reduction cells; take larger images",
        ),
        ({"supernet": {"space": "S9"}}, "supernet.space 'S9' is unknown; accepted: darts"),
        ({"supernet": {"layers": 0}}, "layers: got 0; give 1 or more"),
        (
            {"weights": {"lr": 0.1, "lr_min": 0.2}},
            "weights.lr_min: got 0.2; give a number from 0 to lr (0.1)",
        ),
        ({"weights": {"clip": 0}}, "weights.clip: got 0.0; give a number above 0, inf for none"),
        ({"epochs": 0}, "epochs: got 0; give 1 or more"),
        ({"epoch": 3}, "epoch: no such setting; accepted: epochs, batch_size, seed"),
    ],
)
def test_what_cannot_be_searched_is_named(tables: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        found(config(**tables), out=tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "last.pt").exists()
