"""Forged certificates of properties: trees of splits with one thing changed; parts of the area without points."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checker_networks import claim, flat, lines, refutation
from property_networks import least
from test_proofs import ROW, certified, nearly

from certnas.checker import (
    Certificate,
    CertificatePart,
    CheckedNetwork,
    ClaimedPlane,
    Planes,
    Refutation,
    Rejected,
    Split,
    check,
)
from certnas.proofs import encode, read
from certnas.proofs.claims import covers
from certnas.verifier import Property, search


def altered(found: Certificate, change: Callable[[CertificatePart], CertificatePart]) -> list[Certificate]:
    """One part changed, for each part that the change changes."""
    certificates = []
    for number, part in enumerate(found.parts):
        lie = change(part)
        if lie is not part:
            certificates.append(
                replace(found, parts=(*found.parts[:number], lie, *found.parts[number + 1 :]))
            )
    return certificates


def refuting(change: Callable[[Refutation], Refutation]) -> Callable[[CertificatePart], CertificatePart]:
    """Changes the refutations of a part."""

    def changed(part: CertificatePart) -> CertificatePart:
        if not part.refutations:
            return part
        return replace(part, refutations=tuple(change(given) for given in part.refutations))

    return changed


def splitting(change: Callable[[Split], Split]) -> Callable[[CertificatePart], CertificatePart]:
    return lambda p: replace(p, splits=tuple(change(s) for s in p.splits)) if p.splits else p


def less_one(given: Refutation) -> Refutation:
    return replace(given, multipliers=np.where(given.multipliers > 0, -given.multipliers, -1.0))


LIES: dict[str, Callable[[CertificatePart], CertificatePart]] = {
    "a leaf removed": lambda part: part if part.splits else CertificatePart((), ()),
    "a split removed": lambda part: replace(part, splits=()) if part.splits else part,
    "a bound raised": refuting(lambda r: replace(r, bounds=r.bounds + 10.0)),
    "a bound that is not above 0": refuting(lambda r: replace(r, bounds=r.bounds * 0)),
    "multipliers below 0": refuting(lambda r: less_one(r) if r.multipliers.size else r),
    "multipliers left out": refuting(lambda r: replace(r, multipliers=r.multipliers[:, :-1])),
    "a share below 0": refuting(lambda r: replace(r, mix=-r.mix)),
    "another clause": refuting(lambda r: replace(r, clauses=(1,))),
    "one half twice": splitting(lambda s: replace(s, halves=(s.halves[0], s.halves[0]))),
    "halves exchanged": splitting(lambda s: replace(s, halves=s.halves[::-1])),
    "a half before its whole": splitting(lambda s: replace(s, halves=(0, 0))),
    "no such unit": splitting(lambda s: replace(s, unit=99)),
    "no such tensor": splitting(lambda s: replace(s, tensor="0" * 64)),
}


Tree = tuple[Certificate, CheckedNetwork, Property, float]
"""A certificate of several parts, what it is about, and the least excess of sampled points."""


@pytest.fixture(scope="module", params=[0, 24], ids=["activations", "inputs"])
def tree(request: pytest.FixtureRequest) -> Tree:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FEW_INPUTS", request.param)
        network, prop, shape, bound = nearly("dense", 0.1)
        (found,), made = certified(network, prop, shape)
    assert len(found.parts) > 4
    return found, made, prop, float((least(network, prop.clauses[0].box, shape) @ ROW).min()) - bound


@pytest.mark.parametrize("name", LIES)
def test_forged_trees_are_rejected(name: str, tree: Tree) -> None:
    found, made, *_ = tree
    forged = altered(found, LIES[name])
    assert forged
    for lie in forged[:: 1 + len(forged) // 5]:
        with pytest.raises(Rejected):
            check(lie, made)
    with pytest.raises(Rejected):
        check(forged[-1], made, exact=True)


def test_forged_claims_are_rejected(tree: Tree) -> None:
    """A claim that sampled points contradict; and one that is true of another property."""
    found, made, prop, _ = tree
    wide = found.x - 3, found.x + 3
    for lie in (
        replace(found, offsets=found.offsets + 2.0),
        replace(found, rows=-found.rows, offsets=-found.offsets),
        replace(found, box=wide, eps=3.0),
    ):
        with pytest.raises(Rejected):
            check(lie, made)
    narrower = replace(found, box=(found.box[0], found.box[1] - 0.01))
    easier = replace(found, offsets=found.offsets - 0.01)
    for lie in (narrower, easier):
        assert check(lie, made)[0] > 0 and not covers([lie], prop)


def test_moved_splits_and_planes_prove_nothing_false(tree: Tree) -> None:
    """Points of splits, multipliers and slopes moved at random: many are rejected, and what is proved stays true."""
    found, made, _, least_excess = tree
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(30):
        lies = altered(found, splitting(lambda s: replace(s, point=s.point + rng.normal())))
        if rng.random() < 0.3:
            lies = altered(found, refuting(lambda r: replace(r, multipliers=r.multipliers + rng.random())))
        if rng.random() < 0.5:
            key = str(rng.choice(sorted(found.planes)))
            both = found.planes[key]
            moved = replace(both.lower, slope=both.lower.slope + rng.normal(size=both.lower.slope.shape))
            lies = [replace(found, planes={**found.planes, key: replace(both, lower=moved)})]
        lie = lies[rng.integers(len(lies))]
        try:
            derived = check(lie, made)
        except Rejected:
            rejected += 1
            continue
        assert derived[0] <= least_excess
    assert rejected > 8


# Parts without points.


@pytest.mark.parametrize("exact", [False, True])
def test_splits_that_leave_no_room(exact: bool) -> None:
    network, both, bent = lines()
    planes, keys = flat(bent, 0.5)
    open_ = CertificatePart((), (refutation(keys, 1.0, 0.0),))
    parts = (CertificatePart((), (), (Split(both, 0, -3.0, (1, 2)),)), CertificatePart((), ()), open_)
    assert check(claim(network, parts, planes, -0.5), network, exact=exact)[0] > 0, "a ≤ −3 is impossible"
    swapped = (replace(parts[0], splits=(Split(both, 0, 3.0, (1, 2)),)), *parts[1:])
    with pytest.raises(Rejected):
        check(claim(network, swapped, planes, -0.5), network, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_splits_that_contradict_each_other(exact: bool) -> None:
    """a ≥ 1/2 and b = −a ≥ 1/2: Σ β (z − 1/2) = −1 for β = (1, 1), so no multiple of a row is needed."""
    network, both, bent = lines()
    planes, keys = flat(bent, 0.5)

    def tree(mix: float, first: float, second: float, point: float) -> Certificate:
        either = CertificatePart((), (refutation(keys, 1.0, 0.0),))
        inner = CertificatePart((), (), (Split(both, 1, point, (3, 4)),))
        ends = (
            CertificatePart((), (refutation(keys, 1.0, 0.0, 0.0),)),
            CertificatePart((), (refutation(keys, mix, first, second),)),
        )
        whole = CertificatePart((), (), (Split(both, 0, point, (1, 2)),))
        return claim(network, (whole, either, inner, *ends), planes, -0.25)

    assert check(tree(0.0, 1.0, 1.0, 0.5), network, exact=exact)[0] > 0
    for mix, first, second, point in ((0.0, 1.0, 0.0, 0.5), (0.0, 1.0, 1.0, -0.5), (0.0, 0.0, 0.0, 0.5)):
        with pytest.raises(Rejected):
            check(tree(mix, first, second, point), network, exact=exact)


def test_a_file_whose_parts_are_no_tree_is_refused(tree: Tree, tmp_path: Path) -> None:
    """Parts that belong to two splits could make a check take for ever."""
    found, *_ = tree
    path = tmp_path / "one.npz"
    path.write_bytes(encode([found]))
    assert encode(read(path)) == encode([found])
    (lie, *_) = altered(found, splitting(lambda s: replace(s, halves=(s.halves[0], s.halves[0]))))
    path.write_bytes(encode([lie]))
    with pytest.raises(ValueError, match="do not form a tree"):
        read(path)


@pytest.mark.parametrize("exact", [False, True])
def test_planes_hold_only_in_the_part_where_they_were_proved(exact: bool) -> None:
    """relu(z) ≤ 0 for z ≤ 0 alone: what proves |x| < 1.6 where a ≤ 0 does not where a ≥ 0."""
    network, both, bent = lines()
    ones = np.ones((1, 2))
    under = ClaimedPlane(0 * ones, 0 * ones)
    planes = {
        "both": Planes(under, ClaimedPlane(ones * [0.5, 0.5], ones * 0.6)),
        "none": Planes(under, ClaimedPlane(ones * [0.0, 0.5], ones * [0.0, 0.6])),
    }

    def tree(above: str) -> Certificate:
        keys = ({bent: key} for key in ("none", above))
        ends = (CertificatePart((), (refutation(own, 1.0, 0.0),)) for own in keys)
        made = claim(network, (CertificatePart((), (), (Split(both, 0, 0.0, (1, 2)),)), *ends), planes, -1.6)
        return replace(made, rows=-made.rows)

    assert check(tree("both"), network, exact=exact)[0] > 0
    with pytest.raises(Rejected, match="do not hold on its box"):
        check(tree("none"), network, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_shares_below_0_would_prove_anything(exact: bool) -> None:
    """y ≤ 5 and y ≤ 3 are met together everywhere, though −(y − 5) + (y − 3) = 2; y ≤ 2 and y ≤ −6 nowhere."""
    network, _, bent = lines()
    planes, keys = flat(bent, 0.5)
    for mix, offsets, holds in (
        ([-1.0, 1.0], [5.0, 3.0], False),
        ([0.5, 0.5], [5.0, 3.0], False),
        ([0.5, 0.5], [2.0, -6.0], True),
    ):
        given = Refutation((0,), np.array([mix]), np.full(1, 2.0**-20), keys, np.zeros((1, 0)))
        made = claim(network, (CertificatePart((), (given,)),), planes, 0.0)
        both = replace(made, rows=np.ones((1, 2, 1)), offsets=np.array([offsets]))
        if holds:
            assert check(both, network, exact=exact)[0] > 0
        else:
            with pytest.raises(Rejected):
                check(both, network, exact=exact)
