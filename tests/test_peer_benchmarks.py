"""The benchmarks against auto_LiRPA, on networks of a few units, and the guard: what they compute and report."""

import json
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table
from torch import nn

import bounds

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import alpha, bound_call, guard
from benchmarks.record import Record
from benchmarks.seeded import SEEDED, convolutions
from certnas.crosscheck import Converted

PNG = b"\x89PNG"


def tiny(groups: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, 2, padding=1, groups=groups),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def shown(*tables: Table) -> str:
    console = Console(width=250, record=True, file=StringIO())
    for table in tables:
        console.print(table)
    return console.export_text()


def test_a_call_is_compared_with_each_mode_and_the_faster_one_counts(tmp_path: Path) -> None:
    record = Record.open(tmp_path, "bound_call", {"auto_LiRPA": "0.3"})
    work = (tiny(), images(1), torch.tensor([3]), 0.05, ("patches", "matrix"), 2)
    entry = record.once("conv2, seeded | batch 1", lambda: bound_call.compare(*work))
    assert entry["runs"] >= 2 and not entry["unusable"]
    for mode in ("patches", "matrix"):
        exact = entry["against"][f"crown, intersect=False / {mode}"]
        assert max(exact["above"], exact["below"]) < 1e-5
        ratio = entry["cpu_seconds"]["crown"] / entry["cpu_seconds"][f"auto_LiRPA {mode}"]
        assert entry["against"][f"crown / {mode}"]["cpu"] == pytest.approx(ratio, rel=1)
    entry["cpu_seconds"]["auto_LiRPA matrix"] = 1e-9
    fastest = bound_call.best(entry)
    assert fastest == ("matrix", entry["against"]["crown / matrix"])
    assert shown(bound_call.table(record)).count("*") == 2  # one row, and the title
    assert bound_call.picture(record).startswith(PNG)


def test_what_auto_lirpa_refuses_is_recorded_as_it_says(tmp_path: Path) -> None:
    record = Record.open(tmp_path, "bound_call", {"auto_LiRPA": "0.3"})
    work = (tiny(groups=4), images(1), torch.tensor([3]), 0.05, ("patches",), 1)
    entry = record.once("conv2, seeded | batch 1", lambda: bound_call.compare(*work))
    assert "ignores the groups" in entry["unusable"]["patches"] and bound_call.best(entry) is None
    assert "ignores the groups" in shown(bound_call.table(record))
    assert bound_call.picture(record).startswith(PNG)


def test_images_one_by_one_have_the_bounds_of_each_alone() -> None:
    model, x, y = tiny(), images(16), torch.arange(16) % 10
    entry = bound_call.compare(model, x, y, 0.05, ("patches one by one",), 1)
    ours = bounds.lower_bounds(
        bounds.trace(model, x[:1]).bind(),
        bounds.Linf(x, 0.05),
        bounds.margins(y, 10),
        bounds.Crown(intersect=False),
    )
    both, _, _ = bound_call.theirs(
        Converted(model, x[:1], "linf", conv_mode="patches"), 1, x, bounds.margins(y, 10), 0.05
    )
    torch.testing.assert_close(both[:, :9], ours, rtol=1e-5, atol=1e-5)
    assert list(entry["against"]) == ["crown / patches one by one"]


def test_seeded_networks_are_the_same_each_time() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert set(SEEDED) <= set(bound_call.EPS)
    for build in SEEDED.values():
        with torch.no_grad():
            assert torch.equal(build()(x), build()(x))
    shape = [
        module.weight.shape[0] for module in convolutions((4, 3, 1), (6, 4, 2)) if hasattr(module, "weight")
    ]
    assert shape == [4, 6, 100, 10]


def test_curves_start_at_crown_and_rise_on_both_sides() -> None:
    model, x, rows = tiny(), images(1), bounds.margins(torch.tensor([3]), 10)
    sides = {
        alpha.OURS: alpha.ours(bounds.trace(model, x).bind(), x, rows, 0.1),
        alpha.THEIRS: alpha.theirs(Converted(model, x, "linf", conv_mode="patches"), x, rows, 0.1),
    }
    for run in sides.values():
        found = [float(run(budget, 0.5)[0].mean()) for budget in (0, 1, 5, 20)]
        assert found == sorted(found) and found[-1] > found[0] + 1e-3


def test_our_bound_at_each_of_their_times() -> None:
    found = {
        "certnas, step 0.1": [(1.0, 5.0), (4.0, 8.0)],
        "certnas, step 0.5": [(2.0, 4.0), (3.0, 7.0)],
        "auto_LiRPA, step 0.1": [(0.5, 4.5), (2.5, 6.0), (5.0, 8.00001)],
    }
    who = "auto_LiRPA, step 0.1"
    expected = [(who, 0.5, 4.5, -torch.inf), (who, 2.5, 6.0, 5.0), (who, 5.0, 8.00001, 8.0)]
    assert alpha.at_their_times(found) == expected
    assert [alpha.behind(bound, own) for _, _, bound, own in expected] == [True, True, False]


def test_the_record_of_alpha_is_shown_as_means_over_images(tmp_path: Path) -> None:
    record = Record.open(tmp_path, "alpha", {"budgets": [0, 5]})
    for place, bound in enumerate((1.0, 3.0)):
        points = {
            name: {budget: {"bound": bound * k, "cpu_seconds": k} for budget, k in (("0", 1.0), ("5", 2.0))}
            for name in ("certnas, step 0.5", "auto_LiRPA, step 0.5")
        }
        record.once(f"mnist_cnn_small | image {place}", lambda points=points: {"points": points})
    assert alpha.curves(record, "mnist_cnn_small")["certnas, step 0.5"] == [(1.0, 2.0), (2.0, 4.0)]
    text = shown(*alpha.tables(record, ["mnist_cnn_small"]))
    assert "4.0000 (2.000)" in text and "+0.000" in text
    assert alpha.picture(record, ["mnist_cnn_small"]).startswith(PNG)


def test_the_guard_reports_what_became_slower_and_never_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against stored ratios, one of which says that the job took a hundredth of what it takes."""
    work = {name: guard.jobs()[name] for name in ("ibp, convolutions", "crown-ibp, convolutions")}
    monkeypatch.setattr(guard, "jobs", lambda: work)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    options = ["--out", str(tmp_path), "--quick", "--factor", "10"]

    def run(*more: str) -> str:
        result = CliRunner().invoke(guard.main, [*options, *more], catch_exceptions=False)
        assert result.exit_code == 0
        return " ".join(result.output.split())

    assert "nothing is stored for" in run()
    assert "stored for" in run("--store")
    assert "none is slower by more than 10" in run()
    stored = json.loads((tmp_path / "guard.json").read_text())
    (own,) = stored["entries"]
    assert set(stored["entries"][own]["ratios"]) == set(work)
    stored["entries"][own]["ratios"]["ibp, convolutions"] /= 100
    stored["entries"]["another machine"] = {"ratios": {"ibp, convolutions": 1.0}}
    (tmp_path / "guard.json").write_text(json.dumps(stored))
    assert "slower by more than 10: ibp, convolutions" in run()
    run("--store")
    assert set(json.loads((tmp_path / "guard.json").read_text())["entries"]) == {own, "another machine"}


def test_a_ratio_is_the_jobs_time_over_the_plain_computation_beside_it() -> None:
    plain = guard.plain()
    found = guard.ratios({"same": plain, "thrice": lambda: [plain() for _ in range(3)]}, turns=5, least=0.01)
    assert 0.5 < found["same"] < 2
    assert 1.5 < found["thrice"] < 6
