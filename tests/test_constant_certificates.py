"""Certificates of networks whose output no input decides, field by field."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.certifier import constant
from certnas.certifier.batch import CertificationRequest
from certnas.certifier.constant import certify_constant
from certnas.certifier.request import TARGETS

X = torch.tensor([[0.25, 0.5], [0.75, 0.125], [0.5, 1.0]])


class Scores(nn.Module):
    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), -1)


def asked(
    *scores: float,
    targets: str = "all",
    attack: bool = True,
    norm: str = "linf",
    clip: tuple[float, float] | None = (0.0, 1.0),
    eps_max: float | None = None,
) -> CertificationRequest:
    return CertificationRequest(
        Scores(*scores), norm, bounds.IBP(), eps_max, 1e-3, TARGETS[targets], attack, clip, 0, None
    )


@pytest.mark.parametrize("attack", [True, False])
def test_every_field(attack: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(5, 6)
    monkeypatch.setattr(constant, "perf_counter", lambda: next(clock))
    y = torch.tensor([1, 2, 1])
    found = certify_constant(asked(0.0, 2.0, 1.0, attack=attack), X, y, (4, 5, 6))
    assert (found.norm, found.method, found.proved_by) == ("linf", "ibp", ("ibp",) * 3)
    assert found.index.tolist() == [4, 5, 6] and found.label.tolist() == [1, 2, 1]
    assert found.prediction.tolist() == [1, 1, 1] and found.target.tolist() == [-1] * 3
    assert found.radius_lower.tolist() == [0.75, 0.0, 1.0] and found.proof == ("",) * 3
    assert found.radius_upper.tolist() == [math.inf, 0.0 if attack else math.inf, math.inf]
    assert found.status == ("certified", "misclassified", "certified")
    assert found.seconds.tolist() == [2.0] * 3 and found.evaluations.tolist() == [0] * 3
    assert found.notes == (constant.CONSTANT,)


def test_the_margin_is_above_rounding() -> None:
    """1e-9 · (1 + the greatest score), here 8, and no less."""
    least = 1e-9 * (1 + 8)
    for gap, status in ((1.001 * least, "certified"), (0.999 * least, "zero"), (0.0, "zero")):
        found = certify_constant(asked(-8.0, 1.0 + gap, 1.0), X, torch.tensor([1, 1, 0]), (0, 1, 2))
        assert found.status == (status, status, "misclassified")
        assert found.radius_lower.tolist() == [
            0.75 * (status == "certified"),
            0.875 * (status == "certified"),
            0,
        ]


def test_a_target_alone_is_beaten() -> None:
    """Class 1 ties with class 0: it beats class 2, the least likely, and not the runner-up."""
    y = torch.tensor([0, 0, 0])
    for targets, target, status in (("least", 2, "certified"), ("runner-up", 1, "zero"), ("all", -1, "zero")):
        found = certify_constant(asked(3.0, 3.0, 1.0, targets=targets), X, y, (0, 1, 2))
        assert found.target.tolist() == [target] * 3 and set(found.status) == {status}


def test_the_box_and_the_largest_radius_limit_it() -> None:
    y = torch.tensor([1, 1, 1])
    for norm, clip, eps_max, expected in (
        ("l1", (0.0, 1.0), None, [1.25, 1.625, 1.5]),
        ("l1", (0.0, 1.0), 1.5, [1.25, 1.5, 1.5]),
        ("linf", None, 7.0, [7.0] * 3),
        ("linf", None, None, [math.inf] * 3),
    ):
        request = asked(0.0, 1.0, norm=norm, clip=clip, eps_max=eps_max)
        assert certify_constant(request, X, y, (0, 1, 2)).radius_lower.tolist() == expected


def test_points_of_the_balls_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    def points(x: Tensor, order: float, end: Tensor, clip: object) -> Tensor:
        seen.append((x, order, end.tolist(), clip))
        return x

    monkeypatch.setattr(constant, "points_about", points)
    certify_constant(asked(0.0, 1.0, norm="l1"), X, torch.tensor([1, 1, 1]), (0, 1, 2))
    assert seen[0][0] is X and seen[0][1:] == (1.0, [1.25, 1.625, 1.5], (0.0, 1.0))
