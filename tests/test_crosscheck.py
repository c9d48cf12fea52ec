"""certnas and auto_LiRPA side by side: what is reported, what fails, what is auto_LiRPA's own known mistake."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from lirpa_networks import CASES, images, on_stem, ready
from torch import Tensor, nn

import bounds
from certnas.crosscheck import Comparison, compare, comparison, lirpa_version
from certnas.data import load
from certnas.errors import UserError
from certnas.models import open_model
from cli.main import main


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["mlp", "batch norm", "sep_conv_3x3", "max pool"])
def test_sound_networks_compare_without_failure(name: str, norm: str) -> None:
    found = compare(ready(CASES[name].build), images(), 0.01 if norm == "linf" else 0.1, norm)
    assert [one.method for one in found] == ["ibp", "crown-ibp", "crown"]
    for one in found:
        assert one.failures() == [] and not one.known and not one.unusable
        assert one.clean < 1e-12 and one.our_violations == one.their_violations == 0
        assert one.looser < 1e-6 and one.tighter == ("equal" if abs(one.looser) <= 1e-6 else "certnas")
        assert one.our_seconds > 0 and one.their_seconds > 0


def test_a_known_mistake_of_auto_lirpa_is_named_and_blamed_on_nobody() -> None:
    (crown,) = compare(ready(CASES["normalised"].build), images(), 0.5, "l2", methods=["ibp"])
    assert "l2 ball gets width 0" in crown.known
    assert crown.their_violations > 0 and crown.our_violations == 0
    assert crown.failures() == [] and crown.tighter == "not compared"
    model = ready(lambda: on_stem(nn.ReLU(), nn.AvgPool2d(2, 2, 1, count_include_pad=False)))
    for one in compare(model, images(), 0.01):
        assert "count_include_pad=False" in one.known and one.failures() == [] and one.our_violations == 0


def test_a_network_that_auto_lirpa_cannot_bound_is_reported() -> None:
    model = ready(lambda: on_stem(nn.ReLU(), nn.MaxPool2d(3, 1, 1)))
    found = compare(model, images(), 0.01, methods=["crown"])
    assert "CROWN failed" in found[0].unusable and found[0].tighter == "not compared"
    assert found[0].failures() == []


class Tight(bounds.Method):
    """Bounds whose centre is right and whose width is a tenth of what it should be."""

    def lower(self, state, coef: Tensor) -> Tensor:
        both = state.lower_bounds_by_intervals(coef), -state.lower_bounds_by_intervals(-coef)
        return sum(both) / 2 - 0.05 * (both[1] - both[0])


def test_unsound_bounds_of_ours_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(comparison.METHODS, "ibp", (Tight(), "IBP"))
    (one,) = compare(ready(CASES["mlp"].build), images(), 0.01, methods=["ibp"])
    assert one.our_violations > 0 and one.our_beyond > 0
    assert "certnas is unsound" in one.failures()[0]


def test_looser_bounds_of_ours_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(comparison.METHODS, "crown", (bounds.IBP(), "CROWN"))
    (one,) = compare(ready(CASES["cnn"].build), images(), 0.01, methods=["crown"])
    assert one.tighter == "auto_LiRPA" and "certnas is looser" in one.failures()[0]
    assert one.failures(tolerance=1e3) == []


def test_failures_of_either_side() -> None:
    one = Comparison("crown", "linf", 0.1, clean=0.0, looser=0.0)
    assert one.failures() == []
    assert "auto_LiRPA is unsound" in replace(one, their_violations=1).failures()[0]
    assert replace(one, their_violations=1, known="a reason").failures() == []
    assert "away from the model" in replace(one, clean=1e-3).failures()[0]
    assert replace(one, looser=float("nan")).failures() != []


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="'zonotope' cannot be compared; accepted: ibp, crown-ibp, crown"):
        compare(ready(CASES["mlp"].build), images(), 0.01, methods=["zonotope"])


# The command.


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["crosscheck", *arguments])
    return result.exit_code, result.output


def test_crosscheck_prints_and_writes_the_comparison(tmp_path: Path) -> None:
    out = tmp_path / "cross.json"
    code, output = run("digits-cnn", "--images", "2", "--eps", "2/255,0.02", "--out", str(out))
    assert code == 0, output
    assert "clean outputs agree to" in output
    record = json.loads(out.read_text())
    assert [one["method"] for one in record["comparisons"]] == ["ibp", "crown-ibp", "crown"] * 2
    assert record["failures"] == [] and record["versions"]["auto_LiRPA"] == lirpa_version()
    assert all(one["tighter"] in ("equal", "certnas", "auto_LiRPA") for one in record["comparisons"])


def test_crosscheck_ends_with_1_where_certnas_is_looser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(comparison.METHODS, "crown", (bounds.IBP(), "CROWN"))
    code, output = run("digits-cnn", "--images", "1", "--methods", "crown")
    assert code == 1 and "certnas is looser" in output


def test_crosscheck_says_what_is_known() -> None:
    code, output = run("digits-cell", "--images", "1", "--methods", "ibp,crown")
    assert code == 0, output
    assert "known to be wrong" in output or "has no bounds" in output


def test_crosscheck_leaves_the_random_state_alone() -> None:
    model = ready(CASES["mlp"].build)
    state = torch.get_rng_state()
    compare(model, images(), 0.01, methods=["ibp"])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.slow
def test_parts_joined_are_the_whole(tmp_path: Path) -> None:
    """Six images in two parts, on one process and on two; against one batch of all."""
    for name, workers in (("one", "1"), ("two", "2")):
        options = (
            "--images",
            "6",
            "--methods",
            "ibp,crown",
            "--eps",
            "0.01,0.02",
            "--threads",
            "1",
            "--samples",
            "3",
        )
        line = ["crosscheck", "digits-cnn", *options, "--workers", workers, "--out", str(tmp_path / name)]
        assert CliRunner().invoke(main, line).exit_code == 0
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert [(c["eps"], c["method"], c["images"]) for c in one["comparisons"]] == [
        (eps, method, 6) for eps in (0.01, 0.02) for method in ("ibp", "crown")
    ]
    for record in (one, two):
        for figures in record["comparisons"]:
            del figures["our_seconds"], figures["their_seconds"]
    assert one == two
    data = load("digits", count=6, seed=0)
    whole = compare(open_model("digits-cnn").module, data.x, 0.02, methods=["ibp", "crown"])
    for figures, comparison_ in zip(one["comparisons"][2:], whole, strict=True):
        for name in ("looser", "worst", "relative", "absolute"):
            assert figures[name] == pytest.approx(getattr(comparison_, name), rel=1e-6, abs=1e-12)
