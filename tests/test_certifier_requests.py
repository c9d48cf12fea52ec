"""What the certifier accepts and refuses, at the very edges, and the classes that it proves against."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import bounds
from certnas.certifier import request
from certnas.certifier.request import (
    check_box,
    check_images,
    check_logits,
    check_model,
    check_numbers,
    chosen,
    describe,
    open_device,
    resolve_method,
)
from certnas.errors import UserError

LOGITS = torch.tensor([[3.0, 1.0, 2.0, -5.0], [0.0, 9.0, 8.0, 7.0]])
LABELS = torch.tensor([0, 3])


@pytest.mark.parametrize(("low", "high"), [(1e-5, 0.5)])
def test_numbers_at_the_edges(low: float, high: float) -> None:
    for tol in (low, high):
        check_numbers(tol, None, 1, None)
    check_numbers(0.1, 1e-300, 1, 1)
    refused = {
        "tol is": [(math.nextafter(low, 0), None, 1, None), (math.nextafter(high, 1), None, 1, None)],
        "eps-max is": [(0.1, value, 1, None) for value in (0.0, -1.0, math.inf, math.nan)],
        "batch-size is": [(0.1, None, 0, None)],
        "memory is": [(0.1, None, 1, 0)],
    }
    for said, calls in refused.items():
        for arguments in calls:
            with pytest.raises(UserError, match=said):
                check_numbers(*arguments)


def test_boxes_at_the_edges() -> None:
    for clip, attack in (((0.0, 1.0), True), ((-1.0, 2.0), True), ((0.1, 0.9), False), (None, True)):
        check_box(clip, attack)
    for clip, attack, said in (
        ((0.5, 0.5), False, "accepted"),
        ((0.5, 0.4), False, "accepted"),
        ((0.1, 1.0), True, "widen the box"),
        ((0.0, 0.9), True, "widen the box"),
        ((math.nan, 1.0), False, "accepted"),
    ):
        with pytest.raises(UserError, match=said):
            check_box(clip, attack)


def test_images_at_the_edges() -> None:
    x, y = torch.tensor([[0.0, 1.0], [0.5, 0.25]]), torch.tensor([0, 1])
    for clip in ((0.0, 1.0), None):
        check_images(x, y, clip)
    check_images(x[:1], y[:1].to(torch.uint8), (0.0, 1.0))
    check_images(x * 9 - 1, y, None)
    for images, labels, clip, said in (
        (x - 1e-6, y, (0.0, 1.0), "images go from -1e-06 to"),
        (x + 1e-6, y, (0.0, 1.0), "images go from 1e-06 to 1"),
        (x[:, 0], y, None, r"of shape \[2\]"),
        (x.long(), y, None, "images are torch.int64"),
        (x, y[:1], None, r"labels are torch.int64 of shape \[1\]; accepted: integers \[2\]"),
        (x, y[:, None], None, r"of shape \[2, 1\]"),
        (x, y.double(), None, "labels are torch.float64"),
        (x, y.bool(), None, "labels are torch.bool"),
        (x[:0], y[:0], None, "there are no images"),
        (x.log(), y, None, "NaN or infinite"),
    ):
        with pytest.raises(UserError, match=said):
            check_images(images, labels, clip)


def test_scores_at_the_edges() -> None:
    check_logits(LOGITS, LABELS, (5, 6))
    check_logits(LOGITS[:, :2], torch.tensor([1, 0]), (5, 6))
    broken = LOGITS.clone()
    broken[1, 2] = math.inf
    for logits, y, said in (
        (LOGITS[:, :1], LABELS * 0, r"gives \[2, 1\] for 2 images"),
        (LOGITS[:1], LABELS, r"gives \[1, 4\] for 2 images"),
        (LOGITS[:, :, None], LABELS, r"gives \[2, 4, 1\]"),
        (broken, LABELS, "maps image 6 to"),
        (broken.flip(0), LABELS, "maps image 5 to"),
        (LOGITS, torch.tensor([0, 4]), "range from 0 to 4; the model has classes 0 to 3"),
        (LOGITS, torch.tensor([-1, 3]), "range from -1 to 3"),
    ):
        with pytest.raises(UserError, match=said):
            check_logits(logits, y, (5, 6))


def test_models_are_in_evaluation_mode_and_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    assert check_model(model) == check_model(nn.Flatten().eval()) == torch.device("cpu")
    check_model(nn.Sequential(nn.Linear(2, 2)).double().eval())
    model[1].running_mean[1] = math.nan
    with pytest.raises(UserError, match=r"the model's 1.running_mean \[2\] holds NaN"):
        check_model(model)
    with pytest.raises(UserError, match=r"the model's 1.running_mean \[2\] holds NaN"):
        check_model(model.double())
    half = nn.BatchNorm1d(2, affine=False).half().eval()
    with pytest.raises(UserError, match=r"computes in torch.float16"):
        check_model(half)
    model[1].train()
    with pytest.raises(UserError, match="training mode"):
        check_model(model)


def test_targets_are_other_classes() -> None:
    assert request.least_likely(LOGITS, LABELS, (0, 1), 0).tolist() == [3, 0]
    assert request.least_likely(LOGITS, torch.tensor([3, 0]), (0, 1), 0).tolist() == [1, 3]
    assert request.runner_up(LOGITS, LABELS, (0, 1), 0).tolist() == [2, 1]
    assert request.runner_up(LOGITS, torch.tensor([1, 1]), (0, 1), 0).tolist() == [0, 2]
    two = torch.zeros(50, 2)
    y = torch.arange(50) % 2
    assert torch.equal(request.random_class(two, y, range(50), 3), 1 - y)
    drawn = {
        label: request.random_class(torch.zeros(80, 4), torch.full((80,), label), range(80), 0)
        for label in range(4)
    }
    for label, target in drawn.items():
        assert set(target.tolist()) == set(range(4)) - {label} and target.dtype == torch.long
    expected = [int(np.random.default_rng([7, i]).integers(3)) for i in (11, 12)]
    got = request.random_class(torch.zeros(2, 4), torch.tensor([3, 3]), (11, 12), 7)
    assert got.tolist() == expected, "it depends on the seed and the image's index alone"


def test_methods_and_their_settings() -> None:
    assert chosen("thing", "a", {"a": 1}) == 1
    with pytest.raises(UserError, match="thing 'b' is unknown; accepted: a, c"):
        chosen("thing", "b", {"a": 1, "c": 2})
    given = bounds.Crown(bounds.Slope.ZERO)
    assert resolve_method(given) == given and resolve_method("ibp") == bounds.IBP()
    relaxation_at = resolve_method("alpha-crown", slope="one", iterations=0, step=0.25, shared=False)
    assert relaxation_at == bounds.AlphaCrown(0, 0.25, slope=bounds.Slope.ONE, shared=False)
    assert resolve_method("alpha-crown", shared=True) == bounds.AlphaCrown(shared=True)
    assert resolve_method("zonotope", errors=0) == bounds.Zonotope(0)
    with pytest.raises(UserError, match="errors is -1; accepted: at least 0"):
        resolve_method("zonotope", errors=-1)
    with pytest.raises(
        UserError, match="iterations is not a setting of method crown; it belongs to: alpha-crown"
    ):
        resolve_method("crown", iterations=3)
    with pytest.raises(UserError, match="slope 'steep' is unknown"):
        resolve_method("crown", slope="steep")


def test_methods_are_described_by_name_and_changes() -> None:
    assert describe(bounds.Crown()) == "crown" and describe(bounds.METHODS["ibp"]) == "ibp"
    assert describe(bounds.Crown(bounds.Slope.ZERO)) == "crown(slope=zero)"
    assert describe(bounds.AlphaCrown(3, shared=True)) == "alpha-crown(iterations=3 shared=True)"

    class Own(bounds.Method):
        def lower(self, analysis, coef):
            return coef

    assert describe(Own()) == "Own"


def test_norms_have_their_balls_and_orders() -> None:
    known = {"linf": (bounds.Linf, math.inf), "l2": (bounds.L2, 2.0), "l1": (bounds.L1, 1.0)}
    assert {name: (norm, norm.p) for name, norm in bounds.NORMS.items()} == known
    assert all(norm.name == name for name, norm in bounds.NORMS.items())


def test_devices() -> None:
    assert open_device("cpu") == torch.device("cpu")
    for name in ("abacus", "meta:x"):
        with pytest.raises(UserError, match=f"device '{name}' cannot be used here") as refused:
            open_device(name)
        assert "\n" not in str(refused.value)
