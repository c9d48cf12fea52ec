"""The soundness benchmark: no violation on a few networks, every operator has a generator, a broken rule is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import bounds
from benchmarks.soundness.__main__ import main
from benchmarks.soundness.draw import Draw
from benchmarks.soundness.lines import LINES, Lines
from benchmarks.soundness.networks import network
from benchmarks.soundness.operators import by_default, every_generator
from benchmarks.soundness.report import figures
from benchmarks.soundness.trial import run
from bounds.operators import RULES, Affine, Nonlinear
from bounds.relaxation import Plane, Relaxation
from certnas.errors import UserError

aten = torch.ops.aten


def seeds_of(operator: str, count: int) -> list[int]:
    """The first seeds whose networks are drawn for an operator."""
    names = sorted(every_generator()[0])
    start, step = names.index(operator), len(names)
    found = [start + step * i for i in range(2 * count)]
    return [seed for seed in found if seed % 12][:count]


def violations(seeds: list[int]) -> int:
    return sum(trial["outcome"] == "violation" for seed in seeds for trial in run(seed)["trials"])


def test_every_registered_operator_is_drawn() -> None:
    """Each generator makes a network that holds its operator, so that a new one cannot be forgotten in silence."""
    generators, missing = every_generator()
    assert missing == []
    for name, generator in generators.items():
        words = [" ".join(network(Draw(seed), name, generators).model.words) for seed in range(6)]
        assert any(f" {name}[" in text for text in words), (name, generator.dims)


def test_an_operator_of_one_tensor_needs_no_generator_of_its_own() -> None:
    assert by_default(aten.sign.default) is not None
    assert by_default(aten.add.Tensor) is None


@pytest.mark.slow
def test_no_point_leaves_a_bound_on_some_networks() -> None:
    found = figures(
        [run(seed) for seed in (*seeds_of("relu.default", 6), *seeds_of("linear.default", 6), 12)], []
    )
    assert found["violations"] == [] and found["crashes"] == {}
    assert found["outcomes"]["sound"] > 40 and found["points"] > 1300
    assert found["compared with exact minima"] == 6


def wrong_chord(patch: pytest.MonkeyPatch) -> None:
    rule = RULES[aten.relu.default]
    assert isinstance(rule, Nonlinear)

    def relax(*arguments: object) -> Relaxation:
        planes = rule.relax(*arguments)
        return Relaxation(planes.lower, Plane(planes.upper.map, 0.9 * planes.upper.bias))

    patch.setitem(RULES, aten.relu.default, replace(rule, relax=relax))


def no_bias(patch: pytest.MonkeyPatch) -> None:
    rule = RULES[aten.linear.default]
    assert isinstance(rule, Affine)
    patch.setitem(RULES, aten.linear.default, replace(rule, bias=lambda call: None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "break_it"), [("relu.default", wrong_chord), ("linear.default", no_bias)]
)
def test_a_broken_rule_is_found(
    operator: str, break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = seeds_of(operator, 8)
    assert violations(seeds) == 0
    break_it(monkeypatch)
    assert violations(seeds) > 0


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_and_says_what_it_found(tmp_path: Path) -> None:
    words = ["--count", "4", "--seed", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, words).exit_code == 0
    whole = json.loads((tmp_path / "soundness.json").read_text())
    assert whole["networks"] == 4
    kept = (tmp_path / LINES).read_bytes()
    (tmp_path / LINES).write_bytes(kept[: len(kept) - 30])
    assert "--resume" in CliRunner().invoke(main, words).output
    assert CliRunner().invoke(main, [*words, "--resume"]).exit_code == 0
    again = json.loads((tmp_path / "soundness.json").read_text())
    assert (again["networks"], again["points"]) == (4, whole["points"])
    with pytest.raises(UserError, match="other count"):
        Lines(tmp_path, {"count": 5, "seed": 1, "operators": []}, resume=True)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", list(bounds.METHODS))
def test_the_bias_of_a_linear_layer_on_images_of_three_axes(norm: str, method: str) -> None:
    """Every line of the image has the bias, not the first alone."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Flatten()).double()
    x = torch.rand(1, 2, 5, 3).double()
    net = bounds.trace(model, x).bind()
    found = bounds.output_bounds(net, bounds.NORMS[norm](x, 1e-9), bounds.METHODS[method]).detach()
    value = model(x).detach()
    assert float((found.lower - value).abs().max()) < 1e-7
    assert float((found.upper - value).abs().max()) < 1e-7
