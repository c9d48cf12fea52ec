"""`certify` as a job: what is asked for, batches, devices, halves where memory runs out, and progress."""

import inspect
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.certifier import certification as module
from certnas.certifier.batch import BATCH, CertificationRequest
from certnas.certifier.certificates import Certificates
from certnas.certifier.certification import (
    CertificationProgress,
    Certifier,
    ImageBatch,
    batches,
    certification,
    certify,
)
from certnas.certifier.planning import MethodPlan
from certnas.certifier.radius import Bracket
from certnas.certifier.request import TARGETS
from certnas.errors import UserError

X, Y = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(5, dtype=torch.long)


def affine() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([5.0, 0.0]))
    return model


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([2.0, 1.0]) + 0 * x[:, :1]


def test_what_is_not_asked_for_has_its_default() -> None:
    kept = {
        "norm": "linf", "method": "crown", "eps_max": None, "tol": 1e-3, "targets": "all", "attack": True,
        "clip": (0.0, 1.0), "seed": 0, "memory": None, "time_per_image": None, "at": (),
    }  # fmt: skip
    for function, more in (
        (certification, {"device": None}),
        (certify, {"batch_size": 16, "index": None, "engine": None, "progress": None, "on_batch": None}),
    ):
        given = {
            n: p.default for n, p in inspect.signature(function).parameters.items() if n not in "model x y"
        }
        assert given == kept | more
    assert BATCH == 16
    assert CertificationProgress(1, 2, "s", 3, 4) == CertificationProgress(1, 2, "s", 3, 4, 0.0, math.inf)
    model = affine()
    job = certification(model, X, Y)
    assert job.request == CertificationRequest(
        model, "linf", bounds.Crown(), None, 1e-3, None, True, (0.0, 1.0), 0, None, (), ()
    )
    assert (job.device, job.why) == (torch.device("cpu"), ())


def test_what_is_asked_for_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = affine()
    job = certification(
        model, X, Y, "l1", method="ibp", eps_max=0.5, tol=0.1, targets="least", attack=False, clip=None, seed=3,
        memory=99, device=torch.device("meta"), at=[0.1],
    )  # fmt: skip
    target = TARGETS["least"]
    assert job.request == CertificationRequest(
        model, "l1", bounds.IBP(), 0.5, 0.1, target, False, None, 3, 99, (), (0.1,)
    )
    assert job.device == torch.device("meta")
    assert job.describe(ImageBatch(X, Y, (7, 3, 9))) == "images 7 to 9"
    seen: list[Any] = []

    def planned(network: bounds.Network, *, seconds: float, memory: int | None) -> MethodPlan:
        seen.append((network.graph.output_shape, seconds, memory))
        return MethodPlan(bounds.IBP(), (bounds.Crown(),), ("because",))

    monkeypatch.setattr(module, "plan", planned)
    auto = certification(model, X, Y, method="auto", memory=7)
    assert (auto.request.methods, auto.why) == ((bounds.IBP(), bounds.Crown()), ("because",))
    certification(model, X, Y, method="auto", time_per_image=0.25)
    assert seen == [((2,), 10.0, 7), ((2,), 0.25, None)]
    fixed = certification(Fixed().eval(), X, Y, method="auto")
    assert fixed.request.methods == (bounds.IBP(),) and len(seen) == 2
    for more, said in (
        (dict(norm="l3"), "norm"), (dict(targets="x"), "targets"), (dict(clip=(0.5, 0.2)), "clip"),
        (dict(x=X + 9), "images go from"), (dict(model=affine().train()), "training"), (dict(method="x"), "method"),
        (dict(time_per_image=1.0), "only method auto"), (dict(time_per_image=0.0), "only method auto"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            certification(**{"model": model, "x": X, "y": Y, **more})


def test_batches_are_the_images_in_their_order() -> None:
    parts = batches(X, Y + torch.arange(5), [9, 8, 7, 6, 5], 2)
    assert [part.index for part in parts] == [(9, 8), (7, 6), (5,)]
    assert torch.equal(torch.cat([part.x for part in parts]), X)
    assert torch.cat([part.y for part in parts]).tolist() == [0, 1, 2, 3, 4]
    assert [len(part.index) for part in batches(X, Y, range(5), 5)] == [5]


def told_of(bracket: Bracket | None) -> CertificationProgress:
    return module._progress(9, "search", 4, bracket)


def test_progress_has_the_ends_of_what_is_open() -> None:
    lower, upper = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 7.0, 8.0])
    some = torch.tensor([False, True, True, False])
    assert (
        told_of(None)
        == told_of(Bracket(lower, upper, some & False))
        == CertificationProgress(0, 9, "search", 4, 4)
    )
    assert told_of(Bracket(lower, upper, some)) == CertificationProgress(0, 9, "search", 4, 2, 2.0, 7.0)


def request(model: nn.Module | None = None, **more: Any) -> CertificationRequest:
    return replace(certification(model or affine(), X, Y, attack=False, method="ibp").request, **more)


def test_the_network_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Part:
        def check(self, x: Tensor, eps_max: float | None) -> None:
            seen.append(("check", len(x), eps_max))

    def prover(model: nn.Module, x: Tensor, *given: Any) -> Part:
        seen.append(("prover", len(x), *given))
        return Part()

    def batch(asked: CertificationRequest, part: Any, x: Tensor, y: Tensor, index: Any, tell: Any) -> str:
        tell("attack", 3, None)
        assert asked is certifier.request and y.dtype == torch.long and isinstance(part, Part)
        return f"{len(x)} {index}"

    monkeypatch.setattr(module, "prover", prover)
    monkeypatch.setattr(module, "certify_batch", batch)
    asked = request(norm="l1", memory=77, eps_max=0.5)
    certifier, told = Certifier(asked, torch.device("cpu")), []
    found = [certifier(ImageBatch(X[:n], Y[:n].int(), tuple(range(n))), told.append) for n in (2, 3)]
    assert found == ["2 (0, 1)", "3 (0, 1, 2)"]
    assert told == [CertificationProgress(0, 2, "attack", 3, 3), CertificationProgress(0, 3, "attack", 3, 3)]
    ball = ("prover", 2, bounds.IBP(), bounds.L1, (0.0, 1.0), 77)
    assert seen == [ball, ("check", 2, 0.5), ("check", 3, 0.5)]


def test_a_constant_network_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, honest = [], module.prover
    monkeypatch.setattr(module, "prover", lambda *given: calls.append(1) or honest(*given))
    certifier = Certifier(request(Fixed().eval()), torch.device("cpu"))
    for n in (2, 3):
        found = certifier(ImageBatch(X[:n], Y[:n], tuple(range(n))), lambda at: None)
        assert found.status == ("certified",) * n
    assert len(calls) == 1


def test_a_batch_without_room_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    honest = module.certify_batch

    def short(
        asked: CertificationRequest, part: Any, x: Tensor, y: Tensor, index: Any, tell: Any
    ) -> Certificates:
        sizes.append(len(x))
        if len(x) > 1:
            raise bounds.OutOfMemory("none left")
        return honest(asked, part, x, y, index, tell)

    monkeypatch.setattr(module, "certify_batch", short)
    certifier = Certifier(request(), torch.device("cpu"))
    found = certifier(ImageBatch(X, Y, (9, 8, 7, 6, 5)), lambda at: None)
    assert sizes == [5, 3, 2, 1, 1, 1, 2, 1, 1] and found.index.tolist() == [9, 8, 7, 6, 5]
    monkeypatch.setattr(
        module, "certify_batch", lambda *given: (_ for _ in ()).throw(bounds.OutOfMemory("none"))
    )
    with pytest.raises(bounds.OutOfMemory):
        certifier(ImageBatch(X[:1], Y[:1], (0,)), lambda at: None)


class Backwards:
    """An engine that finishes the last batch first, and tells of each where it begins."""

    def run(self, job: Any, items: Any, tell: Any) -> Any:
        self.device = job.device
        certifier = job.open(0)
        for position in reversed(range(len(items))):
            yield position, certifier(items[position], lambda at, position=position: tell(position, at))


def test_any_order_of_batches_gives_the_same_certificates() -> None:
    told: list[CertificationProgress] = []
    parts: list[Certificates] = []
    kept: dict[str, Any] = {"attack": False, "method": "ibp", "index": [9, 8, 7, 6, 5], "batch_size": 2}
    found = certify(affine(), X, Y, engine=Backwards(), progress=told.append, on_batch=parts.append, **kept)  # type: ignore[arg-type]
    assert [part.index.tolist() for part in parts] == [[5], [7, 6], [9, 8]]
    assert found.index.tolist() == [9, 8, 7, 6, 5]
    plain = certify(affine(), X, Y, **kept)
    assert plain.index.tolist() == found.index.tolist() and (found.radius_lower > 0).all()
    assert {at.total for at in told} == {5}
    assert [at.done for at in told if at.stage == "attack"] == [0, 1, 3]
    assert certify(affine(), X, Y, attack=False, method="ibp").index.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="index names 2 images, there are 5"):
        certify(affine(), X, Y, index=[1, 2])
    with pytest.raises(UserError, match="batch-size is 0"):
        certify(affine(), X, Y, batch_size=0)
