"""Files of certificates: what is written is read back, what is checked is what is kept, and how much it may cost."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.checker import (
    Certificate,
    CertificatePart,
    CheckedNetwork,
    ClaimedPlane,
    IntervalClaim,
    Planes,
    Refutation,
    Rejected,
    Split,
    check,
)
from certnas.errors import UserError
from certnas.proofs import (
    arithmetic,
    assured,
    certificate_of,
    check_file,
    checking,
    encode,
    faithful,
    files,
    plain,
    read,
)
from certnas.proofs.arithmetic import checked, exact_work
from certnas.proofs.claims import digest
from certnas.verifier import Box, Clause, Constraint, Property

X = np.array([0.5, 0.25])


def planes(size: int, value: float) -> Planes:
    slope = np.arange(size, dtype=float).reshape(1, size)
    return Planes(ClaimedPlane(slope, slope + value), ClaimedPlane(slope + 2 * value, slope + 3 * value))


def certificate() -> Certificate:
    """A value with every kind of field, which proves nothing."""
    step = IntervalClaim("t1", X - 1, X + 1, {"r1": "planes1"})
    refutation = Refutation((1, 0), np.eye(2), np.array([0.5, 0.25]), {"r1": "planes0"}, np.zeros((2, 1)))
    parts = (
        CertificatePart((step, IntervalClaim("t2", X, X + 2, {})), (), (Split("t1", 1, 0.1, (1, 2)),)),
        CertificatePart((), (refutation,)),
        CertificatePart((step,), (refutation,)),
    )
    kept = {"planes1": planes(2, 0.5), "planes0": planes(3, -1.0)}
    box = X - 0.1, X + 0.1
    return Certificate(
        "n", "l2", X, 0.1, box, np.ones((2, 1, 3)), np.zeros((2, 1)), parts, kept, {"a": [1, "b"]}
    )


def told(value: Any) -> Any:
    """A value as text and numbers, to be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tolist()
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [told(item) for item in value]
    return told(vars(value)) if hasattr(value, "__dataclass_fields__") else value


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    one, other = certificate(), replace(certificate(), eps=0.3, planes={}, parts=())
    data = encode([one, other])
    (tmp_path / "a.npz").write_bytes(data)
    for found in (read(io.BytesIO(data)), read(tmp_path / "a.npz")):
        assert told(found) == told([one, other])
    assert read(io.BytesIO(encode([]))) == []
    assert encode([one]) == encode(read(io.BytesIO(encode([one]))))


def repacked(change: Callable[[dict[str, Any]], dict[str, Any]], *, sealed: bool = True) -> io.BytesIO:
    with np.load(io.BytesIO(encode([certificate()])), allow_pickle=False) as held:
        parts = change({"text": held["header"].tobytes(), "numbers": held["numbers"]})
    seal = files._seal(parts["text"], parts["numbers"]) if sealed else np.zeros(32, np.uint8)
    data = io.BytesIO()
    np.savez(data, header=np.frombuffer(parts["text"], np.uint8), numbers=parts["numbers"], seal=seal)
    data.seek(0)
    return data


def text(old: bytes, new: bytes) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(held: dict[str, Any]) -> dict[str, Any]:
        assert old in held["text"]
        return {**held, "text": held["text"].replace(old, new)}

    return change


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "format": (text(b'"format": 3', b'"format": 4'), "it has format 4, this checker reads 3"),
    "no tree": (text(b"[1, 2]", b"[1, 1]"), "its parts do not form a tree"),
    "NaN": (lambda h: {**h, "numbers": h["numbers"] * np.nan}, "numbers that are not finite float64"),
    "one infinite": (
        lambda h: {**h, "numbers": np.where(np.arange(len(h["numbers"])) == 3, np.inf, h["numbers"])}, "not finite"),
    "float32": (lambda h: {**h, "numbers": h["numbers"].astype(np.float32)}, "float64 numbers"),
    "a number more": (lambda h: {**h, "numbers": np.append(h["numbers"], 1.0)}, "numbers that belong to nothing"),
    "a number less": (lambda h: {**h, "numbers": h["numbers"][:-1]}, "cannot reshape"),
    "no header": (lambda h: {**h, "text": b"{}"}, "it is not a certificate"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused(name: str) -> None:
    change, said = BROKEN[name]
    with pytest.raises(ValueError, match=said):
        read(repacked(change))
    assert len(read(repacked(lambda held: held))) == 1


def test_the_seal_shows_what_was_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its seal does not fit"):
        read(repacked(lambda held: held, sealed=False))
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="it is not a certificate"):
        read(tmp_path / "a.npz")


def test_files_have_a_greatest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    honest = np.savez_compressed
    monkeypatch.setattr(np, "savez_compressed", lambda *given, **named: (
        sizes.append(named["header"].nbytes + named["numbers"].nbytes), honest(*given, **named)))  # fmt: skip
    data = encode([certificate()])
    monkeypatch.setattr(files, "MOST_BYTES", sizes[0])
    assert encode([certificate()]) == data
    monkeypatch.setattr(files, "MOST_BYTES", sizes[0] - 1)
    with pytest.raises(
        ValueError, match=f"it takes {sizes[0]} bytes, more than the {sizes[0] - 1} of a file"
    ):
        encode([certificate()])
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    monkeypatch.setattr(files, "MOST_BYTES", unpacked - (1 << 16))
    assert len(read(io.BytesIO(data))) == 1
    monkeypatch.setattr(files, "MOST_BYTES", unpacked - (1 << 16) - 1)
    with pytest.raises(ValueError, match=f"it unpacks to {unpacked} bytes"):
        read(io.BytesIO(data))


# Arithmetic.


def test_exact_work_is_rows_times_units() -> None:
    network = CheckedNetwork((2,))
    network.add("linear", (network.input,), (3,), {"weight": np.ones((1, 3, 2)), "bias": np.zeros((1, 3, 1))})
    assert exact_work(certificate(), network) == (2 * 2 + 2 * 2 + 3) * 5, "steps with planes, and parts"


@pytest.mark.parametrize("work", [10, 11, 100, 101])
@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("exact", [True, False, None])
def test_integers_are_used_where_they_are_quick_or_decide(
    work: int, holds: bool, exact: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quick up to a work of 10; up to 100 where float64 does not prove it."""
    for name, value in (("EXACT_WORK", 10), ("EXACT_LATE", 100), ("exact_work", lambda *_: work)):
        monkeypatch.setattr(arithmetic, name, value)
    calls: list[bool] = []

    def checking(certificate: Any, network: Any, *, exact: bool = False) -> str:
        calls.append(exact)
        if not exact and not holds:
            raise Rejected("no")
        return "bounds"

    monkeypatch.setattr(arithmetic, "check", checking)
    late = not holds and exact is None and work <= 100
    quick = exact or (exact is None and work <= 10)
    expected = [True] if quick else [False, True] if late else [False]
    if expected == [False] and not holds:
        with pytest.raises(Rejected):
            checked("certificate", "network", exact)  # type: ignore[arg-type]
    else:
        assert checked("certificate", "network", exact) == ("bounds", expected[-1])  # type: ignore[arg-type]
    assert calls == expected


def test_the_limits_of_integers() -> None:
    assert (arithmetic.EXACT_WORK, arithmetic.EXACT_LATE) == (10**6, 5 * 10**8)
    assert assured.SPARE == 4 and assured.SLACKS == (2.0**-34, 2.0**-29, 2.0**-24)


@pytest.mark.parametrize("proves", range(5))
def test_a_file_is_checked_before_it_is_kept(proves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slack is tried in float64, then the first in integers where that is feasible; else there is none."""
    tried: list[tuple[bytes, bool, int]] = []
    works = iter([40, 60])

    def proved(certificate: bytes, network: str, *, exact: bool, spare: int) -> None:
        assert network == "network"
        tried.append((certificate, exact, spare))
        if len(tried) - 1 != proves:
            raise Rejected("no")

    monkeypatch.setattr(assured, "encode", lambda made: str(made[0]).encode())
    monkeypatch.setattr(
        assured, "read", lambda file: [file.read()] if proves < 4 else [file.read(), b"second"]
    )
    monkeypatch.setattr(assured, "check", proved)
    monkeypatch.setattr(assured, "exact_work", lambda kept, network: next(works) if proves == 4 else 100)
    monkeypatch.setattr(assured, "EXACT_LATE", 100 if proves < 4 else 99)
    slacks = [2.0**-34, 2.0**-29, 2.0**-24]
    found = assured.assured(lambda slack: [slack], "network")  # type: ignore[arg-type, list-item, return-value]
    names = [str(slack).encode() for slack in slacks]
    order = [*((name, False, 4) for name in names), (names[0], True, 4)]
    if proves == 4:
        assert found is None and len(tried) == 3, "two certificates of 40 and 60 are more than 99"
    else:
        assert found == [*names, names[0]][proves] and tried == order[: proves + 1]


def test_no_certificate_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    assert assured.assured(lambda slack: asked.append(slack), CheckedNetwork((1,))) is None  # type: ignore[arg-type, func-returns-value]
    assert asked == [2.0**-34]
    monkeypatch.setattr(assured, "encode", lambda made: b"")
    monkeypatch.setattr(assured, "read", lambda file: ["one"])
    monkeypatch.setattr(assured, "exact_work", lambda kept, network: 5 * 10**8 + 1)
    calls: list[bool] = []

    def never(certificate: Any, network: Any, *, exact: bool, spare: int) -> None:
        calls.append(exact)
        raise Rejected("no")

    monkeypatch.setattr(assured, "check", never)
    assert assured.assured(lambda slack: ["one"], CheckedNetwork((1,))) is None and calls == [False] * 3  # type: ignore[arg-type, list-item, return-value]


# A file against a model.


class Model(nn.Module):
    """Class 0 beats class 1 by x0 + 1/2 on positive inputs; `off` may change what it says."""

    def __init__(self, off: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.linear, self.off = nn.Linear(2, 2).double(), off
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 0], [0, 0]]))
            self.linear.bias.copy_(torch.tensor([0.5, 0]))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.linear(x))
        return y if self.off is None or torch.compiler.is_exporting() else y + self.off(x)


def made(eps: float = 0.125, about: dict[str, object] | None = None) -> tuple[Certificate, CheckedNetwork]:
    network = bounds.trace(Model().eval(), torch.from_numpy(X)[None]).bind(dtype=torch.float64)
    region = bounds.Linf(torch.from_numpy(X)[None], eps)
    rows = bounds.margins(torch.tensor([0]), 2, dtype=torch.float64)
    found = certificate_of(network, plain(network), region, rows, bounds.Crown(), about=about)
    assert found is not None
    return found, plain(network).network


@pytest.fixture(scope="module")
def whole() -> Certificate:
    return made()[0]


def kept(path: Path, *certificates: Certificate) -> Path:
    path.write_bytes(encode(certificates))
    return path


def test_a_file_proves_its_claim(whole: Certificate, tmp_path: Path) -> None:
    path, model = tmp_path / "a.npz", Model().eval()
    for exact in (True, False, None):
        found = check_file(kept(path, whole), model, exact=exact)
        assert found.exact == (exact is not False) and found.leaves == 1 and found.of_image is not None
        assert found.claim == str(found.of_image) and found.least == pytest.approx(0.875)
        assert found.of_image.beaten == (1,) and told(list(found.certificates)) == told([whole])
    clause = Clause(Box(((0.5, 0.5), (0.25, 0.375))), (Constraint(((0, 1), (1, -1)), 0),))  # type: ignore[arg-type]
    prop = Property(2, 2, (clause,))
    found = check_file(kept(path, whole, whole), model, prop=prop)
    assert found.of_image is None and found.claim == "no input of 2 boxes meets any of 2 conjunctions"
    assert found.leaves == 2
    with pytest.raises(Rejected, match="it does not prove this property"):
        check_file(path, model, prop=Property(2, 2, (replace(clause, constraints=clause.constraints * 0),)))
    named = check_file(kept(path, replace(whole, about={"property": "p"})), model)
    assert named.of_image is None and named.claim == "no input of the box meets the conjunction"


def test_a_file_that_proves_something_else_is_rejected(whole: Certificate, tmp_path: Path) -> None:
    path, model = tmp_path / "a.npz", Model().eval()
    image = digest(X)
    check_file(kept(path, replace(whole, about={"label": 0, "image": image})), model)
    refused: dict[str, tuple[Certificate, ...]] = {
        "it contains no certificate": (),
        "its radius is not finite": (whole, replace(whole, eps=float("inf"))),
        r"digests differ \(it states that it was written for model m, preprocessing p\)": (
            replace(whole, network="0", about={"model": "m", "preprocessing": "p"}),),
        "digests differ$": (replace(whole, network="0"),),
        "it holds 2 certificates; the file of an image contains one": (whole, whole),
        "it says label 1, and proves 0": (replace(whole, about={"label": 1}),),
        "it says image 'x', and proves": (replace(whole, about={"image": "x", "label": 0}),),
        "cannot be evaluated on the certificate's image": (replace(whole, x=np.zeros(3)),),
        "a claimed bound does not follow": (replace(whole, eps=10.0, box=(X - 10, X + 10)),),
    }  # fmt: skip
    for said, certificates in refused.items():
        with pytest.raises(Rejected, match=said):
            check_file(kept(path, *certificates), model)
    path.write_bytes(b"rubbish")
    with pytest.raises(Rejected, match=r"'a.npz': it is not a certificate"):
        check_file(path, model)
    with pytest.raises(UserError, match="no such file"):
        check_file(tmp_path / "none.npz", model)


def test_what_files_say_of_themselves(whole: Certificate, tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"rubbish")
    empty = kept(tmp_path / "empty.npz")
    one = kept(tmp_path / "one.npz", whole)
    of = kept(tmp_path / "of.npz", replace(whole, about={"property": "p"}))
    assert (
        checking.image_shape([broken, empty, one]) == (2,) and checking.image_shape([broken, empty]) is None
    )
    assert checking.of_property([broken, of, one]) and not checking.of_property([one, of])
    assert checking.of_property([empty]) is False
    for model, dtype in (
        (nn.Linear(2, 2).double(), torch.float64),
        (nn.Linear(2, 2), torch.float32),
        (nn.ReLU(), torch.float32),
    ):
        image = checking._image(X, model)
        assert image.dtype == dtype and image.tolist() == [X.tolist()]


@pytest.mark.parametrize("size", [1.98e-9, 2.03e-9])
def test_model_and_network_are_compared_to_nine_digits(size: float, whole: Certificate) -> None:
    """Outputs may differ by 1e-9 · (1 + the greatest score), which is 1 at the image."""
    _, network = made()
    at = torch.from_numpy(X)
    near = Model(lambda x: torch.where((x == at).all(), size, 0.0))
    if size < 2e-9:
        faithful.same(network, near, whole)
    else:
        with pytest.raises(
            Rejected, match=r"at its image the network .* differs from the model by 2\.03e-09"
        ):
            faithful.same(network, near, whole)
    with pytest.raises(Rejected, match=r"at corner 0 of its ball .* by 1"):
        faithful.same(network, Model(lambda x: torch.where((x == at).all(), 0.0, 1.0)), whole)
    with pytest.raises(Rejected, match="by inf"):
        faithful.same(network, nn.Sequential(Model(), nn.Flatten(0)), whole)
    with pytest.raises(Rejected, match="by nan"):
        faithful.same(network, Model(lambda x: x * float("nan")), whole)


def test_a_model_of_single_precision_is_compared_to_four_digits(whole: Certificate) -> None:
    _, network = made()

    class Single(Model):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype == torch.float64:
                raise RuntimeError("float32 alone")
            return super().forward(x.double()).float() + self.more

    single = Single()
    for more in (0.0, 1.2e-4):
        single.more = more
        faithful.same(network, single, whole)
    single.more = 3e-4
    with pytest.raises(Rejected, match=r"by 0\.0003"):
        faithful.same(network, single, whole)


def test_points_are_corners_and_within(whole: Certificate) -> None:
    for norm, order in (("linf", np.inf), ("l2", 2), ("l1", 1)):
        wide = replace(whole, norm=norm, eps=0.25, box=(X - 0.25, X + 0.125))
        named = list(faithful.points(wide))
        assert [name for name, _ in named][:2] == ["its image", "corner 0 of its ball"]
        assert [name for name, _ in named][9:] == [f"random point {k} of its ball" for k in range(8)]
        far = [float(np.linalg.norm(p - X, order)) for _, p in named]
        assert far[0] == 0 and max(far) <= 0.25 * (1 + 1e-12) and len(named) == 17
        for name, p in named:
            assert (wide.box[0] <= p + 1e-15).all() and (p <= wide.box[1] + 1e-15).all(), name
        corners = np.array([p - X for _, p in named[1:9]])
        assert len({tuple(np.sign(c)) for c in corners}) > 2
        if norm == "linf":
            assert set(np.unique(corners)) == {-0.25, 0.125}
            inner = np.array([p - X for _, p in named[9:]])
            assert inner.min() < -0.1 and 0.02 < inner.max() < 0.125 and inner.std() > 0.05
    point = replace(whole, eps=0.0, box=(X, X))
    assert all((p == X).all() for _, p in faithful.points(point))
    assert (check(made()[0], made()[1]) > 0).all()
