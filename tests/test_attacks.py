"""Attack distances against exact ones on linear models, and what a caller must never notice."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import certnas.attacks as attacks
from certnas.attacks import ATTACKS, BUDGETS, AdversarialExamples, smallest_adversarial
from certnas.attacks.judge import AttackJudge
from certnas.attacks.norms import NORMS
from certnas.data import load
from certnas.errors import UserError

KINDS = ("linf", "l2", "l1")


def linear_model(classes: int = 10) -> nn.Sequential:
    """A softmax regression on the digits."""
    data = load("digits", train=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data.x), data.y % classes).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval()


def cnn() -> nn.Sequential:
    """A small network with everything that has a state or a mode."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def exact_to_class(w: Tensor, need: float, x: Tensor, norm: str) -> float:
    """min ‖δ‖ subject to w·δ ≥ need and x + δ in [0, 1], by the shape of the optimum; inf if there is none.

    l∞: |δ_i| = min(t, room_i); l2: |δ_i| = min(t·|w_i|, room_i), bisected over t; l1: largest |w_i| first.
    """
    room, size = torch.where(w > 0, 1 - x, x), w.abs()
    if need <= 0:
        return 0.0
    if float((room * size).sum()) < need:
        return float("inf")
    if norm == "l1":
        total = 0.0
        for i in size.argsort(descending=True).tolist():
            step = min(float(room[i]), need / float(size[i]))
            total, need = total + step, need - step * float(size[i])
            if need <= 1e-15:
                break
        return total
    slope = torch.ones_like(size) if norm == "linf" else size
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        enough = float((torch.minimum(room, middle * slope) * size).sum()) >= need
        low, high = (low, middle) if enough else (middle, high)
    delta = torch.minimum(room, high * slope)
    return float(delta.max() if norm == "linf" else delta.norm())


def exact(model: nn.Sequential, x: Tensor, y: Tensor, norm: str, targets: Tensor | None = None) -> Tensor:
    """The minimal adversarial distances of a linear model, [N] float64."""
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    distances = []
    for i, image in enumerate(x.double().flatten(1)):
        label = int(y[i])
        rivals = range(len(bias)) if targets is None else [int(targets[i])]
        scores = weight @ image + bias
        distances.append(
            min(
                exact_to_class(weight[j] - weight[label], float(scores[label] - scores[j]), image, norm)
                for j in rivals
                if j != label
            )
        )
    return torch.tensor(distances, dtype=torch.float64)


def confirmed(model: nn.Module, x: Tensor, y: Tensor, norm: str, found: AdversarialExamples) -> None:
    """Each example adversarial in float64, in the box, and as far away as claimed."""
    assert found.distance.dtype == found.example.dtype == torch.float64
    assert found.example.shape == x.shape and len(found.attack) == len(x)
    assert found.example.min() >= 0 and found.example.max() <= 1
    hit = found.distance.isfinite()
    with torch.no_grad():
        prediction = model.double().eval()(found.example).argmax(1)
    assert bool((prediction != y)[hit].all())
    order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[norm]
    moved = torch.linalg.vector_norm((found.example - x.double()).flatten(1), order, dim=1)
    assert torch.allclose(moved[hit], found.distance[hit], rtol=1e-12, atol=0)
    assert torch.equal(found.example[~hit], x.double()[~hit])


@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize("classes", [10, 2])
def test_close_to_the_exact_distance_of_a_linear_model(norm: str, classes: int) -> None:
    model, data = linear_model(classes), load("digits", count=40)
    x, y = data.x, data.y % classes
    truth = exact(model, x, y, norm)
    found = smallest_adversarial(model, x, y, norm)
    assert found.failed == ()
    assert bool((found.distance >= truth - 1e-9).all())
    wrong = truth == 0
    assert 0 < int(wrong.sum()) < 20
    assert bool((found.distance[wrong] == 0).all())
    assert all((name == "clean") == bool(w) for name, w in zip(found.attack, wrong, strict=True))
    ratio = found.distance[~wrong] / truth[~wrong]
    assert float(ratio.median()) < 1.001
    assert float(ratio.max()) < 1.02
    confirmed(model, x, y, norm, found)


@pytest.mark.parametrize("norm", KINDS)
def test_targeted_distances_of_a_linear_model(norm: str) -> None:
    model, data = linear_model(), load("digits", count=40)
    targets = (data.y + 1 + torch.arange(40) % 9) % 10
    truth = exact(model, data.x, data.y, norm, targets)
    found = smallest_adversarial(model, data.x, data.y, norm, targets=targets)
    assert bool((found.distance >= truth - 1e-9).all())
    positive = truth > 0
    assert bool((found.distance[~positive] == 0).all())
    ratio = found.distance[positive] / truth[positive]
    assert float(ratio.median()) < 1.001
    assert float(ratio.max()) < 1.02
    with torch.no_grad():
        scores = model.double()(found.example)
    chosen = scores.gather(1, torch.stack([data.y, targets], 1))
    assert bool((chosen[:, 1] >= chosen[:, 0]).all())


@pytest.mark.parametrize(("norm", "name"), [(norm, name) for norm in KINDS for name in ATTACKS[norm]])
def test_every_attack_alone_is_sound_and_finds_something(
    norm: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"fab": ATTACKS[norm]["fab"]} if name == "apgd" else {}  # it starts from what others found
    monkeypatch.setitem(ATTACKS, norm, {**first, name: ATTACKS[norm][name]})
    model, data = linear_model(), load("digits", count=30)
    truth = exact(model, data.x, data.y, norm)
    found = smallest_adversarial(model, data.x, data.y, norm)
    assert found.failed == ()
    assert bool((found.distance >= truth - 1e-9).all())
    assert set(found.attack) <= {"clean", "", name, *first}
    assert name in found.attack
    hit = found.distance.isfinite() & (truth > 0)
    assert int(hit.sum()) >= 15
    assert float((found.distance[hit] / truth[hit]).median()) < 1.5
    confirmed(model, data.x, data.y, norm, found)


@pytest.mark.parametrize("norm", KINDS)
def test_nothing_of_the_caller_changes_and_a_seed_repeats(norm: str) -> None:
    model, data = cnn().train(), load("digits", count=6)
    model(data.x).sum().backward()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    x = data.x.clone()
    with torch.inference_mode():
        found = smallest_adversarial(model, x, data.y, norm, budget=BUDGETS["quick"], seed=5)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.equal(x, data.x)
    assert model.training and all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(after, grads, strict=True))
    assert torch.get_default_dtype() == torch.float32
    torch.manual_seed(99)
    again = smallest_adversarial(model, x, data.y, norm, budget=BUDGETS["quick"], seed=5)
    assert torch.equal(found.distance, again.distance) and torch.equal(found.example, again.example)
    assert found.attack == again.attack
    confirmed(model, data.x, data.y, norm, found)


def test_random_state_is_kept_when_an_attack_reseeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def reseeding(problem: Any) -> Tensor:
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("no luck")

    monkeypatch.setitem(ATTACKS, "l2", {"reseeding": reseeding})
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    data = load("digits", count=3)
    smallest_adversarial(linear_model_cached(), data.x, data.y, "l2")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.get_default_dtype() == torch.float32


def linear_model_cached() -> nn.Sequential:
    """Some linear model, without any use of the random state."""
    model = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, 64, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-1, 1, 640).sin().reshape(10, 64) * 3)  # type: ignore[union-attr]
        model[1].bias.zero_()  # type: ignore[union-attr]
    return model


def test_an_attack_that_fails_is_named_and_the_others_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(problem: Any) -> Tensor:
        raise RuntimeError("not on this model")

    def half_nan(problem: Any) -> Tensor:
        points = 1 - problem.x
        points[1:] = float("nan")
        return points

    monkeypatch.setitem(ATTACKS, "linf", {"raising": raising, "nan": half_nan, "fab": ATTACKS["linf"]["fab"]})
    model, data = linear_model(), load("digits", indices=[0, 1, 2, 3])
    found = smallest_adversarial(model, data.x, data.y, "linf", batch_size=3)
    assert found.failed == (
        "raising: images 0 to 2: RuntimeError: not on this model",
        "nan: images 0 to 2: returned NaN",
        "raising: images 3 to 3: RuntimeError: not on this model",
    )
    assert bool(found.distance.isfinite().all())
    assert set(found.attack) <= {"fab", "nan", "clean"}


def test_nothing_found_is_infinite() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]], dtype=x.dtype) + 0 * x.flatten(1).sum(1, keepdim=True)

    found = smallest_adversarial(Constant(), torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.long), "l2")
    assert found.distance.tolist() == [float("inf")] * 3 and found.attack == ("", "", "")


@pytest.mark.parametrize("norm", KINDS)
def test_a_near_tie_that_float32_gets_wrong_is_still_attacked(norm: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))  # type: ignore[operator]
        model[1].bias.copy_(torch.tensor([0.0, -1e-10], dtype=torch.float64))  # type: ignore[operator]
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    y[1] = 1
    x[1, 0, 0, 1] = 0.75
    found = smallest_adversarial(model, x, y, norm, budget=BUDGETS["quick"])
    truth = exact(model, x, y, norm)
    assert bool((found.distance >= truth - 1e-15).all()) and bool((truth > 0).all())
    assert bool(found.distance.isfinite().all()) and float(found.distance[0]) < 1e-2


def test_progress_and_empty_input() -> None:
    seen: list[tuple[int, int]] = []
    data = load("digits", count=5)
    model, quick = linear_model(), BUDGETS["quick"]
    smallest_adversarial(
        model,
        data.x,
        data.y,
        "l2",
        budget=quick,
        batch_size=3,
        progress=lambda done, all: seen.append((done, all)),
    )
    total = 5 * len(ATTACKS["l2"])
    assert seen[-1] == (total, total) and seen == sorted(seen) and len(seen) == 2 * len(ATTACKS["l2"])
    empty = smallest_adversarial(model, data.x[:0], data.y[:0], "l2")
    assert empty.distance.shape == (0,) and empty.example.shape == (0, 1, 8, 8) and empty.attack == ()


def test_batches_do_not_change_which_images_are_hit() -> None:
    model, data = linear_model(), load("digits", count=12)
    quick = BUDGETS["quick"]
    whole = smallest_adversarial(model, data.x, data.y, "linf", budget=quick)
    parts = smallest_adversarial(model, data.x, data.y, "linf", budget=quick, batch_size=5)
    assert torch.allclose(whole.distance, parts.distance, rtol=1e-2)


class NanModel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] * torch.tensor([[1.0], [float("nan")]], dtype=x.dtype)


class Float32Only(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), torch.ones(10, 64, dtype=torch.float32))


IMAGES, LABELS = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
BAD_CALLS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "norm": (lambda: {"norm": "l3"}, "attack: unknown norm 'l3'; accepted: linf, l2, l1"),
    "bytes": (
        lambda: {"x": (IMAGES * 255).to(torch.uint8)},
        "attack: images are torch.uint8 of shape [2, 1, 8, 8], expected floats [N, *shape] in [0, 1]",
    ),
    "range": (
        lambda: {"x": IMAGES * 255},
        "attack: images leave [0, 1] or are NaN; divide by 255, and normalise inside the model",
    ),
    "nan images": (
        lambda: {"x": IMAGES * float("nan")},
        "attack: images leave [0, 1] or are NaN; divide by 255, and normalise inside the model",
    ),
    "float labels": (
        lambda: {"y": LABELS * 1.0},
        "attack: labels are torch.float32 of shape [2], expected integers of shape [2]",
    ),
    "few labels": (
        lambda: {"y": LABELS[:1]},
        "attack: labels are torch.int64 of shape [1], expected integers of shape [2]",
    ),
    "large label": (
        lambda: {"y": LABELS + 8},
        "attack: labels and targets span 9 to 10, the model has classes 0 to 9",
    ),
    "own target": (
        lambda: {"targets": torch.tensor([0, 2])},
        "attack: the target of image 1 is its own label",
    ),
    "batch": (lambda: {"batch_size": 0}, "attack: batch size 0, expected at least 1"),
    "nan scores": (
        lambda: {"model": NanModel()},
        "attack: the model gives NaN or infinite scores for image 1",
    ),
    "no scores": (
        lambda: {"model": nn.Identity()},
        "attack: the model gives scores of shape [2, 1, 8, 8], expected [2, classes]",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case: str) -> None:
    changed, message = BAD_CALLS[case]
    call: dict[str, Any] = {"model": cnn(), "x": IMAGES, "y": LABELS, "norm": "l2", **changed()}
    with pytest.raises(UserError) as caught:
        smallest_adversarial(**call)
    assert str(caught.value) == message


def test_a_model_that_cannot_run_in_float64_or_on_this_shape() -> None:
    with pytest.raises(
        UserError, match=r"^attack: the model does not evaluate images of shape \[1, 8, 8\] in float64"
    ):
        smallest_adversarial(Float32Only(), IMAGES, LABELS, "l2")
    with pytest.raises(UserError, match=r"^attack: the model does not evaluate images of shape \[1, 5, 5\]"):
        smallest_adversarial(cnn(), IMAGES[..., :5, :5], LABELS, "l2")


def test_every_norm_has_attacks() -> None:
    assert list(ATTACKS) == list(NORMS)
    assert set(attacks.__all__) <= set(dir(attacks))


def test_a_tie_with_the_target_is_adversarial() -> None:
    """What is proved is f_y > f_target, so a tie refutes it; a score short of the tie does not."""
    scores = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0 - 1e-15, 0.0], [1.0, 0.5, 2.0]], dtype=torch.float64)
    y, target = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.long)
    assert AttackJudge(nn.Identity(), y, target).wrong(scores).tolist() == [True, False, False]
    assert AttackJudge(nn.Identity(), y, None).wrong(scores).tolist() == [False, False, True]
