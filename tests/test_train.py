"""Training as a library: splits, the loop, checkpoints and resumption, losses."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import CELL, TINY, bars, logged, same, tiny, weights
from torch import nn
from torch.nn import functional

from certnas.errors import UserError
from certnas.models import open_model
from certnas.nas.space import DiscreteNetwork
from certnas.training import TrainingProgress, fit, recipe, train
from certnas.training.images import batches, channel_statistics, held_out


def test_held_out_images_are_not_trained_on() -> None:
    data = bars(50)
    kept, left = held_out(data, 0.2, seed=3)
    assert (len(kept.y), len(left.y)) == (40, 10)
    assert sorted([*kept.index.tolist(), *left.index.tolist()]) == list(range(50))
    assert torch.equal(left.x, data.x[left.index]) and torch.equal(left.y, data.y[left.index])
    assert torch.equal(held_out(data, 0.2, seed=3)[1].index, left.index)
    assert not torch.equal(held_out(data, 0.2, seed=4)[1].index, left.index)


@pytest.mark.parametrize("share", [0.0, 1.0, -1, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"validation: got .*; give a share of the training images between"):
        held_out(bars(), share, 0)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(
        UserError, match="data bars: 10 images split into 9 and 1; a training needs two or more"
    ):
        held_out(bars(10), 0.1, 0)


def test_an_epoch_sees_every_image_once() -> None:
    parts = [rows for rows, _ in batches(50, 16, seed=0, epoch=2)]
    assert [len(rows) for rows in parts] == [13, 13, 12, 12]
    assert sorted(torch.cat(parts).tolist()) == list(range(50))
    again = [rows for rows, _ in batches(50, 16, seed=0, epoch=2)]
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[0], next(iter(batches(50, 16, seed=0, epoch=3)))[0])


def test_channel_statistics_make_a_constant_channel_harmless() -> None:
    x = torch.stack([torch.tensor([[0.0, 0.5], [0.5, 1.0]]), torch.full((2, 2), 0.25)]).unsqueeze(0)
    assert channel_statistics(x) == ((0.5, 0.25), (0.3536, 1.0))


def test_training_learns_and_leaves_the_random_state(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    told: list[TrainingProgress] = []
    trained = train(CELL, bars(), tiny(epochs=20), tmp_path / "run", progress=told.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert trained.last_figures["validation_accuracy"] >= 0.8
    assert trained.last_figures["loss"] < 0.6
    assert [p.step for p in told] == list(range(1, 61)) and {p.steps for p in told} == {60}
    lines = logged(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] == told[-1].figures["loss"]
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_the_best_network_is_that_of_the_highest_measure(tmp_path: Path) -> None:
    train(CELL, bars(), tiny(epochs=6), tmp_path / "run")
    lines = logged(tmp_path / "run")
    scores = [(line["validation_accuracy"], line["step"]) for line in lines]
    record = json.loads((tmp_path / "run" / "best" / "network.json").read_text())
    assert record["training"]["figures"]["epoch"] == max(scores)[1]
    data = held_out(bars(), 0.1, 0)[1]
    network = open_model(str(tmp_path / "run" / "best")).module
    right = (network(data.x).argmax(1) == data.y).double().mean().item()
    assert right == record["training"]["figures"]["validation_accuracy"] == max(scores)[0]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed)
        train(CELL, bars(), tiny(epochs=2, drop_path=0.3), tmp_path / name, seed=seed)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert same(a, b) and not same(a, c)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", ["standard", "pgd-at", pytest.param("crown-ibp", marks=pytest.mark.slow)])
def test_a_stopped_training_resumes_to_the_same_weights(name: str, tmp_path: Path) -> None:
    drop_path = 0.0 if name == "crown-ibp" else 0.2
    used = tiny(name, epochs=4, drop_path=drop_path, optimizer="adamw" if name == "standard" else "sgd")

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 8:
            raise Stopped

    whole = train(CELL, bars(), used, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(CELL, bars(), used, tmp_path / "parts", progress=stop)
    seen: list[TrainingProgress] = []
    parts = train(CELL, bars(), used, tmp_path / "parts", resume=True, progress=seen.append)
    assert seen[0].epoch == 3
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert same(weights(tmp_path / "whole", "best"), weights(tmp_path / "parts", "best"))
    assert whole.best_figures == parts.best_figures
    logs = [logged(tmp_path / "whole"), logged(tmp_path / "parts")]
    assert [{**line, "time": 0} for line in logs[0]] == [{**line, "time": 0} for line in logs[1]]
    again = train(CELL, bars(), used, tmp_path / "parts", resume=True)
    assert again == replace(parts)


def test_a_folder_of_another_training_is_left_alone(tmp_path: Path) -> None:
    train(CELL, bars(), tiny(epochs=1), tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        train(CELL, bars(), tiny(epochs=1), tmp_path / "run")
    with pytest.raises(UserError, match=r"cannot resume .*: recipe.lr was 0.025, is 0.5, seed was 0, is 1"):
        train(CELL, bars(), tiny(epochs=1, lr=0.5), tmp_path / "run", seed=1, resume=True)


def test_a_loss_that_is_not_finite_stops_with_what_was_kept(tmp_path: Path) -> None:
    used = tiny(epochs=5, lr=1e38, clip=1e30)
    with pytest.raises(UserError, match=r"training: the loss is (nan|inf) at step \d+ of 15 \(epoch 1\)"):
        train(CELL, bars(), used, tmp_path / "first")
    assert not (tmp_path / "first" / "last").exists()
    train(CELL, bars(), tiny(epochs=2), tmp_path / "run")
    kept = weights(tmp_path / "run")
    network = open_model(str(tmp_path / "run" / "last")).module
    with torch.no_grad():
        next(iter(network.parameters())).fill_(3e38)

    class Kept:
        calls = 0

        def restore(self) -> None:
            return None

        def keep(self, *arguments: object) -> None:
            self.calls += 1

    keeper = Kept()
    with pytest.raises(UserError, match=r"training: .* at step 1 of 15 \(epoch 1\); the state stored after"):
        fit(network.requires_grad_(), bars(), bars(9), tiny(epochs=5), keeper=keeper)
    assert keeper.calls == 0
    assert same(weights(tmp_path / "run"), kept)


def test_auxiliary_head_and_label_smoothing_are_in_the_loss() -> None:
    """Before its first step: the loss of one batch as its definition has it."""
    data = bars(16, 32, 3)
    used = recipe(
        "standard",
        changes=TINY
        | {"epochs": 1, "batch": 16, "drop_path": 0.5, "auxiliary": 0.4, "label_smoothing": 0.1}
        | {"augmentation": {"crop": 0, "flip": False, "cutout": 0}},
    )
    network = DiscreteNetwork(CELL, 2, 3, 3, auxiliary=True)
    twin = DiscreteNetwork(CELL, 2, 3, 3, auxiliary=True).train()
    twin.load_state_dict(network.state_dict())
    losses: list[float] = []
    fit(network, data, data, used, progress=lambda p: losses.append(p.figures["loss"]))
    logits, auxiliary = twin.with_auxiliary(data.x)
    first, second = (
        functional.cross_entropy(out, data.y, label_smoothing=0.1) for out in (logits, auxiliary)
    )
    assert losses == [pytest.approx((first + 0.4 * second).item(), rel=1e-4)]


def test_a_network_without_cells_trains_but_takes_no_drop_path() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    fit(linear, bars(), bars(), tiny(epochs=15))
    assert not linear.training
    assert (linear(bars().x).argmax(1) == bars().y).double().mean() > 0.8
    with pytest.raises(UserError, match="training: a Sequential has neither drop-path nor an auxiliary head"):
        fit(linear, bars(), bars(), tiny(drop_path=0.2))


@pytest.mark.parametrize("name", ["ibp", "crown-ibp"])
def test_a_certified_loss_without_radius_is_the_cross_entropy_of_the_batch(name: str) -> None:
    """Bound and network see the same batch norm: that of the clean batch."""
    used = tiny(name, objective={"eps": 1e-12, "kappa": 0.0, "warmup": [0.0, 1e-9]})
    network, data = DiscreteNetwork(CELL, 2, 2, 3, in_channels=1), bars(16)
    aim = used.objective.on(network, data.x)
    network.train()

    def cross_entropy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(network(x), y)

    loss = aim.loss(data.x, data.y, cross_entropy, 1.0, data.x)
    torch.testing.assert_close(loss, cross_entropy(data.x, data.y), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_certified_training_certifies(tmp_path: Path) -> None:
    """Far above standard training, whose interval bounds prove nothing."""
    changes = {"epochs": 30, "lr": 0.01, "objective": {"eps": 0.05}, "channels": 4}
    certified = train(CELL, bars(120), tiny("crown-ibp", **changes), tmp_path / "certified")
    plain = train(
        CELL, bars(120), tiny(epochs=30, lr=0.01, optimizer="adamw", channels=4), tmp_path / "plain"
    )
    assert certified.best_figures["validation_certified_accuracy"] >= 0.6
    network = open_model(str(plain.last)).module
    held = held_out(bars(120), 0.1, 0)[1]
    aim = tiny("crown-ibp", objective={"eps": 0.05}).objective.on(network, held.x)
    assert aim.correct(held.x, held.y).double().mean() < 0.3


def test_augmentation_is_drawn_per_batch_and_reproducible() -> None:
    draws = [random.integers(1000, size=3) for _, random in batches(40, 10, 0, 0)]
    again = [random.integers(1000, size=3) for _, random in batches(40, 10, 0, 0)]
    assert np.array_equal(draws, again)
    assert len({tuple(draw) for draw in draws}) == 4
