"""The jobs of `certify` and `verify`, item by item, as a worker process receives them."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from certnas.certifier.certification import Certification, ImageBatch, batches, certification
from certnas.engine import Job
from certnas.errors import UserError
from certnas.jobs import verify as verify_job
from certnas.jobs.certify import CertifiedBatch, CertifyJob, Tightening
from certnas.jobs.verify import VerifiedInstance, VerifyJob
from certnas.proofs import check_file
from certnas.verifier.instances import Instance
from tests.test_verify_cli import network, prop


def small() -> tuple[Certification, list[ImageBatch]]:
    """A network whose interval bounds are loose, and two batches of its images."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(3, 1, 2, 2)
    y = model(x).argmax(1)
    return certification(model, x, y, method="ibp", tol=1e-2), batches(x, y, [5, 6, 7], 2)


def answers(job: Job[Any, Any], items: list[Any]) -> list[Any]:
    """The results of a job that was sent to a process, sent back."""
    work = pickle.loads(cloudpickle.dumps(job)).open(0)
    return [pickle.loads(pickle.dumps(work(item, lambda _: None))) for item in items]


TIGHTER = Tightening(seconds=20.0, targets="all", eps_max=None, at=(), seed=0, memory=None)


def test_batches_are_certified_as_the_certification_does() -> None:
    work, items = small()
    for found, alone in zip(answers(CertifyJob(work), items), answers(work, items), strict=True):
        assert isinstance(found, CertifiedBatch) and found.written == []
        assert found.certificates.index.tolist() == alone.index.tolist()
        assert found.certificates.radius_lower.tolist() == alone.radius_lower.tolist()
    assert CertifyJob(work).describe(items[0]) == "images 5 to 6"


def test_radii_are_raised_and_proved(tmp_path: Path) -> None:
    work, items = small()
    plain = answers(CertifyJob(work), items)
    raised = answers(CertifyJob(work, TIGHTER), items)
    proved = answers(CertifyJob(work, TIGHTER, tmp_path, about={"data": "drawn"}), items)
    for before, after, kept in zip(plain, raised, proved, strict=True):
        lower, higher = before.certificates.radius_lower, after.certificates.radius_lower
        assert (higher >= lower).all() and (higher > 1.02 * lower).any()
        assert (higher <= after.certificates.radius_upper).all() and after.written == []
        assert [one.index for one in kept.written] == kept.certificates.index.tolist()
        assert list(kept.certificates.proof) == [one.path.name for one in kept.written]
        assert (kept.certificates.radius_lower > 0.97 * higher).all()
        for one in kept.written:
            checked = check_file(one.path, work.request.model)
            assert checked.certificates[0].about["data"] == "drawn" and one.eps > 0


def test_the_tightening_is_given_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The box is that of the certification, the rest is that of the tightening."""
    from certnas import verifier

    asked: list[dict[str, Any]] = []

    def kept(net: Any, x: Any, y: Any, certificates: Any, **more: Any) -> Any:
        asked.append(more)
        return certificates

    monkeypatch.setattr(verifier, "tighten", kept)
    work, items = small()
    work = replace(work, request=replace(work.request, clip=(-0.5, 1.5)))
    how = Tightening(seconds=3.0, targets="least", eps_max=0.5, at=(0.1,), seed=9, memory=1 << 30)
    CertifyJob(work, how).open(0)(items[0], lambda _: None)
    expected = {"timeout": 3.0, "clip": (-0.5, 1.5), "targets": "least", "eps_max": 0.5, "at": (0.1,)}
    assert asked == [{**expected, "seed": 9, "memory": 1 << 30, "proved": None}]


def test_the_largest_radius_limits_the_tightening() -> None:
    work, items = small()
    (plain, *_) = answers(CertifyJob(work), items)
    largest = 1.01 * float(plain.certificates.radius_lower.max())
    (found, *_) = answers(CertifyJob(work, replace(TIGHTER, eps_max=largest)), items)
    assert float(found.certificates.radius_lower.max()) == largest


def test_a_worker_traces_for_the_tightening_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from certnas import verifier

    traced, honest = [], verifier.network_of
    monkeypatch.setattr(verifier, "network_of", lambda *given: traced.append(1) or honest(*given))
    work, items = small()
    worker = CertifyJob(work, replace(TIGHTER, seconds=0.5)).open(0)
    for item in items:
        worker(item, lambda _: None)
    assert traced == [1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network(tmp_path / "net.onnx")
    prop(tmp_path / "unsat.vnnlib", -0.76)
    prop(tmp_path / "sat.vnnlib", -0.7)
    return tmp_path


UNSAT, SAT, NONE = (Instance("net.onnx", f"{name}.vnnlib", None) for name in ("unsat", "sat", "none"))


def test_instances_are_verified(folder: Path) -> None:
    proofs = folder / "proofs"
    proofs.mkdir()
    job = VerifyJob(folder, "small", certificates=proofs)
    unsat, sat, none = answers(job, [UNSAT, SAT, NONE])
    assert all(isinstance(found, VerifiedInstance) for found in (unsat, sat, none))
    assert (unsat.result.verdict, sat.result.verdict, none.result.verdict) == ("unsat", "sat", "error")
    assert (unsat.result.category, unsat.result.network, unsat.result.prop) == (
        "small",
        "net.onnx",
        "unsat.vnnlib",
    )
    assert unsat.verdict.proof is None and unsat.verdict.note.startswith("certificate net_unsat.npz, ")
    assert [path.name for path in proofs.iterdir()] == ["net_unsat.npz"]
    assert sat.verdict.counterexample is not None and (unsat.error, sat.error) == ("", "")
    assert none.verdict is None and "none.vnnlib" in none.error
    assert job.describe(SAT) == "net.onnx sat.vnnlib"


def test_an_instance_alone_raises(folder: Path) -> None:
    with pytest.raises(UserError, match=r"none\.vnnlib"):
        answers(VerifyJob(folder, alone=True), [NONE])


def test_an_onnx_file_takes_no_preprocessing(folder: Path) -> None:
    job = VerifyJob(folder, opening={"mean": (0.5,), "std": None, "output": None}, alone=True)
    with pytest.raises(UserError, match="verified as it is stored: leave out --mean"):
        answers(job, [UNSAT])


def test_the_jobs_time_limit_goes_before_the_instances(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, honest = [], verify_job.verify

    def kept(*given: Any, **more: Any) -> Any:
        limits.append(more["timeout"])
        return honest(*given, **more)

    monkeypatch.setattr(verify_job, "verify", kept)
    for own, asked in ((None, None), (30.0, None), (30.0, 20.0), (None, 20.0)):
        VerifyJob(folder, timeout=asked).open(0)(replace(UNSAT, timeout=own), lambda _: None)
    assert limits == [None, 30.0, 20.0, 20.0]


def test_a_network_is_opened_once_for_its_instances(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, honest = [], verify_job.open_onnx
    monkeypatch.setattr(verify_job, "open_onnx", lambda *a, **k: opened.append(1) or honest(*a, **k))
    work = VerifyJob(folder).open(0)
    assert [work(one, lambda _: None).result.verdict for one in (UNSAT, SAT)] == ["unsat", "sat"]
    assert opened == [1]


def test_another_network_is_opened_by_the_options(folder: Path) -> None:
    opening = {"arch_options": {}, "input_shape": (2,)}
    (found,) = answers(VerifyJob(folder, opening=opening), [replace(UNSAT, network=f"{__name__}:plane")])
    assert (found.error, found.result.verdict) == ("", "sat")


def plane() -> nn.Module:
    """Y_0 = x0, Y_1 = x1, which meets the property at (−1, 1)."""
    return nn.Identity()
