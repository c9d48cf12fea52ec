"""Recipes: the published values, their files, and wrong settings."""

from pathlib import Path
from typing import Any

import pytest
from tiny_training import bars, tiny
from torch import nn

from certnas.data.augmentation import Augmentation
from certnas.errors import UserError
from certnas.runs import read_toml, to_toml
from certnas.training import FITTED, RECIPES, TrainingProgress, fit, recipe, recipe_table

PUBLISHED = {
    "darts": {
        "epochs": 600,
        "batch": 96,
        "lr": 0.025,
        "weight_decay": 3e-4,
        "drop_path": 0.2,
        "auxiliary": 0.4,
    },
    "pc-darts": {"epochs": 600, "batch": 96, "lr": 0.025, "weight_decay": 3e-4, "drop_path": 0.3},
    "standard": {"epochs": 600, "batch": 128, "lr": 0.025, "drop_path": 0.3, "clip": 5, "normalize": True},
    "pgd-at": {
        "epochs": 200,
        "batch": 64,
        "lr": 0.1,
        "weight_decay": 1e-4,
        "drop_path": 0,
        "normalize": False,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_are_the_published_ones(name: str) -> None:
    used = recipe(name)
    assert {key: getattr(used, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    assert (used.channels, used.layers, used.momentum, used.optimizer) == (36, 20, 0.9, "sgd")
    assert used.augmentation == Augmentation(4, True, 0 if name == "pgd-at" else 16)


def test_adversarial_recipe_is_advrush() -> None:
    used = recipe("pgd-at")
    assert recipe_table(used)["objective"] == {
        "name": "pgd-at",
        "eps": 0.031,
        "step": 0.01,
        "steps": 7,
        "start": 0.001,
        "warmup": 0.0,
    }
    rates = [used.rate(epoch / 200) for epoch in (0, 98, 99, 148, 149, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert recipe("pgd-at", "svhn").lr == 0.01
    assert recipe("standard").rate(0.5) == pytest.approx(0.0125)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("data", ["", *FITTED])
def test_a_recipe_survives_a_toml_file(name: str, data: str, tmp_path: Path) -> None:
    used = recipe(name, data)
    (tmp_path / "config.toml").write_text(to_toml({"recipe": recipe_table(used)}))
    for other in RECIPES:
        assert recipe(other, changes=read_toml(tmp_path / "config.toml")["recipe"]) == used


MISTAKES = [
    ({"epochs": 0}, "epochs: got 0; give more than 0"),
    ({"lr": -1}, "lr: got -1.0; give more than 0"),
    ({"lr": "fast"}, "lr: got 'fast'; give a number"),
    ({"drop_path": 1.0}, "drop_path: got 1.0; give 0 or more and below 1"),
    ({"label_smoothing": -0.1}, "label_smoothing: got -0.1; give 0 or more and below 1"),
    ({"decays": [0.5, 2]}, "decays: got [0.5, 2.0]; give fractions of the training between 0 and 1"),
    ({"optimizer": "lion"}, "optimizer: got 'lion'; accepted: sgd, adamw"),
    ({"augmentation": {"crop": -1}}, "crop: got -1; give a number of pixels, 0 for none"),
    ({"speed": 1}, "speed: no such setting; accepted: objective, epochs,"),
    (
        {"objective": "ibp"},
        "objective: got 'ibp'; give a table with a name: standard, pgd-at, ibp, crown-ibp",
    ),
    ({"objective": {"name": "mart"}}, "objective: got {'name': 'mart'}; give a table with a name"),
    ({"objective": {"eps": 0.1}}, "objective.eps: no such setting; accepted: none"),
    ({"objective": {"name": "pgd-at", "eps": 0}}, "eps: got 0; give more than 0"),
    ({"objective": {"name": "ibp", "kappa": 2}}, "kappa: got 2; give a number from 0 to 1"),
    ({"objective": {"name": "ibp", "warmup": [0.5, 0.5]}}, "warmup: got 0.5 to 0.5; give rising fractions"),
    ({"objective": {"name": "ibp"}}, "drop_path: got 0.3; a bound holds for one network"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_wrong_setting_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe("standard", changes=changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="recipe: unknown name 'fast'; accepted: standard, darts, pc-darts"):
        recipe("fast")


def test_figures_of_the_schedule_are_reported() -> None:
    linear, told = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), list[TrainingProgress]()
    fit(linear, bars(), bars(), tiny("crown-ibp", epochs=2), progress=told.append)
    first, last = told[0].figures, told[-1].figures
    assert set(first) == {"loss", "accuracy", "lr", "eps", "kappa", "beta"}
    assert set(last) == {*first, "validation_accuracy", "validation_certified_accuracy"}
    assert first["eps"] == 0 and 0 < last["eps"] <= 2 / 255
