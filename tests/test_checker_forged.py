"""Attacks on the checker: certificates and files that say what is false, or that two readers could read in two ways."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checker_networks import claim, flat, lines, refutation

from certnas.checker import (
    Certificate,
    CertificatePart,
    CheckedNetwork,
    IntervalClaim,
    Rejected,
    Split,
    check,
)
from certnas.proofs import encode, read
from certnas.proofs import files as formats
from certnas.proofs.claims import claim as claim_of
from certnas.proofs.claims import digest

BOTH = pytest.mark.parametrize("exact", [False, True])


def honest() -> tuple[Certificate, CheckedNetwork]:
    """That |x| > −1/2 for |x| ≤ 1, in two halves, with a claim in each and one before."""
    network, both, bent = lines()
    planes, keys = flat(bent, 0.5)
    outside = IntervalClaim(both, np.full(2, -1.0 - 1e-9), np.full(2, 1.0 + 1e-9), {})
    steps = (outside, IntervalClaim(bent, np.full(2, -0.5 - 1e-9), np.full(2, 2.0), keys))
    halves = tuple(CertificatePart((steps[1],), (refutation(keys, 1.0, 0.25),)) for _ in range(2))
    parts = (CertificatePart(steps[:1], (), (Split(both, 0, 0.125, (1, 2)),)), *halves)
    return claim(network, parts, planes, -0.5), network


def arrays(of: Certificate) -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], Certificate]]]:
    """Every array of the certificate, and the certificate with another in its place."""

    def step(number: int, place: int, side: str) -> Callable[[np.ndarray], Certificate]:
        def put(array: np.ndarray) -> Certificate:
            steps = list(of.parts[number].steps)
            steps[place] = replace(steps[place], **{side: array})
            return with_part(of, number, replace(of.parts[number], steps=tuple(steps)))

        return put

    def refuting(name: str) -> Callable[[np.ndarray], Certificate]:
        def put(array: np.ndarray) -> Certificate:
            (given,) = of.parts[1].refutations
            lie = replace(given, **{name: array})
            return with_part(of, 1, replace(of.parts[1], refutations=(lie,)))

        return put

    def plane(side: str, name: str) -> Callable[[np.ndarray], Certificate]:
        def put(array: np.ndarray) -> Certificate:
            both = of.planes["p"]
            lie = replace(both, **{side: replace(getattr(both, side), **{name: array})})
            return replace(of, planes={"p": lie})

        return put

    (given,), both = of.parts[1].refutations, of.planes["p"]
    found: dict[str, tuple[np.ndarray, Callable[[np.ndarray], Certificate]]] = {
        "x": (of.x, lambda a: replace(of, x=a)),
        "low": (of.box[0], lambda a: replace(of, box=(a, of.box[1]))),
        "high": (of.box[1], lambda a: replace(of, box=(of.box[0], a))),
        "rows": (of.rows, lambda a: replace(of, rows=a)),
        "offsets": (of.offsets, lambda a: replace(of, offsets=a)),
    }
    for number, side in ((0, "lower"), (0, "upper"), (1, "lower"), (1, "upper")):
        found[f"{side} of part {number}"] = (getattr(of.parts[number].steps[0], side), step(number, 0, side))
    for name in ("mix", "bounds", "multipliers"):
        found[name] = (getattr(given, name), refuting(name))
    for side in ("lower", "upper"):
        for name in ("slope", "bias"):
            found[f"{side} {name}"] = (getattr(getattr(both, side), name), plane(side, name))
    return found


def with_part(of: Certificate, number: int, part: CertificatePart) -> Certificate:
    return replace(of, parts=(*of.parts[:number], part, *of.parts[number + 1 :]))


NAMES = sorted(arrays(honest()[0]))


@BOTH
def test_the_honest_certificate_is_proved(exact: bool) -> None:
    made, network = honest()
    assert 0.2 < check(made, network, exact=exact)[0] <= 0.5


class Masked(np.ndarray):
    """An array of a class of its own."""


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "NaN": lambda a: np.full_like(a, np.nan),
    "infinity": lambda a: np.full_like(a, np.inf),
    "minus infinity": lambda a: np.full_like(a, -np.inf),
    "float32": lambda a: a.astype(np.float32),
    "long double": lambda a: a.astype(np.longdouble) + np.longdouble(2) ** -60,
    "big endian": lambda a: a.astype(">f8"),
    "integers": lambda a: np.ones(a.shape, dtype=np.int64),
    "truth values": lambda a: np.ones(a.shape, dtype=bool),
    "complex": lambda a: a + 1j,
    "objects": lambda a: a.astype(object),
    "texts": lambda a: a.astype(str),
    "masked": lambda a: np.ma.masked_array(a, mask=np.ones(a.shape, dtype=bool)),
    "a subclass": lambda a: a.view(Masked),
    "a list": lambda a: a.tolist(),
    "a number": lambda a: float(a.reshape(-1)[0]),
    "nothing": lambda a: None,
    "an axis more": lambda a: a[None],
    "an axis less": lambda a: a[0],
    "twice as long": lambda a: np.concatenate([a, a]),
    "empty": lambda a: a[:0],
    "huge": lambda a: np.full_like(a, 1e308),
    "huge below 0": lambda a: np.full_like(a, -1e308),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_another_form_prove_nothing(name: str, form: str) -> None:
    """Rejected in both arithmetics, or true all the same; never anything but a rejection."""
    made, network = honest()
    array, put = arrays(made)[name]
    lie = put(FORMS[form](array))
    for exact in (False, True):
        try:
            derived = check(lie, network, exact=exact)
        except Rejected:
            continue
        assert "huge" in form and true(lie, derived), f"{name} as {form} was accepted"


def true(of: Certificate, derived: np.ndarray) -> bool:
    """Whether |x| really exceeds what was proved, at points of the area."""
    low, high = max(of.box[0][0], of.x[0] - of.eps), min(of.box[1][0], of.x[0] + of.eps)
    points = np.abs(np.array([low, high, np.clip(0.0, low, high)]))
    excess = of.rows[:, :, 0] * points[:, None, None] - of.offsets
    return bool((excess.max(2).min(0) >= derived - 1e-12).all())


@BOTH
def test_numbers_changed_at_random_prove_nothing_false(exact: bool) -> None:
    made, network = honest()
    rng = np.random.default_rng(0)
    special = [5e-324, -5e-324, 2.0**-1022, 0.0, -0.0, 2.0**100, 2.0**101, 1e308, -1.0, 1.0]
    accepted = 0
    for _ in range(120):
        name = NAMES[rng.integers(len(NAMES))]
        array, put = arrays(made)[name]
        changed = array.copy()
        at = np.unravel_index(rng.integers(changed.size), changed.shape)
        near = changed[at] + rng.choice([-1, 1]) * 10.0 ** rng.uniform(-12, 1)
        changed[at] = rng.choice(special) if rng.random() < 0.5 else near
        lie = put(changed)
        try:
            derived = check(lie, network, exact=exact)
        except Rejected:
            continue
        accepted += 1
        assert true(lie, derived), f"{name} = {changed.tolist()}"
    assert 10 < accepted < 110


@BOTH
def test_the_order_of_arrays_in_memory_does_not_matter(exact: bool) -> None:
    """Fortran's order and views with gaps hold the same numbers, and have the same digest."""
    made, network = honest()
    wide = np.zeros((4, 6))
    wide[::2, ::3] = [[1.0, 2], [3, 4]]
    gaps = wide[::2, ::3]
    assert digest(gaps) == digest(np.asfortranarray(gaps)) == digest(gaps.copy())
    changed = made
    for name in NAMES:
        array, put = arrays(changed)[name]
        spread = np.zeros((*array.shape, 2))
        spread[..., 0] = array
        changed = put(spread[..., 0])
    assert (check(changed, network, exact=exact) == check(made, network, exact=exact)).all()
    assert encode([changed]) == encode([made])


SPLITS: dict[str, dict[str, Any]] = {
    "a point that is no number": {"point": np.nan},
    "an infinite point": {"point": np.inf},
    "an infinite point below": {"point": -np.inf},
    "a whole point": {"point": 0},
    "a text": {"point": "0"},
    "a unit that there is not": {"unit": 2},
    "a unit counted from the end": {"unit": -1},
    "a unit with a point": {"unit": 0.0},
    "halves that are itself": {"halves": (0, 0)},
    "halves counted from the end": {"halves": (-2, -1)},
    "a half that there is not": {"halves": (1, 3)},
    "one half": {"halves": (1,)},
    "halves with a point": {"halves": (1.0, 2.0)},
    "a tensor that there is not": {"tensor": "0" * 64},
    "a tensor that is a list": {"tensor": ["0" * 64]},
}


@pytest.mark.parametrize("name", SPLITS)
def test_splits_that_are_none_prove_nothing(name: str) -> None:
    made, network = honest()
    (split,) = made.parts[0].splits
    lie = with_part(made, 0, replace(made.parts[0], splits=(replace(split, **SPLITS[name]),)))
    for exact in (False, True):
        with pytest.raises(Rejected):
            check(lie, network, exact=exact)


HEADS: dict[str, dict[str, Any]] = {
    "another network": {"network": "0" * 64},
    "no network": {"network": None},
    "another norm": {"norm": "linf "},
    "a norm that is a list": {"norm": ["linf"]},
    "no radius": {"eps": None},
    "a radius that is a text": {"eps": "1"},
    "a whole radius": {"eps": 1},
    "a radius that is no number": {"eps": np.nan},
    "an infinite radius": {"eps": np.inf},
    "a radius below 0": {"eps": -1.0},
    "a radius of long double": {"eps": np.longdouble(1) + np.longdouble(2) ** -60},
    "no parts": {"parts": ()},
    "parts that are none": {"parts": None},
    "no planes": {"planes": {}},
    "planes that are none": {"planes": {"p": None}},
    "no clauses": {"rows": np.zeros((0, 1, 1)), "offsets": np.zeros((0, 1))},
    "clauses without constraints": {"rows": np.zeros((1, 0, 1)), "offsets": np.zeros((1, 0))},
    "a clause that occurs twice": {"rows": np.ones((2, 1, 1)), "offsets": np.full((2, 1), -0.5)},
    "a clause that is not refuted": {"rows": np.ones((2, 1, 1)), "offsets": np.array([[-0.5], [-0.6]])},
    "offsets of one constraint more": {"offsets": np.full((1, 2), -0.5)},
    "offsets without an axis": {"offsets": np.full(1, -0.5)},
}


@pytest.mark.parametrize("name", HEADS)
def test_certificates_with_a_false_head_prove_nothing(name: str) -> None:
    made, network = honest()
    for exact in (False, True):
        with pytest.raises(Rejected):
            check(replace(made, **HEADS[name]), network, exact=exact)


def test_an_area_is_as_large_as_the_arithmetic_is_proved_for() -> None:
    made, network = honest()
    for size, said in ((2.0**100, "grow beyond"), (np.nextafter(2.0**100, np.inf), "is not bounded")):
        wide = replace(made, eps=size, box=(np.full(1, -size), np.full(1, size)))
        with pytest.raises(Rejected, match=said):
            check(wide, network)
    point = replace(made, eps=0.0, box=(np.zeros(1), np.zeros(1)))
    assert check(point, network)[0] > 0, "one point is an area"


def test_trees_that_go_on_for_ever_end() -> None:
    made, network = honest()
    (split,) = made.parts[0].splits
    deep = tuple(
        CertificatePart((), (), (replace(split, point=0.0, halves=(i + 1, i + 1)),)) for i in range(3000)
    )
    with pytest.raises(Rejected):
        check(replace(made, parts=(*deep, CertificatePart((), ()))), network)


# Claims


def test_a_ball_outside_of_the_pixels_is_no_claim_about_pixels() -> None:
    """All points of it in [0, 1] are none, and then everything is true of them."""
    made, _ = honest()
    rows = np.array([[[1.0, -1.0]]])
    inside = replace(made, rows=rows, offsets=np.zeros((1, 1)), x=np.array([0.5]), eps=0.75,
                     box=(np.zeros(1), np.ones(1)))  # fmt: skip
    assert claim_of(inside).clipped
    whole = replace(inside, box=(np.full(1, -0.25), np.full(1, 1.25)))
    assert not claim_of(whole).clipped
    for x, box in ((2.0, (1.25, 1.0)), (-1.0, (0.0, -0.25)), (1.25, (0.5, 1.0)), (0.5, (0.0, 0.75))):
        away = replace(inside, x=np.array([x]), box=(np.full(1, box[0]), np.full(1, box[1])))
        with pytest.raises(Rejected, match="its area is neither the ball"):
            claim_of(away)


# Files


def stored(**changed: Any) -> bytes:
    """A file of one certificate; `header` changes the header or gives its text, `numbers` changes the numbers."""
    with np.load(io.BytesIO(encode([honest()[0]]))) as held:
        text, numbers = held["header"].tobytes(), held["numbers"]
    if "header" in changed:
        given = changed["header"](json.loads(text))
        text = given if isinstance(given, bytes) else json.dumps(given, sort_keys=True).encode()
    numbers = changed.get("numbers", lambda n: n)(numbers)
    entries = {
        "header": np.frombuffer(text, np.uint8),
        "numbers": numbers,
        "seal": formats._seal(text, numbers),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **(entries | changed.get("more", {})))
    return buffer.getvalue()


def head(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: header | {"certificates": [header["certificates"][0] | fields]}


def part(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Changes the first part."""

    def changed(header: dict[str, Any]) -> dict[str, Any]:
        (held,) = header["certificates"]
        parts = [change(held["parts"][0]), *held["parts"][1:]]
        return header | {"certificates": [held | {"parts": parts}]}

    return changed


def split(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    places = ("tensor", "unit", "point", "halves")

    def changed(held: dict[str, Any]) -> dict[str, Any]:
        (given,) = held["splits"]
        return held | {"splits": [[fields.get(n, v) for n, v in zip(places, given, strict=True)]]}

    return part(changed)


def twice(header: dict[str, Any]) -> bytes:
    """The header with a second radius, which the first reader of it might believe."""
    text = json.dumps(header, sort_keys=True)
    return text.replace('"eps"', '"eps": "0x1.8p+3", "eps"', 1).encode()


def longer(shape: list[int]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def changed(header: dict[str, Any]) -> dict[str, Any]:
        (held,) = header["certificates"]
        return header | {"certificates": [held | {"arrays": [shape, *held["arrays"][1:]]}]}

    return changed


FILES: dict[str, dict[str, Any]] = {
    "a key twice": {"header": twice},
    "a header with spaces": {"header": lambda h: json.dumps(h, sort_keys=True, indent=1).encode()},
    "keys in another order": {"header": lambda h: json.dumps(dict(reversed(h.items()))).encode()},
    "another format": {"header": lambda h: h | {"format": 2}},
    "a format of true": {"header": lambda h: h | {"format": True}},
    "no certificates' list": {"header": lambda h: h | {"certificates": 5}},
    "a header that is a list": {"header": lambda h: [h]},
    "no header": {"header": lambda h: b""},
    "bytes that are no text": {"header": lambda h: b"\xff\xfe{"},
    "digests that are lists": {"header": lambda h: h | {"digests": [["a"], ["b"]]}},
    "digests left out": {"header": lambda h: h | {"digests": []}},
    "about a text": {"header": head(about="label")},
    "about a number": {"header": head(about=5)},
    "about nothing": {"header": head(about=None)},
    "a field left out": {"header": lambda h: h | {"certificates": [{}]}},
    "a part in no split": {"header": lambda h: head(parts=h["certificates"][0]["parts"] * 2)(h)},
    "a half in two splits": {"header": split(halves=[1, 1])},
    "a half of itself": {"header": split(halves=[0, 1])},
    "halves of three": {"header": split(halves=[1, 2, 3])},
    "halves with a point": {"header": split(halves=[1.5, 2.5])},
    "a point that is a number": {"header": split(point=0.125)},
    "a digest that there is not": {"header": split(tensor=99)},
    "a shape below 0": {"header": longer([-1])},
    "a shape with a point": {"header": longer([1.0])},
    "a shape of true": {"header": longer([True])},
    "a huge shape": {"header": longer([1 << 60])},
    "a shape that is none": {"header": longer("1")},  # type: ignore[arg-type]
    "numbers too many": {"numbers": lambda n: np.append(n, 0.0)},
    "numbers too few": {"numbers": lambda n: n[:-1]},
    "numbers of float32": {"numbers": lambda n: n.astype(np.float32)},
    "numbers of the other byte order": {"numbers": lambda n: n.astype(">f8")},
    "numbers in columns": {"numbers": lambda n: np.asfortranarray(n.reshape(-1, 1))},
    "numbers of which one is NaN": {"numbers": lambda n: np.where(np.arange(len(n)) == 3, np.nan, n)},
    "numbers of which one is infinite": {"numbers": lambda n: np.where(np.arange(len(n)) == 0, np.inf, n)},
    "numbers that are objects": {"more": {"numbers": np.array([{}], dtype=object)}},
    "an entry more": {"more": {"claim": np.zeros(1)}},
    "another seal": {"more": {"seal": np.zeros(32, np.uint8)}},
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_as_they_are_written_are_refused(name: str) -> None:
    assert encode(read(io.BytesIO(stored()))) == encode([honest()[0]])
    with pytest.raises(ValueError):
        read(io.BytesIO(stored(**FILES[name])))


@pytest.mark.parametrize("shape", [[-1], [2, -1], [0, -1], [True], [2.0], ["1"]])
def test_shapes_of_arrays_are_whole_numbers_from_0(shape: list[Any]) -> None:
    """A length below 0 would take numbers twice."""
    with pytest.raises(ValueError, match="whole numbers from 0"):
        formats._Unpacking(np.arange(4.0), []).array(shape)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["header.npy", "numbers.npy", "seal.npy"])
def test_an_entry_that_stands_twice_is_refused(name: str) -> None:
    """One reader takes the first of that name, another the last."""
    buffer = io.BytesIO(stored())
    with zipfile.ZipFile(buffer) as archive:
        held = archive.read(name)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, held)
    with pytest.raises(ValueError, match="each once"):
        read(buffer)


def truncated() -> Iterator[bytes]:
    data = stored()
    yield from (data[:size] for size in range(0, len(data), 97))


def test_every_truncated_file_is_refused() -> None:
    for data in truncated():
        with pytest.raises(ValueError):
            read(io.BytesIO(data))


def test_a_header_that_claims_more_than_the_file_holds_is_refused() -> None:
    """An .npy that says it has 2⁵⁰ numbers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        with zipfile.ZipFile(io.BytesIO(stored())) as given:
            for name in ("header.npy", "seal.npy"):
                archive.writestr(name, given.read(name))
        said = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            said, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
        )
        archive.writestr("numbers.npy", said.getvalue())
    with pytest.raises(ValueError):
        read(buffer)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "nowhere.npz").symlink_to(tmp_path / "gone.npz")
    (tmp_path / "self.npz").symlink_to(tmp_path / "self.npz")
    for path in sorted(tmp_path.glob("*.npz")):
        with pytest.raises(ValueError, match="not a regular file"):
            read(path)
    (tmp_path / "real.npz").write_bytes(stored())
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    assert encode(read(tmp_path / "link.npz")) == encode(read(tmp_path / "real.npz"))
