"""Certificates that were tampered with: one slope, one bound, one weight, one byte; and the file and the command."""

import copy
import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from oracles import sample_region
from test_checker import certified, enclosure, image, small

from certnas.checker import (
    Certificate,
    CertificatePart,
    CheckedNetwork,
    ClaimedPlane,
    IntervalClaim,
    Planes,
    Rejected,
    check,
)
from certnas.checker.numbers import dyadic
from certnas.checker.relaxations import sandwiched
from certnas.proofs import encode, read
from cli.main import main

Rng = np.random.Generator
COUNT = 60


@pytest.fixture(scope="module")
def proved() -> tuple[Certificate, CheckedNetwork]:
    found, network = certified(small(), image(), "l2", 0.06)
    assert found is not None
    check(found, network, exact=False)
    return found, network


def refused(certificate: Certificate, network: CheckedNetwork, *, exact: bool = False) -> bool:
    try:
        check(certificate, network, exact=exact)
    except Rejected:
        return True
    return False


def one(array: np.ndarray, rng: Rng, change: Callable[[float], float]) -> np.ndarray:
    """A copy with one element changed."""
    changed = array.copy()
    at = np.unravel_index(rng.integers(changed.size), changed.shape)
    changed[at] = change(float(changed[at]))
    return changed


def with_steps(found: Certificate, steps: list[IntervalClaim]) -> Certificate:
    return replace(found, parts=(replace(found.parts[0], steps=tuple(steps)),))


def narrower(found: Certificate, rng: Rng) -> Certificate:
    """One claimed bound of one tensor moved inward."""
    steps = list(found.parts[0].steps)
    number = int(rng.integers(len(steps)))
    side, sign = (("lower", 1), ("upper", -1))[rng.integers(2)]
    moved = one(
        getattr(steps[number], side), rng, lambda v: v + sign * 10.0 ** rng.uniform(-7, -1) * (1 + abs(v))
    )
    steps[number] = replace(steps[number], **{side: moved})
    return with_steps(found, steps)


def higher(found: Certificate, rng: Rng) -> Certificate:
    (given,) = found.parts[0].refutations
    lie = replace(given, bounds=one(given.bounds, rng, lambda v: v + 10.0 ** rng.uniform(-7, 0)))
    return replace(found, parts=(replace(found.parts[0], refutations=(lie,)),))


def farther(found: Certificate, rng: Rng) -> Certificate:
    eps = found.eps * (1 + 10.0 ** rng.uniform(-5, 0))
    return replace(found, eps=eps, box=(np.maximum(found.x - eps, 0), np.minimum(found.x + eps, 1)))


def elsewhere(found: Certificate, rng: Rng) -> Certificate:
    x = one(found.x, rng, lambda v: (v + rng.uniform(0.05, 0.5)) % 1.0)
    return replace(found, x=x, box=(np.maximum(x - found.eps, 0), np.minimum(x + found.eps, 1)))


def larger_ball(found: Certificate, rng: Rng) -> Certificate:
    return replace(found, norm="linf")


LIES = {
    "a bound of a row": higher,
    "the radius": farther,
    "the image": elsewhere,
    "the norm": larger_ball,
}


@pytest.mark.parametrize("name", LIES)
def test_every_lie_is_rejected(name: str, proved: tuple[Certificate, CheckedNetwork]) -> None:
    found, network = proved
    rng = np.random.default_rng(11)
    count = 1 if name == "the norm" else COUNT
    assert [refused(LIES[name](found, rng), network) for _ in range(count)] == [True] * count


def test_a_narrower_claim_is_rejected_or_true(proved: tuple[Certificate, CheckedNetwork]) -> None:
    """A narrower claim may follow for units whose claim came from interval arithmetic; it then holds at every point."""
    found, network = proved
    rng, generator = np.random.default_rng(14), torch.Generator().manual_seed(0)
    x = torch.from_numpy(found.x)[None]
    points = sample_region(x, found.eps, found.norm, 0.0, 1.0, count=20, generator=generator).flatten(0, 1)
    rejected = 0
    for _ in range(COUNT):
        lie = narrower(found, rng)
        if refused(lie, network):
            rejected += 1
            continue
        (step,) = [
            new for new, old in zip(lie.parts[0].steps, found.parts[0].steps, strict=True) if new is not old
        ]
        inner = copy.copy(network)
        inner.output = step.target
        for point in points.numpy():
            low, high = enclosure(inner, point)
            assert (low >= step.lower - 1e-12).all() and (high <= step.upper + 1e-12).all()
    assert rejected > COUNT // 2


@pytest.mark.parametrize("name", LIES)
def test_every_lie_is_rejected_in_integers_too(name: str, proved: tuple[Certificate, CheckedNetwork]) -> None:
    found, network = proved
    rng = np.random.default_rng(12)
    assert all(refused(LIES[name](found, rng), network, exact=True) for _ in range(3))


def test_planes_that_do_not_hold_are_rejected(proved: tuple[Certificate, CheckedNetwork]) -> None:
    """One slope or intercept is moved.  Where the planes are no sandwich any more, and are used, nothing is proved."""
    found, network = proved
    rng = np.random.default_rng(13)
    used = {key: node for step in found.parts[0].steps for node, key in step.planes.items()}
    used |= {key: node for node, key in found.parts[0].refutations[0].planes.items()}
    boxes = {step.target: (step.lower, step.upper) for step in found.parts[0].steps}
    broken = caught = 0
    for _ in range(2 * COUNT):
        key = str(rng.choice(sorted(used)))
        both, node = found.planes[key], network.nodes[used[key]]
        side, part = str(rng.choice(["lower", "upper"])), str(rng.choice(["slope", "bias"]))
        plane = getattr(both, side)
        moved = one(getattr(plane, part), rng, lambda v: v + rng.choice([-1, 1]) * 10.0 ** rng.uniform(-5, 0))
        tampered = replace(both, **{side: replace(plane, **{part: moved})})
        box = boxes.get(node.operands[0])
        lies = box is not None and not sandwiched(node, tampered, *map(dyadic, box))
        result = refused(replace(found, planes=found.planes | {key: tampered}), network)
        broken, caught = broken + lies, caught + (lies and result)
    assert broken > COUNT // 2 and caught == broken


@pytest.mark.parametrize("seed", range(8))
def test_one_weight_changed_is_rejected(seed: int, proved: tuple[Certificate, CheckedNetwork]) -> None:
    """The digest gives it away, and the numbers do if the certificate is forged to name the changed network."""
    found, network = proved
    rng = np.random.default_rng(seed)
    model = small()
    with torch.no_grad():
        weight = (model.first.weight, model.second.weight, model.head.weight, model.norm.weight)[seed % 4]
        weight.view(-1)[rng.integers(weight.numel())] += 0.2
    _, changed = certified(model, image(), "l2", 0.0)
    with pytest.raises(Rejected, match="another network"):
        check(found, changed)
    ids = dict(zip(network.nodes, changed.nodes, strict=True))

    def renamed(planes: dict[str, str]) -> dict[str, str]:
        return {ids[node]: key for node, key in planes.items()}

    (part,), (given,) = found.parts, found.parts[0].refutations
    steps = tuple(replace(s, target=ids[s.target], planes=renamed(s.planes)) for s in part.steps)
    given = replace(given, planes=renamed(given.planes))
    forged = replace(found, network=changed.output, parts=(CertificatePart(steps, (given,)),))
    honest, _ = certified(model, image(), "l2", 0.06)
    bounds = None if honest is None else honest.parts[0].refutations[0].bounds
    assert refused(forged, changed) or (bounds is not None and (bounds >= given.bounds - 1e-6).all())


def test_a_sandwich_must_come_from_the_right_box() -> None:
    """relu ≤ x + 1 on [−1, 1] and not on [−2, 1]; 0.5x is no lower plane of it where x < 0 < … but 0 and x are."""
    network = CheckedNetwork((1,))
    arrays = {"kinks": np.zeros(1), "slopes": np.array([0.0, 1.0]), "value": np.zeros(())}
    node = network.nodes[network.add("piecewise", (network.input,), (1,), arrays)]

    def holds(lower: tuple[float, float], upper: tuple[float, float], low: float, high: float) -> bool:
        planes = [ClaimedPlane(np.full((1, 1), s), np.full((1, 1), b)) for s, b in (lower, upper)]
        return sandwiched(node, Planes(*planes), dyadic(np.array([low])), dyadic(np.array([high])))

    assert holds((0.0, 0.0), (1.0, 1.0), -1.0, 1.0)
    assert not holds((0.0, 0.0), (1.0, 1.0), -2.0, 1.0)
    assert holds((0.3, 0.0), (0.5, 0.5), -1.0, 1.0)
    assert not holds((1.2, 0.0), (0.5, 0.5), -1.0, 1.0)
    assert not holds((-0.1, 0.0), (0.5, 0.5), -1.0, 1.0)
    assert not holds((0.3, 2.0**-60), (0.5, 0.5), -1.0, 1.0)


def test_upper_planes_turn_at_kinks_too() -> None:
    """hardtanh on [−2, 3]: its chord passes below the kink at 1, and the line through (−2, −1) and (1, 1) does not."""
    network = CheckedNetwork((1,))
    arrays = {"kinks": np.array([-1.0, 1.0]), "slopes": np.array([0.0, 1.0, 0.0]), "value": np.full((), -1.0)}
    node = network.nodes[network.add("piecewise", (network.input,), (1,), arrays)]
    box = dyadic(np.array([-2.0])), dyadic(np.array([3.0]))
    for slope, bias, holds in (
        (0.5, 0.5, True),
        (0.375, -0.125, False),
        (0.0, 1.0, True),
        (0.0, 0.999, False),
    ):
        upper, lower = (
            ClaimedPlane(np.full((1, 1), slope), np.full((1, 1), bias)),
            ClaimedPlane(np.zeros((1, 1)), -np.ones((1, 1))),
        )
        assert sandwiched(node, Planes(lower, upper), *box) == holds
        mirrored = ClaimedPlane(np.full((1, 1), slope), np.full((1, 1), -bias))
        flipped = tuple(dyadic(np.array([end])) for end in (-3.0, 2.0))
        assert (
            sandwiched(node, Planes(mirrored, ClaimedPlane(np.zeros((1, 1)), np.ones((1, 1)))), *flipped)
            == holds
        )


def test_planes_of_a_maximum_against_all_corners() -> None:
    """An upper plane is accepted where no corner of the box is above it, a lower one only where none is below it."""
    rng = np.random.default_rng(0)
    network = CheckedNetwork((3,))
    index = np.array([[0, 1, 2, -1]])
    node = network.nodes[network.add("max", (network.input,), (1,), {"index": index})]
    seen = []
    for _ in range(300):
        low = rng.uniform(-1, 1, 3).round(2)
        high = low + rng.uniform(0, 1, 3).round(2)
        corners = np.stack(np.meshgrid(*np.stack([low, high], 1)), -1).reshape(-1, 3)
        w, v = rng.uniform(-0.1, 1, (2, 3)).round(2)
        if rng.random() < 0.5:
            w = w.clip(0) / w.clip(0).sum()
        t, s = (rng.choice([-0.3, 0.0, 0.3, 1.0], 2) + rng.uniform(-0.1, 0.1, 2)).round(2)
        upper = bool((corners @ v + s >= corners.max(1)).all())
        inside = low + rng.random((200, 3)) * (high - low)
        lower = bool(
            (np.concatenate([corners, inside]) @ w + t <= np.concatenate([corners, inside]).max(1)).all()
        )
        box = dyadic(low), dyadic(high)
        free = np.zeros((1, 1, 4)), np.full((1, 1), 9.0)  # planes far away, for the other side
        wide = [np.append(weights, 0.0).reshape(1, 1, 4) for weights in (w, v)]
        top, bottom = ClaimedPlane(wide[1], np.full((1, 1), s)), ClaimedPlane(wide[0], np.full((1, 1), t))
        found = (
            sandwiched(node, Planes(ClaimedPlane(free[0], -free[1]), top), *box),
            sandwiched(node, Planes(bottom, ClaimedPlane(*free)), *box),
        )
        assert found[0] == upper and (lower or not found[1])
        seen.append(found)
    assert 0.1 < np.mean([above for above, _ in seen]) < 0.9 and np.mean([below for _, below in seen]) > 0.1
    padded = ClaimedPlane(np.array([0.0, 0.0, 0.0, 0.5]).reshape(1, 1, 4), np.full((1, 1), 9.0))
    assert not sandwiched(node, Planes(ClaimedPlane(free[0], -free[1]), padded), *box), "padding has no value"


# Files.


def test_a_file_is_what_was_written(proved: tuple[Certificate, CheckedNetwork], tmp_path: Path) -> None:
    found, network = proved
    path = tmp_path / "one.npz"
    path.write_bytes(encode([found, found]))
    again = read(path)
    assert encode(again) == encode([found, found])
    assert (check(again[1], network) >= found.parts[0].refutations[0].bounds).all()


def test_damaged_and_foreign_files_are_refused(
    proved: tuple[Certificate, CheckedNetwork], tmp_path: Path
) -> None:
    data = encode([proved[0]])
    rng = np.random.default_rng(3)
    path = tmp_path / "one.npz"
    for attempt in range(120):
        broken = bytearray(data)
        at = int(rng.integers(len(data)))
        if attempt % 3 == 0:
            broken = broken[:at]
        else:
            broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        try:
            again = read(path)
        except ValueError:
            continue
        assert encode(again) == data, "a bit that means nothing, such as a date in the archive"


def test_a_pickle_inside_is_not_run(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = np.array([{"format": 1}], dtype=object)
    np.savez(buffer, header=header, numbers=np.zeros(0), seal=np.zeros(32, np.uint8), allow_pickle=True)
    path = tmp_path / "one.npz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="pickle"):
        read(path)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 20))
    monkeypatch.setattr("certnas.proofs.files.MOST_BYTES", 1 << 19)
    with pytest.raises(ValueError, match="more than a certificate may"):
        read(path)


# The commands.


def test_certify_writes_what_check_proves(tmp_path: Path) -> None:
    runner, folder = CliRunner(), tmp_path / "proofs"
    options = ["--images", "1", "--no-attack", "--eps-max", "0.03", "--certificates", str(folder)]
    result = runner.invoke(main, ["certify", "digits-cnn", *options])
    assert result.exit_code == 0 and "wrote 1 certificates" in result.output
    result = runner.invoke(main, ["check", str(folder), "digits-cnn", "--arithmetic", "float"])
    assert result.exit_code == 0 and "all 1 certificates are proved" in result.output
    assert re.search(
        r"class (\d) beats (\d to \d|[\d, to]+) within l∞ distance 0\.03 in \[0, 1\]", result.output
    )
    result = runner.invoke(main, ["check", str(folder), "digits-cell"])
    assert result.exit_code == 1 and "another network" in result.output
    files = sorted(folder.glob("*.npz"))
    (forged,) = read(files[0])
    eps = 1.5 * forged.eps
    files[0].write_bytes(encode([replace(forged, eps=eps)]))
    result = runner.invoke(main, ["check", str(files[0]), "digits-cnn"])
    assert result.exit_code == 1 and "its area is neither the ball of its radius" in result.output
    wide = np.maximum(forged.x - eps, 0), np.minimum(forged.x + eps, 1)
    files[0].write_bytes(encode([replace(forged, eps=eps, box=wide)]))
    result = runner.invoke(main, ["check", str(files[0]), "digits-cnn"])
    assert result.exit_code == 1 and "rejected" in result.output


def test_check_refuses_what_is_no_certificate(tmp_path: Path) -> None:
    runner = CliRunner()
    for path, said in ((tmp_path, "holds no certificate"), (tmp_path / "gone.npz", "no such file")):
        result = runner.invoke(main, ["check", str(path), "digits-cnn"])
        assert result.exit_code == 2 and said in result.output
