"""A results.json of any content: read as it was written, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

import certnas
from certnas.certifier.results import Folder, read_json
from certnas.data import load
from certnas.errors import UserError
from certnas.models import open_model


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of two images."""
    digits, path = load("digits", count=2), tmp_path_factory.mktemp("results")
    found = certnas.certify(open_model("digits-cnn").module, digits.x, digits.y, method="ibp", attack=False)
    folder = Folder.open(path, {"norm": "linf"}, found.index.tolist(), resume=False)
    folder.append(found)
    read = read_json(path / "results.json")[1]
    assert read is not None and read.radius_lower.tolist() == found.radius_lower.tolist()
    assert read.radius_upper.tolist() == found.radius_upper.tolist() == [float("inf")] * 2
    record: dict[str, Any] = json.loads((path / "results.json").read_text())
    return record


WRONG = [1e999, -1e999, 1e308, 10**400, [0], [], {}, "x", None, True, 0.5, "3"]


@pytest.mark.parametrize("place", ["index", "label", "prediction", "target", "evaluations"])
@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:8])
def test_what_is_no_whole_number_is_refused(
    stored: dict[str, Any], place: str, value: object, tmp_path: Path
) -> None:
    refused(stored, place, value, tmp_path)


@pytest.mark.parametrize("place", ["radius_lower", "radius_upper", "seconds"])
@pytest.mark.parametrize("value", [10**400, [0.5], {}, "0.5", True], ids=lambda value: repr(value)[:8])
def test_what_is_no_number_is_refused(
    stored: dict[str, Any], place: str, value: object, tmp_path: Path
) -> None:
    refused(stored, place, value, tmp_path)


@pytest.mark.parametrize("place", ["status", "proof", "proved_by"])
@pytest.mark.parametrize("value", [1, None, ["certified"], {}], ids=repr)
def test_what_is_no_text_is_refused(
    stored: dict[str, Any], place: str, value: object, tmp_path: Path
) -> None:
    refused(stored, place, value, tmp_path)


def test_what_stands_around_the_images_is_refused(stored: dict[str, Any], tmp_path: Path) -> None:
    for place, values in {
        "norm": [1, None, []],
        "method": [1, {}],
        "notes": [[1], None, 3, [["a"]]],
        "images": [[1], 3, "ab", [None], {"a": 1}],
    }.items():
        for value in values:
            unread({**stored, place: value}, tmp_path)


def refused(stored: dict[str, Any], place: str, value: object, tmp_path: Path) -> None:
    """In the first image and in the second."""
    for number in (0, 1):
        images = [dict(image) for image in stored["images"]]
        images[number][place] = value
        unread({**stored, "images": images}, tmp_path)


def unread(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(UserError) as caught:
        Folder.open(tmp_path, record["config"], [0, 1], resume=True)
    assert str(caught.value).startswith(f"cannot read {tmp_path / 'results.json'}: ")
    assert "\n" not in str(caught.value)
