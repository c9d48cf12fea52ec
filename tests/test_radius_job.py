"""The benchmark of radii: its bisection, its peer, and how costs and radii are set against each other."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lirpa_networks import CASES, images, ready
from torch import Tensor

import bounds
from certnas.crosscheck import auto_lirpa

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.radius_job import TOL, Job, bisect, compared
from benchmarks.record import Record

ROOT = torch.tensor([3e-4, 0.01, 0.02, 0.7, 11.0], dtype=torch.float64)


def test_bisection_finds_every_root_from_below_and_lets_finished_images_go() -> None:
    asked: list[int] = []

    def margin(eps: Tensor, image: Tensor) -> Tensor:
        asked.append(len(image))
        return ROOT[image] - eps

    found = bisect(margin, len(ROOT), 0.01)
    assert bool((found < ROOT).all() and (found > ROOT * (1 - TOL)).all())
    assert asked[0] == len(ROOT) and asked[-1] < len(ROOT)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_both_sides_come_to_the_same_radii(norm: str, tmp_path: Path) -> None:
    """A network of one hidden layer, where the two sides' bounds are equal."""
    model, x = ready(CASES["mlp"].build).float(), images(3).float()
    model = torch.nn.Sequential(*list(model)[:3], torch.nn.Linear(20, 10)).eval()
    with torch.no_grad():
        job = Job("mnist_fc_3layer", norm, model, x, model(x).argmax(1))
    record = Record.open(tmp_path, "radius_job", {})
    job.run(record, 0)
    for contestant in ("batched", "one by one"):
        found = compared(record, job.name, norm, contestant)
        assert found is not None and found["images"] == 3
        assert found["radius_min"] > 1 - 1.5 * TOL and found["radius_median"] < 1 + 1.5 * TOL
    before = record.path.read_bytes()
    job.run(record, 0)
    assert record.path.read_bytes() == before, "what is finished is not done again"


def test_costs_are_compared_for_an_image_round_by_round() -> None:
    def entry(radius: list[float], seconds: float) -> dict[str, Any]:
        return {"radius": radius, "seconds": 2 * seconds, "cpu_seconds": seconds, "calls": 12}

    record = Record(Path("unused"), "radius_job", {})
    for place, (ours, theirs) in enumerate([(4.0, 8.0), (2.0, 8.0), (1.0, 9.0)]):
        record.entries[f"n | linf | ours | {place}"] = entry([1.0, 2.0, 3.0, 4.0], ours)
        record.entries[f"n | linf | one by one | {place}"] = entry([1.0, 1.0], theirs)
    found = compared(record, "n", "linf", "one by one")
    assert found is not None
    assert (found["least"], found["cpu"], found["most"], found["wall"]) == (4.0, 8.0, 18.0, 8.0)
    assert (found["images"], found["radius_min"], found["radius_median"]) == (2, 1.0, 1.5)
    assert compared(record, "n", "linf", "batched") is None
    record.entries["n | linf | batched | 0"] = {"unusable": "why"}
    assert compared(record, "n", "linf", "batched") is None


def test_the_margins_of_the_peer_are_those_of_separate_calls() -> None:
    from benchmarks.radius_job import peer

    model, x = ready(CASES["mlp"].build), images(3)
    with torch.no_grad():
        rows = bounds.margins(model(x).argmax(1), 5).double()
    one, eps = peer(model, x, rows, "linf"), torch.tensor([0.02, 0.01], dtype=torch.float64)
    got = one.lower_margin(x, rows, eps, torch.tensor([2, 0]))
    for margin, n, radius in zip(got, (2, 0), eps.tolist(), strict=True):
        alone = auto_lirpa.auto_lirpa_bounds(
            model, x[n : n + 1], radius, "linf", method="CROWN", rows=rows[n : n + 1]
        )
        assert float(margin) == pytest.approx(float(alone.lower.min()), rel=1e-6)
    assert one.calls == 1 and one.cpu_seconds > 0
