"""`auto`: what it chooses for which budget, that it climbs where that pays, and that what it proves holds."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import bounds
import certnas
from certnas.certifier.certification import batches, certification
from certnas.certifier.planning import LADDER, MethodPlan, plan, predicted
from certnas.data import load
from certnas.errors import UserError
from certnas.models import open_model
from cli.main import main


@pytest.fixture(scope="module")
def network() -> bounds.Network:
    return bounds.trace(open_model("digits-cnn").module, torch.zeros(1, 1, 8, 8)).bind()


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).eval()
    x = torch.rand(6, 1, 6, 6)
    return model, x, model(x).argmax(1)


def test_the_tightest_affordable_method_is_taken(network: bounds.Network) -> None:
    costs = bounds.estimates(network, 9)
    seconds = [predicted(costs[name]) for name in LADDER]
    assert seconds == sorted(seconds, reverse=True)
    for name, time in zip(LADDER, seconds, strict=True):
        assert plan(network, seconds=time * 1.01).method == bounds.METHODS[name]
    assert plan(network, seconds=1e-9).method == bounds.METHODS[LADDER[-1]]
    assert "there is no cheaper method" in plan(network, seconds=1e-9).why[0]


def test_what_is_left_goes_to_slopes(network: bounds.Network) -> None:
    assert plan(network, seconds=predicted(bounds.estimates(network, 9)["crown"]) * 1.01).then == ()
    (method,) = plan(network, seconds=1e6).then
    assert isinstance(method, bounds.AlphaCrown) and method.iterations == bounds.AlphaCrown().iterations


def test_memory_rules_a_method_out(network: bounds.Network) -> None:
    costs = bounds.estimates(network, 9)
    chosen = plan(network, seconds=1e6, memory=int(costs["crown"].memory) - 1)
    assert chosen.method == bounds.METHODS["crown-ibp"]
    assert any("not crown" in line and "GiB" in line for line in chosen.why)


def test_images_left_wide_are_proved_by_the_tighter_method() -> None:
    model, x, y = small()
    job = certification(model, x, y, attack=False)
    loose = replace(job, request=replace(job.request, method=bounds.IBP()))
    climbing = replace(loose, request=replace(loose.request, then=(bounds.Crown(),)))
    (batch,) = batches(x, y, list(range(6)), 16)
    alone = [j.open(0)(batch, lambda _: None) for j in (loose, job, climbing)]
    ibp, crown, both = (found.radius_lower for found in alone)
    assert (crown > ibp * 1.05).all()
    np.testing.assert_allclose(both, crown, rtol=2e-3)
    assert set(alone[2].proved_by) == {"crown"} and alone[2].method == "ibp, then crown"
    assert (alone[2].evaluations > alone[0].evaluations).all()


def test_images_that_are_narrow_stay_with_the_first_method() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()  # affine: interval arithmetic is exact
    x = torch.rand(5, 1, 2, 2)
    y = model(x).argmax(1)
    job = certification(model, x, y)
    climbing = replace(job, request=replace(job.request, method=bounds.IBP(), then=(bounds.Crown(),)))
    found = climbing.open(0)(batches(x, y, list(range(5)), 16)[0], lambda _: None)
    assert set(found.proved_by) == {"ibp"}


def test_auto_proves_at_least_as_much_as_crown() -> None:
    digits = load("digits", count=4)
    model = open_model("digits-cnn").module
    crown, auto = (
        certnas.certify(model, digits.x, digits.y, method=method, seed=0, tol=1e-2)
        for method in ("crown", "auto")
    )
    assert (auto.radius_lower >= crown.radius_lower * 0.99).all()
    assert (auto.radius_lower <= auto.radius_upper).all()
    assert set(auto.proved_by) <= {"crown", "alpha-crown"}


def test_settings_that_auto_does_not_take() -> None:
    model, x, y = small()
    with pytest.raises(UserError, match="only method auto chooses by it"):
        certification(model, x, y, method="crown", time_per_image=1.0)
    with pytest.raises(UserError, match="time per image is 0; accepted: more than 0 seconds"):
        certification(model, x, y, method="auto", time_per_image=0.0)
    run = CliRunner().invoke(main, ["certify", "--method", "auto", "--iterations", "3"])
    assert run.exit_code == 2 and "--iterations is not a setting of method auto" in run.output


def test_the_command_says_what_was_chosen_and_continues_it(tmp_path) -> None:
    asked = ["certify", "--method", "auto", "--time-per-image", "0.001", "--images", "2", "--no-attack"]
    run = CliRunner().invoke(main, [*asked, "--out", str(tmp_path / "r"), "--at", "0.1"])
    assert run.exit_code == 0, run.output
    assert "auto: " in run.output and "not crown, predicted" in run.output
    again = CliRunner().invoke(
        main, [*asked[:3], "--time-per-image", "5", *asked[5:], "--out", str(tmp_path / "r"), "--resume"]
    )
    assert again.exit_code == 2 and "auto" in again.output
    with (tmp_path / "r" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(row["method"] in LADDER for row in rows)


def test_a_plan_of_one_method_explains_nothing() -> None:
    assert MethodPlan(bounds.Crown()).why == () and MethodPlan(bounds.Crown()).then == ()
