"""One batch on its way through the certifier, each stage on margins that are straight lines."""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.attacks import AdversarialExamples
from certnas.certifier import batch
from certnas.certifier.batch import CertificationRequest
from certnas.certifier.radius import Radii
from certnas.certifier.request import TARGETS
from certnas.certifier.soundness import SoundnessError
from certnas.errors import UserError

LOOSENESS: dict[type[bounds.Method], float] = {
    bounds.IBP: 8.0, bounds.CrownIBP: 4.0, bounds.Crown: 2.0, bounds.AlphaCrown: 1.0
}  # fmt: skip
"""How many times the true slope a method's margin falls."""
DOUBLE = torch.float64


@dataclass(frozen=True)
class Lines:
    """A prover whose margins are x − looseness · rows · ε; asked: (method, ε, image, dtype) of each bound."""

    x: Tensor
    rows: Tensor
    method: bounds.Method = field(default_factory=bounds.IBP)
    limit: float = math.inf
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def lower_margin(self, eps: Tensor, image: Tensor, dtype: torch.dtype) -> Tensor:
        self.asked.append((type(self.method).__name__, eps.tolist(), image.tolist(), dtype))
        return self.x[image] - LOOSENESS[type(self.method)] * self.rows[image] * eps

    def linearised(self) -> tuple[Tensor, Tensor]:
        return self.x, self.x / self.rows

    def end(self, eps_max: float | None) -> Tensor:
        return torch.full_like(self.x, self.limit if eps_max is None else eps_max)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def asked(*methods: bounds.Method, **more: Any) -> CertificationRequest:
    given: dict[str, Any] = {
        "eps_max": None,
        "tol": 1e-3,
        "attack": True,
        "clip": None,
        "seed": 5,
        "memory": None,
    }
    kept = given | more
    target = kept.pop("target", None)
    first, *then = methods or (bounds.IBP(),)
    return CertificationRequest(nn.Identity(), "l2", first, target=target, then=tuple(then), **kept)


def radii(radius: Tensor, upper: Tensor, evaluations: int = 3, unlimited: bool = False) -> Radii:
    every = torch.ones(len(radius), dtype=torch.bool)
    return Radii(radius, upper, evaluations * every.long(), radius > 0, every & unlimited)


# What is asked.


def test_a_request_names_its_methods_and_the_radii_that_are_tried_exactly() -> None:
    request = asked(
        bounds.Crown(), bounds.AlphaCrown(3), eps_max=1.0, at=(0.3, 0.1, 0.3, math.inf, 0.0, -1.0, 2.0)
    )
    assert request.methods == (bounds.Crown(), bounds.AlphaCrown(3))
    assert request.name == "crown, then alpha-crown(iterations=3)"
    assert request.exactly == [1.0, 0.3, 0.1]
    assert replace(request, eps_max=None).exactly == [2.0, 0.3, 0.1]
    assert asked().exactly == [] and asked().then == () and asked(eps_max=0.5, at=(0.5,)).exactly == [0.5]


def test_cheaper_methods_keep_the_slope() -> None:
    one = bounds.Slope.ONE
    assert batch._cheaper(bounds.AlphaCrown(3, slope=one)) == bounds.Crown(one)
    assert batch._cheaper(bounds.Crown(one)) == bounds.CrownIBP(one)
    for method in (bounds.CrownIBP(one), bounds.IBP(), bounds.Zonotope()):
        assert batch._cheaper(method) is None


# Where a search begins.


def test_a_search_begins_where_cheaper_methods_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    found = {bounds.CrownIBP: tensor(0.0, 0.5, 1e-4), bounds.Crown: tensor(0.0, 0.75, 0.5)}

    def search(part: Any, centre: Tensor, start: Tensor, end: Tensor, tol: float) -> tuple[Radii, Tensor]:
        seen.append((type(part.method), centre.tolist(), start.tolist(), end.tolist(), tol))
        return radii(found[type(part.method)], end), torch.zeros(3)

    monkeypatch.setattr(batch, "_search", search)
    centre, start, end = tensor(1, 2, 3), tensor(1, 1, 1), tensor(9, 9, 9)
    part = Lines(centre, centre, bounds.AlphaCrown())
    assert batch._start(part, centre, start, end).tolist() == [1.0, 0.75, 0.5]
    crowned = [1.0, 0.5, 1 / 32]
    assert seen == [
        (bounds.CrownIBP, [1, 2, 3], [1, 1, 1], [9, 9, 9], 0.05),
        (bounds.Crown, [1, 2, 3], crowned, [9, 9, 9], 0.05),
    ]
    assert batch._start(replace(part, method=bounds.Crown()), centre, start, end).tolist() == crowned
    assert batch._start(replace(part, method=bounds.IBP()), centre, start, end) is start


def test_a_search_tells_its_progress_and_shares_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(batch, "perf_counter", lambda: next(clock))
    part = Lines(tensor(1, 2), tensor(1, 1), bounds.IBP())
    told: list[Any] = []
    found, seconds = batch._search(part, part.x, tensor(0.1, 1e-6), tensor(9, 9), 1e-2, told.append)
    assert found.radius.tolist() == pytest.approx([1 / 8, 2 / 8], rel=1.01e-2)
    assert len(told) == len(part.asked) and {dtype for *_, dtype in part.asked} == {torch.float32}
    share = [sum(1 / len(image) for _, _, image, _ in part.asked if i in image) for i in range(2)]
    assert seconds.tolist() == pytest.approx(share) and share[0] != share[1]


def test_crown_is_searched_with_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    class Told:
        def __init__(self, *given: Any) -> None:
            made.append(given)
            self.part = given[0]

        def lower_margin(self, eps: Tensor, image: Tensor) -> Tensor:
            return self.part.lower_margin(eps, image, torch.float32)

        def root(self, image: Tensor) -> Tensor:
            return tensor(0.5, 1.0)[image]

    monkeypatch.setattr(batch, "Forecast", Told)
    centre, end = tensor(1, 2), tensor(9, 9)
    part = Lines(centre, tensor(1, 1), bounds.Crown())
    found, _ = batch._search(part, centre, tensor(0.4, 0.8), end, 1e-3)
    assert made == [(part, centre, end, 1e-3)] and found.evaluations.tolist() == [2, 2]
    for method, images in ((bounds.Crown(), 0), (bounds.AlphaCrown(), 2), (bounds.CrownIBP(), 2)):
        some = Lines(centre[:images], centre[:images], method)
        batch._search(some, some.x, some.x, end[:images], 1e-3)
    assert len(made) == 1, "nothing is foretold of no image, or by another method"


# The climb through the methods.


def test_wide_images_climb_through_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images: one is narrow after the first method, one proved by neither, two better by the second."""
    clock = itertools.count(step=10)
    monkeypatch.setattr(batch, "perf_counter", lambda: next(clock))
    seen: list[tuple[Any, ...]] = []
    results = [
        radii(tensor(0.951, 0.0, 0.5, 0.25), tensor(0.96, 0.1, 0.5004, 0.2503), 3, True),
        radii(tensor(0.0, 0.75, 0.125), tensor(0.1, 9.0, 0.3), 5),
        radii(tensor(0.0, 0.5), tensor(0.1, 0.5), 7),
    ]

    def search(part: Any, centre: Tensor, start: Tensor, end: Tensor, tol: float, tell: Any):
        seen.append(
            (part.method, part.x.tolist(), part.rows.tolist(), centre.tolist(), start.tolist(), end.tolist())
        )
        assert tol == 1e-3 and tell is told
        return results[len(seen) - 1], torch.arange(len(centre), dtype=DOUBLE)

    def told(bracket: Any) -> None:
        pass

    monkeypatch.setattr(batch, "_search", search)
    monkeypatch.setattr(batch, "_start", lambda part, centre, start, end: start / 2)
    part = Lines(tensor(4, 5, 6, 7), tensor(2, 2, 2, 2))
    request = asked(bounds.IBP(), bounds.CrownIBP(), bounds.Crown())
    attacked = tensor(1.0, 2.0, 0.78, 1e9)
    found = batch._climb(replace(request, eps_max=1.5), part, attacked, told)
    ends = [1 * (1 + 1e-6), 1.5, 0.78 * (1 + 1e-6), 1.5]
    assert seen[0] == (
        bounds.IBP(),
        [4, 5, 6, 7],
        [2] * 4,
        [4, 5, 6, 7],
        [1, 1.25, 1.5, 1.75],
        pytest.approx(ends),
    )
    # where nothing is proved the start stays; elsewhere a little above what is
    starts = [2.5, 0.5 * 1.05, 0.25 * 1.05]
    assert seen[1][:4] == (bounds.CrownIBP(), [5, 6, 7], [2] * 3, [5, 6, 7])
    assert seen[1][4] == pytest.approx(starts) and seen[1][5] == pytest.approx(ends[1:])
    # 0.75 is more than 0.95 · 0.78
    assert seen[2][:2] == (bounds.Crown(), [5, 7]) and seen[2][4] == pytest.approx([2.5, 0.25 * 1.05])
    assert found.radius.tolist() == [0.951, 0, 0.75, 0.5] and found.place.tolist() == [0, 0, 1, 2]
    reach = [0.951 * 1.002, 0, 0.75 * 1.002, 0.5]
    assert found.upper.tolist() == pytest.approx(reach) and found.upper.dtype == DOUBLE
    assert found.evaluations.tolist() == [3, 15, 8, 15]
    assert found.finite.tolist() == [True, False, True, True]
    assert found.unlimited.tolist() == [True, False, False, False]
    # ten seconds for each search, less what it has shared out, by its images
    first, second, third = (10 - 6) / 4, (10 - 3) / 3, (10 - 1) / 2
    times = [first, 1 + first + second + third, 2 + first + 1 + second, 3 + first + 2 + second + 1 + third]
    assert found.seconds.tolist() == pytest.approx(times)


def test_no_image_wide_enough_ends_the_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is narrow at 0.95 of the attacked radius, or of the end."""
    edge = (1 - 0.05) * 1.0
    for radius, searches in ((edge, 1), (math.nextafter(edge, 0), 2)):
        calls: list[int] = []

        def search(part: Any, *given: Any, radius: float = radius, calls: list[int] = calls):
            calls.append(len(part.x))
            return radii(tensor(radius), tensor(2.0)), torch.zeros(1, dtype=DOUBLE)

        monkeypatch.setattr(batch, "_search", search)
        part = Lines(tensor(4), tensor(1), limit=1.0)
        request = asked(bounds.IBP(), bounds.Zonotope())
        found = batch._climb(request, part, tensor(math.inf), lambda bracket: None)
        assert len(calls) == searches and found.place.tolist() == [0], "an equal radius is no better one"
    none = Lines(tensor(), tensor())
    assert batch._climb(request, none, tensor(), lambda bracket: None).radius.shape == (0,)


# The proof in double precision.


def test_what_is_never_proved_is_tried_at_ever_smaller_radii() -> None:
    part = Lines(tensor(-1.0, 4.0), tensor(1.0, 1.0))
    radius, tol = tensor(1.0, 0.4), 1e-2
    proved, margin = batch._prove(part, radius, radius * 9, (), torch.ones(2, 3, dtype=DOUBLE), tol)  # type: ignore[arg-type]
    expected, eps = [], 1.0
    for attempt in range(12):
        expected.append(eps)
        eps *= max(1 - tol * 2**attempt, 0.5)
    assert [eps[0] for _, eps, _, _ in part.asked] == pytest.approx(expected, rel=1e-12)
    assert [image for _, _, image, _ in part.asked] == [[0, 1], *[[0]] * 11]
    assert {dtype for *_, dtype in part.asked} == {DOUBLE}
    assert proved.tolist() == [0.0, 0.4] and margin.tolist() == [0.0, 4 - 8 * 0.4]


def test_radii_asked_about_are_tried_first_the_greatest_first() -> None:
    """The first of three images may go up to 0.5, the second to less, and nothing is known of the third."""
    part = Lines(tensor(2.4, 3.9, 9), tensor(1, 1, 1))
    radius, upper = tensor(0.2, 0.48, 0.0), tensor(0.5, 0.49, 0.5)
    proved, _ = batch._prove(
        part, radius, upper, (0.6, 0.5, 0.49, 0.3, 0.2), torch.zeros(3, 2, dtype=DOUBLE), 0.1
    )  # type: ignore[arg-type]
    assert [(eps, image) for _, eps, image, _ in part.asked] == [
        ([0.5], [0]), ([0.49, 0.49], [0, 1]), ([0.3], [0]), ([0.2, 0.48], [0, 1]),
    ]  # fmt: skip
    assert proved.tolist() == [0.2, 0.48, 0.0]


def test_a_radius_that_failed_bounds_those_that_are_tried_next() -> None:
    part = Lines(tensor(2.4), tensor(1.0))  # proved below 0.3
    proved, _ = batch._prove(
        part, tensor(0.4), tensor(1.0), (0.38, 0.29), torch.zeros(1, 2, dtype=DOUBLE), 0.25
    )  # type: ignore[arg-type]
    tried = [eps for _, (eps,), _, _ in part.asked]
    assert tried == pytest.approx([0.4, 0.38, 0.3, 0.29]) and proved.tolist() == [0.29]


def test_a_margin_has_to_exceed_what_rounding_does() -> None:
    needed = 1e-9 * (1 + 7.0)
    for margin, radius in (
        (needed * 1.0001, 0.5), (needed, 0.0), (needed / 2, 0.0), (math.inf, 0.0), (math.nan, 0.0)
    ):  # fmt: skip
        part = Lines(tensor(margin), tensor(0.0))
        logits = torch.tensor([[-7.0, 3.0]], dtype=DOUBLE)
        proved, held = batch._prove(part, tensor(0.5), tensor(0.5), (), logits, 1e-3)  # type: ignore[arg-type]
        assert proved.tolist() == [radius] and held.tolist() == [margin if radius else 0.0]
    none = batch._prove(part, tensor(), tensor(), (0.5,), torch.zeros(0, 2, dtype=DOUBLE), 1e-3)  # type: ignore[arg-type]
    assert [len(part) for part in none] == [0, 0]


# Attack and alarm.


def test_attacks_run_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        batch, "smallest_adversarial", lambda *given, **named: seen.append((given, named)) or "found"
    )
    x, y, target = torch.rand(2, 3), torch.tensor([0, 1]), torch.tensor([1, 0])
    request = asked()
    assert batch._attack(request, x, y, target) == "found"
    assert seen == [((request.model, x, y, "l2"), {"seed": 5, "targets": target})]
    for given, images in ((asked(attack=False), 2), (request, 0)):
        none = batch._attack(given, x[:images], y[:images], None)
        assert none.distance.tolist() == [math.inf] * images and none.distance.dtype == DOUBLE
        assert torch.equal(none.example, x[:images].double())
        assert (none.attack, none.failed) == (("",) * images, ())
    assert len(seen) == 1


def test_a_radius_beyond_an_adversarial_example_is_an_alarm() -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    found = AdversarialExamples(tensor(0.5, 0.25), x.double() + 1, ("a", "b"), ())

    class Part:
        def margin(self, points: Tensor) -> Tensor:
            assert torch.equal(points, found.example)
            return tensor(-1.0, -2.0)

    kept = (asked(), Part(), x, torch.tensor([3, 4]), [7, 8], ["ibp", "crown"])
    batch._check_sound(*kept, tensor(0.5, 0.25), tensor(1, 2), found)  # type: ignore[arg-type]
    with pytest.raises(SoundnessError) as caught:
        batch._check_sound(*kept, tensor(0.5, 0.25000001), tensor(1, 2), found)  # type: ignore[arg-type]
    evidence = caught.value.evidence
    assert (evidence.index, evidence.label, evidence.norm, evidence.method) == (8, 4, "l2", "crown")
    assert (evidence.radius, evidence.distance) == (0.25000001, 0.25)
    assert (evidence.margin_proved, evidence.margin_found) == (2.0, -2.0)
    assert evidence.image.tolist() == [2, 3] and evidence.example.tolist() == [3, 4]
    assert evidence.image.dtype == np.float64
    with pytest.raises(SoundnessError) as caught:
        batch._check_sound(*kept, tensor(0.6, 0.3), tensor(1, 2), found)  # type: ignore[arg-type]
    assert caught.value.evidence.index == 7


def test_values_are_spread_over_all_images() -> None:
    found = batch._spread(tensor(1.5, 2.5), torch.tensor([3, 1]), 4, 9.0)
    assert found.tolist() == [9.0, 2.5, 9.0, 1.5]


# The whole.


@dataclass(frozen=True)
class Whole(Lines):
    """Images that are their own scores; what is asked about is kept."""

    def logits(self, x: Tensor) -> Tensor:
        return x.double()

    def about(self, x: Tensor, y: Tensor, target: Tensor | None, classes: int) -> "Whole":
        self.asked.append((x.tolist(), y.tolist(), None if target is None else target.tolist(), classes))
        return replace(self, x=x[:, 0].double(), rows=torch.ones(len(x), dtype=DOUBLE))


SCORES = torch.tensor([[4.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 5.0, 2.0], [3.0, 2.0, 0.0], [0.0, 0.5, 0.25]])
Y = torch.tensor([0, 0, 1, 0, 1])


@pytest.mark.parametrize("targets", ["all", "runner-up"])
def test_every_field_of_a_batch(targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five images, the second misclassified; the last proved nowhere, its margin never finite."""
    clock = itertools.count(100, 10)
    monkeypatch.setattr(batch, "perf_counter", lambda: next(clock))
    distance = tensor(0.5, 0.7, math.inf, 0.9)
    attacked: list[Any] = []

    def attack(
        request: CertificationRequest, x: Tensor, y: Tensor, target: Tensor | None
    ) -> AdversarialExamples:
        attacked.append((x.tolist(), y.tolist(), None if target is None else target.tolist()))
        return AdversarialExamples(distance, x.double(), ("fab",) * 4, ("fab: it failed",))

    def climb(request: CertificationRequest, part: Any, given: Tensor, tell: Any) -> Any:
        assert given is distance
        tell("bracket")
        return batch._Found(
            radius=tensor(0.25, 0.5, 0.125, 0), upper=tensor(0.3, 0.6, 0.2, 0.1), place=torch.tensor([0, 1, 0, 0]),
            seconds=tensor(1, 2, 3, 4), evaluations=torch.tensor([5, 6, 7, 8]),
            finite=torch.tensor([True, True, True, False]), unlimited=torch.tensor([False, True, False, False]),
        )  # fmt: skip

    proved: list[Any] = []

    def prove(part: Any, radius: Tensor, upper: Tensor, exactly: Any, logits: Tensor, tol: float):
        proved.append((part.method, radius.tolist(), upper.tolist(), exactly, logits.tolist(), tol))
        at = torch.where(radius == 0.125, 0.0, radius)
        return at, at * 2

    checked: list[Any] = []
    for name, stage in (("_attack", attack), ("_climb", climb), ("_prove", prove)):
        monkeypatch.setattr(batch, name, stage)
    monkeypatch.setattr(batch, "_check_sound", lambda *given: checked.append(given))
    told: list[Any] = []
    request = asked(bounds.IBP(), bounds.Crown(), target=TARGETS[targets], eps_max=0.75)
    prover = Whole(tensor(), tensor())
    found = batch.certify_batch(
        request, prover, SCORES, Y, (9, 8, 7, 6, 5), lambda *given: told.append(given)
    )  # type: ignore[arg-type]

    right = [0, 2, 3, 4]
    images, labels = SCORES[right].tolist(), Y[right].tolist()
    target = None if targets == "all" else [1, 2, 1, 2]
    assert told == [("attack", 4, None), ("search", 4, "bracket"), ("prove", 4, None)]
    assert attacked == [(images, labels, target)] and prover.asked == [(images, labels, target, 3)]
    upper, scores = [0.3, 0.6, 0.2, 0.1], SCORES[right].double().tolist()
    assert proved == [
        (bounds.IBP(), [0.25, 0, 0.125, 0], upper, [0.75], scores, 1e-3),
        (bounds.Crown(), [0, 0.5, 0, 0], upper, [0.75], scores, 1e-3),
    ]
    (alarm,) = checked
    assert alarm[0] is request and alarm[2].tolist() == images and alarm[3].tolist() == labels
    assert alarm[4:6] == ([9, 7, 6, 5], ["ibp", "crown", "ibp", "ibp"])
    assert alarm[6].tolist() == [0.25, 0.5, 0, 0] and alarm[7].tolist() == [0.5, 1, 0, 0]
    assert alarm[8].distance is distance and torch.equal(alarm[1].x, SCORES[right, 0].double())

    assert (found.norm, found.method) == ("l2", "ibp, then crown")
    assert found.proved_by == ("ibp", "ibp", "crown", "ibp", "ibp") and found.proof == ("",) * 5
    assert found.index.tolist() == [9, 8, 7, 6, 5] and found.label.tolist() == Y.tolist()
    assert found.prediction.tolist() == [0, 2, 1, 0, 1]
    assert found.target.tolist() == ([-1] * 5 if targets == "all" else [1, 2, 2, 1, 2])
    assert found.radius_lower.tolist() == [0.25, 0, 0.5, 0, 0]
    assert found.radius_upper.tolist() == [0.5, 0, 0.7, math.inf, 0.9]
    assert found.status == (
        "certified",
        "misclassified",
        "certified",
        "zero",
        "failed: no finite bound at any radius",
    )
    # the clock moves by 10 for scores and attack, shared by all, and by 10 for the proof, shared by those right
    assert found.seconds.tolist() == pytest.approx([1 + 2 + 2.5, 2, 2 + 2 + 2.5, 3 + 2 + 2.5, 4 + 2 + 2.5])
    assert found.evaluations.tolist() == [5, 0, 6, 7, 8]
    assert found.notes == ("fab: it failed", batch.UNLIMITED)


def test_a_batch_without_an_attack_or_an_image_that_is_right() -> None:
    request = asked(attack=False)
    found = batch.certify_batch(request, Whole(tensor(), tensor()), SCORES, Y, range(5), lambda *given: None)  # type: ignore[arg-type]
    assert found.radius_upper.tolist() == [math.inf] * 5
    expected = (SCORES[:, 0].double() / 8).tolist()
    assert found.radius_lower.tolist() == pytest.approx(
        [0 if row in (1, 4) else expected[row] for row in range(5)], rel=1.01e-3
    )
    assert found.status[:4] == ("certified", "misclassified", "certified", "certified") and found.notes == ()
    wrong = torch.tensor([1, 0, 0, 1, 0])
    none = batch.certify_batch(
        request, Whole(tensor(), tensor()), SCORES, wrong, range(5), lambda *given: None
    )  # type: ignore[arg-type]
    assert (
        set(none.status) == {"misclassified"}
        and none.radius_lower.tolist() == none.evaluations.tolist() == [0] * 5
    )
    with pytest.raises(UserError, match="labels range from 0 to 9"):
        batch.certify_batch(request, Whole(tensor(), tensor()), SCORES, Y * 9, range(5), lambda *given: None)  # type: ignore[arg-type]
