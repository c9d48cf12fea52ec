"""The certifier against closed forms, samples, its own re-proof, and faults put in on purpose."""

import doctest
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bounds
import certnas
from certnas.attacks import AdversarialExamples
from certnas.certifier import (
    PROOF_MARGIN,
    Certificates,
    CertificationProgress,
    SoundnessError,
    batch,
    certification,
)
from certnas.certifier.certificates import COLUMNS, csv_text
from certnas.errors import UserError
from cli.values import Number

ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
DUALS = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def affine(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).eval()


def relu(seed: int = 0) -> nn.Sequential:
    """A random network whose classes all occur: its last bias takes the mean logit away."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5)
    ).eval()
    with torch.no_grad():
        model[5].bias -= model(images(64, seed=9)).mean(0)
    return model


def labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_an_affine_network_has_its_exact_radius(norm: str, method: str) -> None:
    """The radius without the box is min over j of (f_y − f_j)(x) / ‖w_y − w_j‖_dual, in float64."""
    model, x = affine(), images(12)
    y = labels(model, x)
    weight, bias = model[1].weight.double(), model[1].bias.double()
    score = x.double().flatten(1) @ weight.T + bias
    gap = score.gather(1, y[:, None]) - score
    size = torch.linalg.vector_norm(weight[y][:, None] - weight[None], DUALS[norm], dim=2)
    exact = torch.where(size > 0, gap / size, torch.inf).amin(1).detach().numpy()
    got = certnas.certify(model, x, y, norm, method=method, clip=None, attack=False, tol=1e-4)
    assert (got.radius_lower < exact).all()
    assert (got.radius_lower > exact * (1 - 1.1e-4)).all()
    assert set(got.status) == {"certified"} and np.isinf(got.radius_upper).all()


@pytest.mark.parametrize("norm", ORDERS)
def test_no_sample_of_a_certified_ball_is_misclassified(norm: str) -> None:
    model, x = relu(), images(10)
    y = labels(model, x)
    got = certnas.certify(model, x, y, norm)
    assert (got.radius_lower > 0).all() and (got.radius_lower <= got.radius_upper).all()
    assert np.isfinite(got.radius_upper).all() and got.summary().sandwich_mean > 0.2
    radius = torch.from_numpy(got.radius_lower.copy())[:, None]
    for seed in range(100):
        step = torch.randn(10, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        step = step.sign() if norm == "linf" and seed % 2 else step
        step = step / torch.linalg.vector_norm(step, ORDERS[norm], dim=1, keepdim=True) * radius
        point = (x.double() + step.reshape(x.shape)).clamp(0, 1)
        assert torch.equal(model.double()(point).argmax(1), y)
        model.float()


@pytest.mark.parametrize("norm", ORDERS)
def test_every_radius_is_proved_in_float64_at_exactly_that_radius(norm: str) -> None:
    model, x = relu(), images(10)
    y = labels(model, x)
    got = certnas.certify(model, x, y, norm, attack=False)
    network = bounds.trace(model, x[:1]).bind(dtype=torch.float64)
    region = bounds.NORMS[norm](x.double(), torch.from_numpy(got.radius_lower.copy()), lower=0.0, upper=1.0)
    rows = bounds.margins(y, 5).double()
    lower = bounds.lower_bounds(network, region, rows, bounds.Crown()).amin(1)
    with torch.no_grad():
        needed = PROOF_MARGIN * (1 + network(x.double()).abs().amax(1))
    assert bool((lower > needed).all())


def test_a_float32_proof_that_float64_does_not_confirm_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 search is made to prove everything; what float64 refuses must not be reported."""
    honest = bounds.lower_bounds

    def credulous(network: bounds.Network, *rest: object, **more: object) -> Tensor:
        lower = honest(network, *rest, **more)  # type: ignore[arg-type]
        return lower if lower.dtype == torch.float64 else lower.abs() + 1

    model, x = affine(), images(6)
    y = labels(model, x)
    true = certnas.certify(model, x, y, attack=False)
    monkeypatch.setattr(bounds, "lower_bounds", credulous)
    got = certnas.certify(model, x, y, attack=False)
    assert (got.radius_lower <= true.radius_lower * (1 + 2e-3)).all()


def test_misclassified_images_have_radius_zero_and_are_counted() -> None:
    model, x = relu(), images(8)
    y = labels(model, x)
    y[[1, 4]] = (y[[1, 4]] + 1) % 5
    got = certnas.certify(model, x, y, index=range(100, 108))
    assert [i for i, s in enumerate(got.status) if s == "misclassified"] == [1, 4]
    assert got.radius_lower[[1, 4]].tolist() == [0, 0] and got.radius_upper[[1, 4]].tolist() == [0, 0]
    assert got.index.tolist() == list(range(100, 108))
    figures = got.summary([0.0, 1e9])
    assert (figures.images, figures.correct, figures.clean_accuracy) == (8, 6, 0.75)
    assert figures.certified_accuracy == {0.0: 0.75, 1e9: 0.0}
    assert figures.mean_radius_all == pytest.approx(figures.mean_radius_correct * 6 / 8)
    everything_wrong = certnas.certify(model, x, (y + 1) % 5, attack=False)
    assert (everything_wrong.radius_lower[[0, 2]] == 0).all()


def test_targets_order_as_they_must() -> None:
    model, x = relu(), images(10)
    y = labels(model, x)
    radius = {t: certnas.certify(model, x, y, targets=t, attack=False, tol=1e-4).radius_lower
              for t in ("all", "random", "least", "runner-up")}  # fmt: skip
    for name in ("random", "least", "runner-up"):
        assert (radius["all"] <= radius[name] * (1 + 1e-3)).all(), name
    assert radius["runner-up"].mean() < radius["least"].mean()
    attacked = certnas.certify(model, x, y, targets="least")
    assert (attacked.radius_lower <= attacked.radius_upper).all()


def test_the_order_and_grouping_of_images_changes_nothing() -> None:
    model, x = relu(), images(9)
    y = labels(model, x)
    whole = certnas.certify(model, x, y, targets="random", attack=False)
    parts = certnas.certify(model, x, y, targets="random", attack=False, batch_size=2)
    late = certnas.certify(model, x[4:], y[4:], targets="random", attack=False, index=range(4, 9))
    np.testing.assert_allclose(parts.radius_lower, whole.radius_lower, rtol=2e-3)
    np.testing.assert_allclose(late.radius_lower, whole.radius_lower[4:], rtol=2e-3)


def test_certificates_in_another_order_are_the_same() -> None:
    model, x = relu(), images(4)
    found = certnas.certify(model, x, labels(model, x), attack=False)
    turned = found.ordered([9, 2, 0, 3, 1])
    assert turned.index.tolist() == [2, 0, 3, 1] and len(set(found.radius_lower.tolist())) == 4
    assert turned.radius_lower.tolist() == found.radius_lower[[2, 0, 3, 1]].tolist()
    assert turned.status == tuple(found.status[at] for at in (2, 0, 3, 1))


@pytest.mark.parametrize("classes_beyond", [0, 1])
def test_a_label_beyond_the_classes_is_refused(classes_beyond: int) -> None:
    model, x = relu(), images(2)
    y = labels(model, x)
    with torch.no_grad():
        y[1] = model(x).shape[1] + classes_beyond
    with pytest.raises(UserError, match="label"):
        certnas.certify(model, x, y, attack=False)


def test_eps_max_is_reached_exactly_and_never_passed() -> None:
    model, x = relu(), images(6)
    y = labels(model, x)
    free = certnas.certify(model, x, y, attack=False).radius_lower
    middle = float(np.median(free))
    got = certnas.certify(model, x, y, attack=False, eps_max=middle).radius_lower
    assert got.max() <= middle
    np.testing.assert_allclose(got, np.minimum(free, middle), rtol=2e-3)


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_images_that_hold_at_eps_max_are_certified_at_exactly_that(method: str) -> None:
    model, x = relu(), images(12)
    y = labels(model, x)
    free = certnas.certify(model, x, y, method=method, attack=False)
    most = float(Number().convert("2/255", None, None)) * float(np.median(free.radius_lower)) * 64
    got = certnas.certify(model, x, y, method=method, attack=False, eps_max=most)
    holds = free.radius_lower >= most
    assert 3 < holds.sum() < 12 and (got.radius_lower[holds] == most).all()
    assert got.certified_accuracy(most) == free.certified_accuracy(most) == holds.mean()
    assert got.evaluations.sum() <= free.evaluations.sum()


@pytest.mark.parametrize("tol", [1e-3, 0.1])
def test_radii_that_are_asked_about_are_tried_exactly(tol: float) -> None:
    """The radius of an affine network is known; radii a little below it and above it are tried."""
    model, x = affine(), images(1)
    y = labels(model, x)
    kept = dict(method="crown", clip=None, attack=False)
    exact = float(certnas.certify(model, x, y, tol=1e-5, **kept).radius_lower[0])
    plain = float(certnas.certify(model, x, y, tol=tol, **kept).radius_lower[0])
    below, above = exact * (1 - 1e-9), exact * (1 + 1e-4)
    assert plain < below
    for at, found in (((below,), below), ((above,), plain), ((plain, below, above, 2 * exact), below)):
        got = certnas.certify(model, x, y, tol=tol, at=at, **kept)
        assert got.radius_lower.tolist() == [found]
    assert certnas.certify(model, x, y, tol=tol, at=(below,), **kept).certified_accuracy(below) == 1
    capped = certnas.certify(model, x, y, tol=tol, at=(below,), eps_max=plain, **kept)
    assert capped.radius_lower.tolist() == [plain], "no radius beyond eps_max is tried"


def test_the_class_that_each_image_was_proved_against_is_told() -> None:
    model, x = relu(), images(9)
    y = labels(model, x)
    with torch.no_grad():
        logits = model(x)
    runner_up = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    got = {t: certnas.certify(model, x, y, targets=t, attack=False) for t in ("all", "random", "runner-up")}
    assert got["all"].target.tolist() == [-1] * 9
    assert got["runner-up"].target.tolist() == runner_up.tolist()
    assert (got["random"].target != y.numpy()).all() and len(set(got["random"].target.tolist())) > 2
    row = csv_text(got["runner-up"]).splitlines()[1].split(",")
    assert dict(zip(COLUMNS, row, strict=True))["target"] == str(int(runner_up[0]))
    assert dict(zip(COLUMNS, csv_text(got["all"]).splitlines()[1].split(","), strict=True))["target"] == ""


def test_a_constant_network_is_certified_for_the_whole_box() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    x = images(2)
    got = certnas.certify(model, x, torch.tensor([1, 1]), attack=False)
    assert (got.radius_lower <= 1).all() and (got.radius_lower >= 0.5).all()


class Constant(nn.Module):
    """Scores that no image decides, for class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.0, 1.0, -1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores + 0 * x.flatten(1)[:, :1]


@pytest.mark.parametrize("attack", [True, False])
@pytest.mark.parametrize("method", ["crown", "auto"])
def test_an_output_that_does_not_depend_on_the_input_is_certified_without_limit(
    method: str, attack: bool
) -> None:
    model, x, y = Constant().eval(), images(3), torch.tensor([1, 1, 0])
    free = certnas.certify(model, x, y, method=method, clip=None, attack=attack)
    assert free.radius_lower.tolist() == [math.inf, math.inf, 0]
    assert free.status == ("certified", "certified", "misclassified")
    assert free.radius_upper.tolist() == [math.inf, math.inf, 0 if attack else math.inf]
    assert any("does not depend on its input" in note for note in free.notes)
    assert csv_text(free).splitlines()[1].count("inf") >= 1
    short = certnas.certify(model, x, y, method=method, clip=None, eps_max=3.0, attack=attack)
    assert short.radius_lower.tolist() == [3.0, 3.0, 0]
    for norm, order in (("linf", math.inf), ("l2", 2), ("l1", 1)):
        boxed = certnas.certify(model, x, y, norm, method=method, attack=attack)
        reach = torch.maximum(x, 1 - x)[:2].double().flatten(1)
        assert np.allclose(boxed.radius_lower[:2], torch.linalg.vector_norm(reach, order, dim=1))
    with torch.no_grad():
        model.scores.zero_()
    assert certnas.certify(model, x, torch.tensor([0, 0, 1]), clip=None).status == (
        "zero",
        "zero",
        "misclassified",
    )


def test_a_constant_trace_of_a_model_that_varies_is_refused() -> None:
    class Counting(Constant):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.scores * self.calls + 0 * x.flatten(1)[:, :1]

    with pytest.raises(UserError, match="differs between images"):
        certnas.certify(Counting().eval(), images(2), torch.tensor([1, 1]))


@pytest.mark.parametrize("eps_max", [None, 100.0])
def test_a_search_that_nothing_limits_says_where_it_ends(eps_max: float | None) -> None:
    """Class 1 has the margin 1 at least, whatever the image; an affine network of the same batch has a limit."""

    class Rising(Constant):
        def forward(self, x: Tensor) -> Tensor:
            return self.scores * (1 + torch.sigmoid(x.flatten(1).sum(1, keepdim=True)))

    model, x, y = Rising().eval(), images(2), torch.tensor([1, 1])
    got = certnas.certify(model, x, y, method="ibp", clip=None, attack=False, eps_max=eps_max)
    assert (got.radius_lower >= (1e15 if eps_max is None else eps_max)).all()
    assert any("nothing limits some radii" in note for note in got.notes) == (eps_max is None)
    limited = affine()
    found = certnas.certify(limited, x, labels(limited, x), clip=None, attack=False, eps_max=eps_max)
    assert (found.radius_lower < 100).all() and not found.notes


def test_certified_beyond_attacked_stops_with_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound made a hundred times too good must be caught by the attack."""
    honest = bounds.lower_bounds

    def unsound(network: bounds.Network, region: bounds.Region, *rest: object, **more: object) -> Tensor:
        return honest(network, replace(region, eps=region.eps / 100), *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(bounds, "lower_bounds", unsound)
    model, x = relu(), images(4)
    with pytest.raises(SoundnessError, match="this is a bug in certnas") as caught:
        certnas.certify(model, x, labels(model, x), index=range(70, 74))
    evidence = caught.value.evidence
    assert 70 <= evidence.index < 74 and evidence.radius > evidence.distance
    assert evidence.margin_proved > 0 >= evidence.margin_found
    step = evidence.example - evidence.image
    assert np.abs(step).max() == pytest.approx(evidence.distance, rel=1e-9)


def test_the_search_may_pass_the_attack_so_that_the_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that lies (half of the true radius) must raise too: the search is not capped below it."""
    model, x = affine(), images(3)
    y = labels(model, x)
    true = certnas.certify(model, x, y, attack=False).radius_lower

    def lying(model: nn.Module, x: Tensor, y: Tensor, norm: str, **_: object) -> AdversarialExamples:
        return AdversarialExamples(torch.from_numpy(true / 2), x.double(), ("lie",) * len(x), ())

    monkeypatch.setattr(batch, "smallest_adversarial", lying)
    with pytest.raises(SoundnessError):
        certnas.certify(model, x, y)


def test_nothing_of_the_caller_is_changed() -> None:
    model, x = relu(), images(4)
    y = labels(model, x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    certnas.certify(model, x, y, targets="random")
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters()) and not model.training


def test_batches_and_progress_are_told_as_they_come() -> None:
    model, x = relu(), images(5)
    told: list[CertificationProgress] = []
    kept: list[Certificates] = []
    got = certnas.certify(
        model, x, labels(model, x), batch_size=2, progress=told.append, on_batch=kept.append, attack=False
    )
    assert [len(part) for part in kept] == [2, 2, 1] and Certificates.join(kept).status == got.status
    assert {p.stage for p in told} == {"attack", "search", "prove"}
    assert [p.done for p in told] == sorted(p.done for p in told) and told[-1].total == 5
    search = [p for p in told if p.stage == "search" and p.lower > 0]
    assert search and all(p.lower <= p.upper for p in search)


def broken_weight() -> nn.Module:
    model = affine()
    with torch.no_grad():
        model[1].weight[0, 0] = math.nan
    return model


X, Y = images(2), torch.tensor([0, 1])
REFUSED = {
    "norm": (dict(norm="l3"), "norm 'l3' is unknown; accepted: linf, l2, l1"),
    "method": (dict(method="magic"), "method 'magic' is unknown; accepted: ibp, crown-ibp, zonotope, "),
    "targets": (dict(targets="some"), "targets 'some' is unknown; accepted: all, random, least, runner-up"),
    "tol": (dict(tol=0.0), "tol is 0; accepted: a relative tolerance from 1e-05 to 0.5"),
    "eps": (dict(eps_max=-0.1), "eps-max is -0.1; accepted: a finite radius above 0, in input units"),
    "batch": (dict(batch_size=0), "batch-size is 0; accepted: at least 1 image"),
    "memory": (dict(memory=0), "memory is 0; accepted: a budget in bytes above 0"),
    "range": (dict(x=X * 0 + 255), "images go from 255 to 255; accepted: 0 to 1 (divide by 255; "),
    "nan image": (dict(x=X * math.nan), "images hold NaN or infinite values; accepted: floats in [0, 1]"),
    "dtype": (dict(x=X.long()), "images are torch.int64 of shape [2, 1, 4, 4]; accepted: floats"),
    "no images": (dict(x=X[:0], y=Y[:0]), "there are no images; give at least one"),
    "labels": (dict(y=Y.float()), "labels are torch.float32 of shape [2]; accepted: integers [2]"),
    "label range": (dict(y=Y + 9), "labels range from 9 to 10; the model has classes 0 to 4"),
    "index": (dict(index=[1]), "index names 1 images, there are 2"),
    "box": (
        dict(clip=(1.0, 0.0)),
        "clip is (1.0, 0.0); accepted: (lower, upper) with lower < upper, or None",
    ),
    "narrow box": (dict(clip=(0.2, 1.0)), "attacks search [0, 1]; widen the box or switch the attack off"),
    "training": (dict(model=relu().train()), "the model is in training mode; a certificate needs fixed"),
    "half": (dict(model=affine().bfloat16()), "the model computes in torch.bfloat16; accepted: float32"),
    "nan weight": (dict(model=broken_weight()), "the model's 1.weight [5, 16] holds NaN or infinite values"),
    "shape": (dict(x=torch.rand(2, 1, 5, 5)), "the model cannot be evaluated on images of shape [1, 5, 5]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_makes_no_sense_is_refused_in_one_line(name: str) -> None:
    change, text = REFUSED[name]
    request = dict(model=affine(), x=X, y=Y, norm="linf") | change
    with pytest.raises(UserError) as caught:
        certnas.certify(**request)  # type: ignore[arg-type]
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_gives_nan_is_named_with_its_image() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        model[1].weight.fill_(3e38)
    with pytest.raises(UserError, match="the model maps image 41 to NaN or infinity"):
        certnas.certify(nn.Sequential(model, Overflow()).eval(), X, Y, index=[41, 42])


class Overflow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 3e38 * 3e38 * 3e38 * 3e38 * 3e38 * 3e38 * 3e38 * 3e38 * 3e38


def test_an_operator_without_a_rule_is_named() -> None:
    class Erf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x.flatten(1)).real

    with pytest.raises(bounds.UnsupportedOp) as caught:
        certnas.certify(Erf().eval(), X, Y)
    assert "fft" in str(caught.value)


def test_the_docstring_runs() -> None:
    example = doctest.DocTestFinder().find(certification.certify, "certify", globs={})
    runner = doctest.DocTestRunner()
    assert sum(runner.run(test).attempted for test in example) >= 5 and runner.failures == 0


def test_a_margin_that_rounding_could_make_is_no_proof() -> None:
    """A bound above 0 by less than PROOF_MARGIN × (1 + max |logit|) shrinks the radius; just above it it holds."""
    needed = PROOF_MARGIN * (1 + 7.0)
    asked: list[torch.dtype] = []

    class Bounds:
        def lower_margin(self, eps: Tensor, image: Tensor, dtype: torch.dtype) -> Tensor:
            asked.append(dtype)
            enough = torch.tensor([1.01, 0.99, 0.99], dtype=torch.float64)[image] * needed
            return torch.where((image == 1) & (eps < 0.2), 2 * needed, enough)

    logits = torch.tensor([[3.0, -7.0], [7.0, 0.0], [0.0, 7.0]], dtype=torch.float64)
    radius = torch.full((3,), 0.2, dtype=torch.float64)
    farthest = torch.full((3,), torch.inf, dtype=torch.float64)
    proved, margin = batch._prove(Bounds(), radius, farthest, (), logits, 1e-3)  # type: ignore[arg-type]
    assert set(asked) == {torch.float64}
    assert proved.tolist() == [0.2, pytest.approx(0.2 * (1 - 1e-3)), 0.0]
    assert margin.tolist() == [1.01 * needed, 2 * needed, 0.0]
