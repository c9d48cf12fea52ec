"""The evidence protocol: statistics against closed forms, what counts as supported, resumption, one tiny run."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from certnas.nas.space import DARTS, Supernet, parse_genotype, random_genotype

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.evidence import work
from benchmarks.evidence.figures import Arm, Comparison, Difference, compare, difference, estimate, kendall
from benchmarks.evidence.gathering import arms_of, rankings, step_costs, unsound
from benchmarks.evidence.networks import Cell, cells, needs, network, parameters, search_key, width
from benchmarks.evidence.plan import FAILED, Unit, run, units
from benchmarks.evidence.presets import DEFAULT_ARMS, PRESETS, RECIPES, search_config
from benchmarks.evidence.report import report, summary, verdict
from benchmarks.record import Record

TINY = replace(
    PRESETS["quick"],
    seeds=1,
    cells=1,
    nodes=1,
    images=128,
    certified=1,
    tested=12,
    epochs={"standard": 1, "crown-ibp": 1},
)


def test_a_mean_and_its_standard_error() -> None:
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert found.mean == 3.0
    assert found.error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert estimate([5.0]).mean == 5.0 and math.isnan(estimate([5.0]).error)
    assert estimate([]).text(2) == "–"


def test_paired_differences_are_of_equal_numbers() -> None:
    a, b = {0: 1.0, 1: 5.0, 2: 9.0, 7: 100.0}, {2: 6.0, 1: 3.0, 0: 2.0}
    found = difference(a, b, paired=True)
    oracle = stats.ttest_rel([1.0, 5.0, 9.0], [2.0, 3.0, 6.0])
    assert (found.mean, found.larger, found.count) == (pytest.approx(4 / 3), 2, 3)
    assert found.mean / found.error == pytest.approx(oracle.statistic)
    assert found.p == pytest.approx(oracle.pvalue)


def test_unpaired_differences_are_welchs() -> None:
    a, b = [1.0, 5.0, 9.0], [2.0, 3.0, 6.0, 2.5]
    found = difference(dict(enumerate(a)), dict(enumerate(b)), paired=False)
    oracle = stats.ttest_ind(a, b, equal_var=False)
    assert found.mean / found.error == pytest.approx(oracle.statistic)
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.count == 0


def arm(name: str, radius: list[float], accuracy: float, size: float) -> Arm:
    numbers = range(len(radius))
    return Arm(
        name,
        dict.fromkeys(numbers, accuracy),
        dict.fromkeys(numbers, accuracy),
        {"linf": dict(enumerate(radius))},
        dict.fromkeys(numbers, size),
    )


@pytest.mark.parametrize(
    ("radius", "accuracy", "size", "supported", "why"),
    [
        ([0.3, 0.4, 0.35], 0.945, 80, True, "larger certified radii"),
        ([0.3, 0.4, 0.35], 0.93, 80, False, "2.0 points lower"),
        ([0.3, 0.4, 0.35], 0.95, 70, False, "0.70 times the parameters"),
        ([0.3, -0.4, 0.35], 0.95, 100, False, "not larger beyond"),
        ([0.1, 0.1, 0.1], 0.95, 100, False, "not larger beyond"),
    ],
)
def test_what_is_supported(
    radius: list[float], accuracy: float, size: float, supported: bool, why: str
) -> None:
    found = compare(
        arm("cb", radius, accuracy, size), arm("none", [0.1, 0.1, 0.1], 0.95, 100), "linf", paired=True
    )
    assert found.supported is supported
    assert why in verdict(found)


def test_a_difference_of_unknown_error_supports_nothing() -> None:
    alone = difference({0: 2.0}, {0: 1.0}, paired=True)
    assert not alone.beyond
    assert not Comparison("a", "b", "l2", Difference(1.0, math.nan, math.nan), 0.0, 1.0).supported


def test_kendall_counts_pairs() -> None:
    assert kendall([1, 2, 3, 4], [10, 20, 40, 30])[0] == pytest.approx((5 - 1) / 6)
    assert math.isnan(kendall([1], [2])[0])


def test_every_arm_has_its_networks() -> None:
    preset = PRESETS["digits"]
    planned = cells(preset, DEFAULT_ARMS)
    counts = {name: sum(cell.arm == name for cell in planned) for name in {cell.arm for cell in planned}}
    five = (*DEFAULT_ARMS, "parameter-free", "none-as-cb")
    assert counts == dict.fromkeys(five, 5) | {"random": 10, "random-as-cb": 10}
    assert needs(preset, Cell("none-as-cb", 3)) == ("search | none | 3", "search | cb | 3")
    assert needs(preset, Cell("random", 3)) == ()
    assert len(needs(preset, Cell("random-as-cb", 3))) == preset.seeds


def test_a_second_run_has_no_seed_cell_or_test_image_order_of_the_first() -> None:
    first, again = PRESETS["digits"], PRESETS["digits-again"]
    seeds, others = ({cell.key for cell in cells(preset, DEFAULT_ARMS)} for preset in (first, again))
    assert len(seeds) == len(others) and not seeds & others
    assert len(set(needs(again, Cell("random-as-cb", 103))) - set(needs(first, Cell("random-as-cb", 3)))) == 5
    mine, theirs = (work.test_images(preset)[1].index.tolist() for preset in (first, again))
    assert len(set(mine) & set(theirs)) < len(mine) / 4


def test_cells_of_equal_size_have_nearly_equal_parameters() -> None:
    preset = PRESETS["digits"]
    generator = torch.Generator().manual_seed(1)
    none, cb = (random_genotype(DARTS, generator, nodes=preset.nodes) for _ in range(2))
    entries = {
        search_key(name, 0): {"genotype": genotype.record()}
        for name, genotype in (("none", none), ("cb", cb))
    }
    genotype, channels = network(preset, Cell("none-as-cb", 0), entries)
    assert genotype == none
    ratio = parameters(preset, none, channels) / parameters(preset, cb, preset.channels)
    assert ratio == pytest.approx(1, abs=0.25)
    assert network(preset, Cell("none", 0), entries) == (none, preset.channels)
    assert width(50, lambda channels: channels**2) == 7


def test_a_cell_put_into_a_supernet_is_all_that_counts() -> None:
    supernet = Supernet(4, 3, 10, nodes=2, in_channels=1).eval()
    cell = random_genotype(DARTS, torch.Generator().manual_seed(3), nodes=2)
    work.put(supernet, cell)
    assert {*supernet.genotype().normal} == {*cell.normal}
    assert {*supernet.genotype().reduce} == {*cell.reduce}
    x = torch.rand(2, 1, 8, 8)
    before = supernet(x)
    chosen = {(op, state) for op, state in (*cell.normal, *cell.reduce)}
    for mixed in supernet.cells:
        for edge, at in zip(mixed.edges, (0, 1, 0, 1, 2), strict=True):
            for op, module in zip(edge.operators, edge.ops, strict=True):
                if (op, at) not in chosen:
                    for parameter in module.parameters():
                        torch.nn.init.normal_(parameter)
    assert torch.equal(supernet(x), before)


def test_the_step_of_curvature_is_the_same_in_each_pixel() -> None:
    assert search_config(PRESETS["mnist"], "curvature", 0).metric.options["h"] == pytest.approx(
        1.7 / 255 * 14
    )


def ready() -> dict[str, Any]:
    return {"value": 1}


def test_what_waits_for_a_failure_fails(tmp_path: Path) -> None:
    record = Record.open(tmp_path, "evidence", {})
    record.once("search | cb | 0", lambda: {FAILED: "the loss is nan"})
    told: list[str] = []
    run(
        record,
        [Unit("train | cb | 0", ("search | cb | 0",), ready, lambda _: ())],
        1,
        lambda key, _: told.append(key),
    )
    assert told == ["train | cb | 0"]
    assert record.entries["train | cb | 0"][FAILED] == "search | cb | 0"


@pytest.mark.slow
def test_a_tiny_run_and_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.evidence.work.DRAWN", 3)
    arms = ("none", "cb", "cb-batch-picked")
    record = Record.open(tmp_path, "evidence", {})
    planned = units(TINY, arms, tmp_path)
    waiting = list(planned)
    while waiting:
        unit = next(u for u in waiting if set(u.needs) <= set(record.entries))
        waiting.remove(unit)
        record.once(unit.key, lambda unit=unit: unit.work(*unit.arguments(record.entries)))  # type: ignore[misc]
    entries = record.entries
    assert set(entries) == {unit.key for unit in planned}
    for recipe in RECIPES:
        found = arms_of(TINY, arms, entries, recipe)
        assert all(len(one.accuracy) == 1 for one in found.values())
        assert unsound(TINY, arms, entries, recipe) == 0
        assert [one.predictor for one in rankings(TINY, arms, entries, recipe, "l2")] == [
            "fewer parameters",
            "cb",
        ]
    assert step_costs(TINY, arms, entries)["none"].mean == 1
    picked = entries["search | cb-batch-picked | 0"]
    assert len(set(picked["values"])) == 3 and parse_genotype(picked["genotype"], "picked")
    text = report(TINY, "tiny", arms, entries)
    assert "cb against none-as-cb is not supported" in text
    assert summary(TINY, arms, entries)["standard"]["comparisons"][0]["supported"] is False
    run(record, planned, 1, lambda key, _: pytest.fail(f"{key} was made again"))
