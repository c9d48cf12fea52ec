"""What a certificate claims, and results.csv held against certificates and images: every forgery is rejected."""

import csv
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from certnas.checker import Certificate, CheckedNetwork, Rejected
from certnas.data import load
from certnas.models import open_model
from certnas.models.architectures import Architecture
from certnas.models.preprocessing import Preprocessing, described, preprocessed
from certnas.proofs import check_file, encode, read
from certnas.proofs.claims import claim, digest
from certnas.proofs.faithful import points
from cli.main import main

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on three digits, its certificates in proofs/."""
    out = tmp_path_factory.mktemp("run")
    asked = ["--images", "3", "--no-attack", "--eps-max", "2/255", "--out", str(out)]
    result = CliRunner().invoke(
        main, ["certify", "digits-cnn", *asked, "--certificates", str(out / "proofs")]
    )
    assert result.exit_code == 0 and "wrote 3 certificates" in result.output, result.output
    return out


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "run"))


def checked(path: Path, *more: str) -> Result:
    return CliRunner().invoke(
        main, ["check", str(path), "digits-cnn", "--arithmetic", "float", "--data", "digits", *more]
    )


def table(run: Path) -> Rows:
    return list(csv.DictReader(io.StringIO((run / "results.csv").read_text())))


def put(run: Path, rows: Rows) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (run / "results.csv").write_text(text.getvalue())


def test_results_are_what_the_certificates_prove(written: Path) -> None:
    rows = table(written)
    assert [float(row["radius_lower"]) for row in rows] == [2 / 255] * 3
    assert [row["certificate"] for row in rows] == [f"image-{int(row['index']):06d}.npz" for row in rows]
    result = checked(written / "proofs")
    assert result.exit_code == 0, result.output
    assert "3 of 3 lines are what a certificate proves of that image" in result.output
    (kept,) = read(written / "proofs" / rows[0]["certificate"])
    said = claim(kept)
    others = tuple(c for c in range(10) if c != int(rows[0]["label"]))
    assert (said.label, said.beaten, said.eps, said.clipped) == (int(rows[0]["label"]), others, 2 / 255, True)
    assert f"network   {kept.network}; preprocessing: none" in result.output
    assert f"within l∞ distance {2 / 255!r} in [0, 1] of image {said.image[:16]}" in result.output


def changed(column: str, value: Callable[[Rows], str]) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0] | {column: value(rows)}, *rows[1:]]


FORGED: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "radius": (changed("radius_lower", lambda rows: "0.5"), "its radius: 0.5"),
    "radius, a little": (
        changed("radius_lower", lambda rows: repr(float(np.nextafter(2 / 255, 1)))),
        "its radius",
    ),
    "label": (changed("label", lambda rows: str((int(rows[0]["label"]) + 1) % 10)), "is labelled"),
    "prediction": (changed("prediction", lambda rows: "11"), "its prediction: 11"),
    "norm": (changed("norm", lambda rows: "l2"), "its norm: l2"),
    "target": (changed("target", lambda rows: "11"), "classes that cannot win: (11,)"),
    "index": (changed("index", lambda rows: str(int(rows[0]["index"]) + 1)), "line 2"),
    "no such index": (changed("index", lambda rows: "100000"), "has no image 100000"),
    "another's certificate": (
        changed("certificate", lambda rows: rows[1]["certificate"]),
        "is about another image",
    ),
    "a missing certificate": (changed("certificate", lambda rows: "image-9.npz"), "is missing"),
    "no certificate": (changed("certificate", lambda rows: ""), "no line names the certificate"),
    "no certificate, its file deleted": (
        lambda rows: [*rows[:2], rows[2] | {"certificate": ""}],
        f"its radius {2 / 255} has no certificate",
    ),
    "no certificate, and no radius": (
        lambda rows: [*rows[:2], rows[2] | {"certificate": "", "radius_lower": "0.0"}],
        "it says certified, and has no certificate",
    ),
    "status": (changed("status", lambda rows: "misclassified"), "its status: misclassified"),
    "a line's end in a name": (
        changed("certificate", lambda rows: "x\nall 3 are proved"),
        "x all 3 are proved is",
    ),
    "two lines exchanged": (
        lambda rows: [rows[1] | {"index": rows[0]["index"]}, rows[0] | {"index": rows[1]["index"]}, rows[2]],
        "rejected  results.csv line 2",
    ),
    "a line twice": (lambda rows: [*rows, rows[0]], "occurs twice"),
    "a line removed": (lambda rows: rows[1:], "no line names the certificate"),
    "no number": (changed("radius_lower", lambda rows: "much"), "line 2 cannot be read"),
    "NaN": (changed("radius_lower", lambda rows: "nan"), "line 2 cannot be read"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_line_that_is_not_proved_is_rejected(name: str, run: Path) -> None:
    change, said = FORGED[name]
    if "deleted" in name or "no radius" in name:
        (run / "proofs" / table(run)[2]["certificate"]).unlink()
    put(run, change(table(run)))
    result = checked(run / "proofs")
    assert result.exit_code == 1 and said in result.output, result.output
    assert "Traceback" not in result.output


def test_a_certificate_that_was_removed_or_exchanged_is_missed(run: Path) -> None:
    first, second, _ = sorted((run / "proofs").iterdir())
    shutil.copy(first, second)
    result = checked(run / "proofs")
    assert result.exit_code == 1 and "is about another image" in result.output
    second.unlink()
    result = checked(run / "proofs")
    assert result.exit_code == 1 and f"its certificate {second.name} is missing" in result.output


def test_names_of_files_cannot_write_lines_of_their_own(run: Path) -> None:
    """A line's end, a colour and a change of direction in a name stay out of what is printed."""
    first, *_ = sorted((run / "proofs").iterdir())
    named = run / "proofs" / "a\nproved    b\x1b[2J\u202e.npz"
    shutil.copy(first, named)
    (held,) = read(first)
    first.write_bytes(
        encode([replace(held, network="0" * 64, about={"model": "x\nall 4 certificates are proved"})])
    )
    result = checked(run / "proofs")
    lines = result.output.splitlines()
    assert result.exit_code == 1 and len(lines) == 6, result.output
    assert lines[0].startswith("proved    a proved b [2J .npz: class ")
    assert lines[1].startswith(f"rejected  {first.name}: it is about another network")
    assert lines[1].endswith("written for model x all 4 certificates are proved)")


def test_images_and_labels_that_are_not_those_of_the_certificates_are_told(run: Path, tmp_path: Path) -> None:
    """One pixel or one label of the data set changed, or its order."""
    digits = load("digits")
    path, asked = tmp_path / "data.npz", ["--arithmetic", "float", "--data", str(tmp_path / "data.npz")]
    row = table(run)[0]
    at, file = int(row["index"]), str(run / "proofs" / row["certificate"])

    def told(x: np.ndarray, y: np.ndarray) -> Result:
        np.savez(path, x=x, y=y)
        return CliRunner().invoke(main, ["check", file, "digits-cnn", *asked])

    x, y = digits.x.numpy(), digits.y.numpy()
    places = {int(index): place for place, index in enumerate(digits.index.tolist())}
    order = (
        [places[index] for index in range(len(places))] if set(places) == set(range(len(places))) else None
    )
    x, y = (x, y) if order is None else (x[order], y[order])
    same = told(x, y)
    assert same.exit_code == 0, same.output
    pixel, label = x.copy(), y.copy()
    pixel[at, 0, 3, 3] = np.nextafter(pixel[at, 0, 3, 3], 0.5, dtype=pixel.dtype)
    label[at] = (label[at] + 1) % 10
    for images, labels, said in (
        (pixel, y, f"its image is not image {at}"),
        (x, label, f"image {at} is labelled {label[at]}"),
        (x[::-1], y[::-1], "its image is not image"),
    ):
        result = told(images, labels)
        assert result.exit_code == 1 and said in result.output, result.output


LIES: dict[str, tuple[Callable[[Certificate], Certificate], str]] = {
    "a row twice": (
        lambda c: replace(c, rows=np.concatenate([c.rows, c.rows[:1]]), offsets=np.zeros((10, 1))),
        "occurs twice",
    ),
    "a row twice, its zeros negative": (
        lambda c: replace(c, rows=np.concatenate([c.rows, c.rows[:1] - 0.0 * (c.rows[:1] == 0)]) * 1.0,
                          offsets=np.concatenate([c.offsets, -c.offsets[:1]])),
        "occurs twice",
    ),
    "a row scaled": (lambda c: replace(c, rows=c.rows * 2), "one class beats others"),
    "another label": (lambda c: replace(c, about={**c.about, "label": 11}), "it says label 11"),
    "another image": (lambda c: replace(c, about={**c.about, "image": "0" * 64}), "it says image"),
    "another index": (lambda c: replace(c, about={**c.about, "index": 1}), "its image is not image 1"),
    "no index": (lambda c: replace(c, about={**c.about, "index": None}), "does not have"),
    "infinite radius": (lambda c: replace(c, eps=np.inf), "not finite"),
    "no radius": (lambda c: replace(c, eps=np.nan), "not finite"),
    "a huge radius": (lambda c: replace(c, eps=1e300), "not bounded"),
    "a negative radius": (lambda c: replace(c, eps=-0.01), "negative"),
    "a wider radius": (lambda c: replace(c, eps=2 * c.eps), "neither the ball of its radius"),
    "an unknown norm": (lambda c: replace(c, norm="l3"), "malformed"),
    "no parts": (lambda c: replace(c, parts=()), "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_certificate_that_says_more_than_it_proves_is_rejected(name: str, run: Path) -> None:
    change, said = LIES[name]
    path = sorted((run / "proofs").iterdir())[0]
    path.write_bytes(encode([change(read(path)[0])]))
    result = checked(path)
    assert result.exit_code == 1 and said in result.output, result.output
    assert len(result.output.strip().splitlines()) == 2 and "Traceback" not in result.output


@pytest.mark.parametrize("eps", ["inf", "nan", "0x1p+99999", "-inf", "rubbish", 5, None, [1]])
def test_a_header_with_a_radius_that_is_none_is_rejected(eps: object, run: Path, monkeypatch) -> None:
    from certnas.proofs import files

    path = sorted((run / "proofs").iterdir())[0]
    packed, (kept,) = files._Packing.certificate, read(path)
    monkeypatch.setattr(files._Packing, "certificate", lambda *given: packed(*given) | {"eps": eps})
    path.write_bytes(encode([kept]))
    result = checked(path)
    assert result.exit_code == 1 and "rejected" in result.output and "Traceback" not in result.output


def test_a_header_of_thousands_of_brackets_is_rejected(tmp_path: Path) -> None:
    text = np.frombuffer(b"[" * 100_000, np.uint8)
    np.savez(tmp_path / "one.npz", header=text, numbers=np.zeros(0), seal=np.zeros(32, np.uint8))
    result = checked(tmp_path / "one.npz")
    assert result.exit_code == 1 and "rejected" in result.output
    from certnas.proofs.files import _seal

    seal = _seal(text.tobytes(), np.zeros(0))
    np.savez(tmp_path / "one.npz", header=text, numbers=np.zeros(0), seal=seal)
    result = checked(tmp_path / "one.npz")
    assert result.exit_code == 1 and "nests deeper" in result.output


def test_options_that_need_others_and_files_that_are_no_results_are_refused(run: Path) -> None:
    (run / "results.csv").write_text("a,b\n1,2\n")
    result = checked(run / "proofs")
    assert result.exit_code == 2 and "is not a results.csv of certnas certify" in result.output
    asked = ["check", str(run / "proofs"), "digits-cnn", "--results", str(run)]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2 and "--results needs the images: add --data" in result.output


def test_digests_include_the_shape_of_the_input() -> None:
    pixels = np.zeros(12)
    assert len({digest(pixels.reshape(shape)) for shape in ((12,), (3, 4), (1, 3, 4))}) == 3
    networks = [CheckedNetwork(shape) for shape in ((12,), (3, 4))]
    for network in networks:
        network.add("select", (network.input,), (1,), {"index": np.zeros(1)})
    assert networks[0].output != networks[1].output


def test_check_says_what_preprocessing_the_network_has(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    asked = Preprocessing(mean=(0.5,), std=(0.25,), channels=None)
    whole, _ = preprocessed(Architecture(net, (1, 8, 8)), asked, None, "net")
    assert described(whole) == "minus (0.5), divided by (0.25)" and described(net) == "none"
    row, _ = preprocessed(
        Architecture(net, (64,)), Preprocessing(layout="flat", channels="bgr"), (1, 8, 8), "net"
    )
    assert described(row) == "channels reversed, layout flat"


def test_a_file_that_would_be_too_large_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certnas.proofs.files.MOST_BYTES", 1000)
    asked = ["--images", "1", "--no-attack", "--eps-max", "2/255", "--certificates", str(tmp_path / "proofs")]
    result = CliRunner().invoke(main, ["certify", "digits-cnn", *asked])
    assert result.exit_code == 0 and "wrote 0 certificates" in result.output, result.output
    assert re.search(r"none for images \d+: it takes \d+ bytes, more than the 1000 of a file", result.output)
    assert not list((tmp_path / "proofs").iterdir())


class Elsewhere(nn.Module):
    """A model that is another function at the inputs that `off` picks; traced where it is not."""

    def __init__(self, model: nn.Module, off: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.model, self.off = model, off

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x)
        return y + 1e-6 if not torch.compiler.is_exporting() and self.off(x) else y


def test_an_input_where_the_checked_network_is_not_the_model_is_named(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from certnas.proofs import checking

    path = sorted((written / "proofs").iterdir())[0]
    (kept,) = read(path)
    model = open_model("digits-cnn").module
    network = checking._network(kept, model)
    monkeypatch.setattr(checking, "_network", lambda *_: network)
    assert check_file(path, model, exact=False).of_image is not None
    inputs = list(points(kept))
    assert len(inputs) == 17
    for name, point in (inputs[0], inputs[1], inputs[16]):
        place = torch.from_numpy(point)[None]
        off = Elsewhere(model, lambda x, place=place: bool(((x - place).abs() < 1e-12).all()))
        with pytest.raises(Rejected, match=f"at {name} the network .* differs from the model by 1e-06"):
            check_file(path, off, exact=False)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_points_lie_in_the_ball_and_reach_its_edge(norm: str, written: Path) -> None:
    (kept,) = read(sorted((written / "proofs").iterdir())[0])
    kept = replace(kept, norm=norm)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    far = [np.linalg.norm((p - kept.x).reshape(-1), order) for _, p in points(kept)]
    assert far[0] == 0 and max(far) <= kept.eps * (1 + 1e-12) and min(far[1:]) > 0.3 * kept.eps
    assert max(far) > 0.99 * kept.eps
    assert all((kept.box[0] <= p).all() and (p <= kept.box[1]).all() for _, p in points(kept))
