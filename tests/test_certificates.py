"""Certificates as values: their figures, their text, their folder, to the last digit."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from certnas.certifier.certificates import COLUMNS, NO_TARGET, Certificates, csv_text, json_text, targets
from certnas.certifier.results import EVIDENCE, Folder, keep_evidence, read_json
from certnas.certifier.soundness import Evidence, SoundnessError
from certnas.errors import UserError

CERTIFICATES = Certificates(
    norm="l2",
    method="crown, then ibp",
    proved_by=("crown", "crown", "ibp", "crown"),
    proof=("a.npz", "", "", ""),
    index=np.array([7, 3, 11, 5]),
    label=np.array([1, 2, 0, 4]),
    prediction=np.array([1, 0, 0, 4]),
    target=np.array([2, NO_TARGET, 1, 0]),
    radius_lower=np.array([0.5, 0.0, 0.25, 0.0]),
    radius_upper=np.array([1.0, 0.0, np.inf, 0.5]),
    status=("certified", "misclassified", "certified", "zero"),
    seconds=np.array([1.0, 2.0, 3.0, 4.0]),
    evaluations=np.array([5, 0, 6, 7]),
    notes=("fab: images 0 to 1: it failed",),
)
COLUMN_NAMES = (
    "index",
    "label",
    "prediction",
    "target",
    "radius_lower",
    "radius_upper",
    "seconds",
    "evaluations",
)


def same(one: Certificates, other: Certificates) -> None:
    for name, value in vars(one).items():
        given = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert value.tolist() == given.tolist() and value.dtype == given.dtype, name
        else:
            assert value == given, name


def test_the_figures_are_those_of_the_numbers() -> None:
    found = CERTIFICATES.summary((0.0, 0.25, 0.3, 0.5))
    assert CERTIFICATES.correct.tolist() == [True, False, True, True]
    assert (found.images, found.correct, found.clean_accuracy) == (4, 3, 0.75)
    assert (found.mean_radius_correct, found.median_radius_correct) == (0.25, 0.25)
    assert (found.mean_radius_all, found.median_radius_all) == (0.1875, 0.125)
    assert found.certified_accuracy == {0.0: 0.75, 0.25: 0.5, 0.3: 0.25, 0.5: 0.25}
    assert found.attacked_accuracy == {0.0: 0.75, 0.25: 0.75, 0.3: 0.75, 0.5: 0.5}
    assert (found.seconds_per_image, found.sandwich_mean, found.sandwich_median) == (2.5, 0.25, 0.25)
    wrong = replace(CERTIFICATES, label=np.array([9, 9, 9, 9])).summary()
    assert math.isnan(wrong.mean_radius_correct) and math.isnan(wrong.median_radius_correct)
    assert wrong.certified_accuracy == {} and math.isnan(wrong.sandwich_mean)
    skewed = replace(CERTIFICATES, radius_upper=np.array([1.0, 0.0, 0.5, 0.5])).summary()
    assert (skewed.sandwich_mean, skewed.sandwich_median) == (pytest.approx(1 / 3), 0.5)
    at_image = replace(CERTIFICATES, radius_upper=np.array([1.0, 0.0, 0.0, 0.5])).summary()
    assert at_image.sandwich_mean == 0.25, "an attack at distance 0 of an image that is right says nothing"


def test_values_cannot_be_changed_and_fit_together() -> None:
    for name in COLUMN_NAMES:
        with pytest.raises(ValueError, match="read-only"):
            getattr(CERTIFICATES, name)[0] = 1
    for name, value in (("label", np.array([1])), ("status", ("zero",) * 5), ("proof", ())):
        with pytest.raises(ValueError, match=f"Certificates: {name} has {len(value)} entries, index 4"):
            replace(CERTIFICATES, **{name: value})
    assert len(CERTIFICATES) == 4


def test_parts_are_joined_and_ordered() -> None:
    joined = Certificates.join([CERTIFICATES.ordered([11, 5, 3, 7]), CERTIFICATES])
    assert joined.index.tolist() == [11, 5, 3, 7, 7, 3, 11, 5] and joined.notes == CERTIFICATES.notes
    assert joined.proof == ("", "", "", "a.npz", "a.npz", "", "", "")
    same(CERTIFICATES.ordered([7, 100, 3, 11, 5]), CERTIFICATES)
    turned = CERTIFICATES.ordered([5, 3, 11, 7])
    assert turned.radius_lower.tolist() == [0, 0, 0.25, 0.5]
    assert turned.proved_by == ("crown", "crown", "ibp", "crown") and turned.status[3] == "certified"
    same(turned.ordered([7, 3, 11, 5]), CERTIFICATES)
    other = replace(CERTIFICATES, notes=("a", "b"))
    assert Certificates.join([CERTIFICATES, other]).notes == ("a", "b", *CERTIFICATES.notes)
    for wrong in ([], [CERTIFICATES, replace(CERTIFICATES, norm="l1")]):
        with pytest.raises(ValueError, match="one norm and method"):
            Certificates.join(wrong)


def test_targets_are_a_class_each_or_none() -> None:
    assert targets(None, 3).tolist() == [-1, -1, -1]
    assert targets(torch.tensor([4, 2]), 2).tolist() == [4, 2]


LINES = [
    "7,1,1,2,l2,crown,0.5,1.0,certified,a.npz,1.000",
    "3,2,0,,l2,crown,0.0,0.0,misclassified,,2.000",
    "11,0,0,1,l2,ibp,0.25,inf,certified,,3.000",
    "5,4,4,0,l2,crown,0.0,0.5,zero,,4.000",
]


def test_the_text_of_a_table(tmp_path: Path) -> None:
    assert csv_text(CERTIFICATES).splitlines() == [",".join(COLUMNS), *LINES]
    CERTIFICATES.to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == csv_text(CERTIFICATES)


def test_json_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json_text(CERTIFICATES, (0.25,), config={"a": 1}))
    record = json.loads(path.read_text())
    assert path.read_text() == json.dumps(record, indent=1) + "\n"
    assert record["summary"]["certified_accuracy"] == {"0.25": 0.5} and record["norm"] == "l2"
    assert record["images"][2]["radius_upper"] is None and record["images"][2]["proved_by"] == "ibp"
    config, read = read_json(path)
    assert config == {"a": 1} and read is not None
    same(CERTIFICATES, read)
    CERTIFICATES.to_json(tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text())["images"] == record["images"]
    for text in ("{", "[]", '{"config": {}}', '{"config": {}, "images": [{"index": 1}]}', '{"images": 5}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"cannot read .* choose another folder"):
            read_json(path)
    with pytest.raises(UserError, match="cannot read"):
        read_json(tmp_path / "none.json")


def test_a_folder_grows_and_is_continued(tmp_path: Path) -> None:
    where, index = tmp_path / "new" / "run", [5, 7, 3, 11, 9]
    folder = Folder.open(where, {"norm": "l2", "eps": (1, math.inf)}, index, resume=False)
    assert (where / "results.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert read_json(where / "results.json") == ({"norm": "l2", "eps": [1, None]}, None)
    assert folder.left() == [0, 1, 2, 3, 4]
    folder.append(CERTIFICATES.ordered([7, 3, 11, 5]))
    assert folder.left() == [4]
    assert (where / "results.csv").read_text().splitlines()[1:] == [LINES[i] for i in (3, 0, 1, 2)]
    last = replace(CERTIFICATES, index=np.array([9, 21, 22, 23]))
    again = Folder.open(where, {"norm": "l2", "eps": (1, math.inf)}, index, resume=True)
    assert again.left() == [4] and again.done is not None
    assert again.done.index.tolist() == [5, 7, 3, 11]
    with pytest.raises(KeyError):
        again.append(last)
    again.finish((0.25,))
    assert json.loads((where / "results.json").read_text())["summary"]["certified_accuracy"] == {"0.25": 0.5}
    for config, named, resume, said in (
        ({"norm": "l2", "eps": (1, math.inf)}, index, False, "already holds results"),
        ({"norm": "l1", "eps": (1, math.inf)}, index, True, "norm was l2, is l1"),
        ({"norm": "l2", "eps": (1, math.inf)}, [5, 7, 3], True, "it holds other images"),
    ):
        with pytest.raises(UserError, match=said):
            Folder.open(where, config, named, resume=resume)
    fresh = Folder.open(tmp_path / "other", {}, index, resume=True)
    assert fresh.done is None and (tmp_path / "other" / "results.json").exists()
    assert Folder.open(tmp_path / "other", {}, index, resume=True).left() == [0, 1, 2, 3, 4]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        Folder.open(tmp_path / "file" / "run", {}, index, resume=False)


def test_evidence_is_kept(tmp_path: Path) -> None:
    evidence = Evidence(3, 1, "l2", "crown", np.zeros((1, 2)), np.ones((1, 2)), 0.5, 0.25, 0.125, -1.0)
    path = keep_evidence(tmp_path, evidence)
    assert path == tmp_path / EVIDENCE
    with np.load(path, allow_pickle=False) as held:
        kept = {name: held[name].tolist() for name in held}
    assert kept == {name: np.asarray(value).tolist() for name, value in vars(evidence).items()}
    error = SoundnessError(evidence)
    kind, arguments = error.__reduce__()
    assert kind(*arguments).evidence is evidence and "image 3: the l2 radius 0.5 certified by crown" in str(
        error
    )
