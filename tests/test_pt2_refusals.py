"""Hostile and malformed torch.export archives: no code runs, and each is refused on one line."""

import contextlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from pt2_archives import CONSTANTS, MODEL, WEIGHTS, Edit, Malice, Mixed, changed, exported, in_json, pickled
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models import open_model


def sample_inputs(members: dict[str, bytes], marker: Path) -> None:
    members["data/sample_inputs/model.pt"] = pickled(marker)


def pickled_weight(members: dict[str, bytes], marker: Path) -> None:
    in_json(WEIGHTS, lambda c: c["config"]["scale"].update(use_pickle=True))(members, marker)
    config = json.loads(members[WEIGHTS])["config"]
    members[f"data/weights/{config['scale']['path_name']}"] = pickled(marker)


def opaque_constant(members: dict[str, bytes], marker: Path) -> None:
    content = json.loads(members[CONSTANTS])
    (entry,) = content["config"].values()
    entry.update(path_name="opaque_obj_0", use_pickle=True, tensor_meta=None)
    members[CONSTANTS] = json.dumps(content).encode()
    members["data/constants/opaque_obj_0"] = pickle.dumps(Malice(marker))


ROUTES: dict[str, tuple[Edit, bool]] = {  # what is changed, whether the network can be read without it
    "sample inputs": (sample_inputs, True),
    "pickled weight": (pickled_weight, False),
    "opaque constant": (opaque_constant, False),
}


@pytest.mark.parametrize("route", ROUTES)
def test_code_in_an_archive_does_not_run(route: str, tmp_path: Path) -> None:
    edit, readable = ROUTES[route]
    path, marker = tmp_path / "net.pt2", tmp_path / "marker"
    exported(path, Mixed(), (1, 8, 8))
    changed(path, edit, marker)
    if readable:
        assert open_model(str(path)).classes == 5
    else:
        with pytest.raises(
            UserError, match=r"is not a plain tensor: reading it would run code; .*--unsafe-load"
        ):
            open_model(str(path))
    assert not marker.exists()
    with contextlib.suppress(Exception):  # what it fails with does not matter, only that the code ran before
        torch.export.load(str(path))
    assert marker.exists()  # so the file above is malicious indeed


def target(name: str) -> Edit:
    return in_json(MODEL, lambda c: c["graph_module"]["graph"]["nodes"][-1].update(target=name))


def sizes(*values: int) -> Edit:
    """The buffer claims this shape."""

    def change(content: Any) -> None:
        meta = content["config"]["scale"]["tensor_meta"]
        meta["sizes"] = [{"as_int": value} for value in values]
        meta["strides"] = [{"as_int": 0} for _ in values]

    return in_json(WEIGHTS, change)


def cut(members: dict[str, bytes], marker: Path) -> None:
    members[MODEL] = members[MODEL][:-100]


def without(name: str) -> Edit:
    return lambda members, marker: members.pop(name) and None


def deep(members: dict[str, bytes], marker: Path) -> None:
    members[MODEL] = b"[" * 100_000 + b"]" * 100_000


REFUSALS: dict[str, tuple[Edit, str]] = {
    "an operator that writes": (
        target("torch.ops.aten.from_file.default"),
        "operator 'aten.from_file.default' at",
    ),
    "a function of the system": (target("os.system"), "operator 'os.system' at position"),
    "a private name": (target("torch.ops.aten.__class__"), "operator 'aten.__class__' at position"),
    "a higher-order operator": (
        target("torch.ops.higher_order.cond"),
        "operator 'higher_order.cond' at position",
    ),
    "another schema": (
        in_json(MODEL, lambda c: c["schema_version"].update(major=99)),
        "has schema version 99",
    ),
    "an absurd buffer": (sizes(2**20, 2**20), "does not fit the 256 bytes it has"),
    "a buffer that repeats itself": (sizes(2**15, 2**15), "does not fit the 256 bytes it has"),
    "an absurd input": (
        in_json(
            MODEL,
            lambda c: c["graph_module"]["graph"]["tensor_values"]["x"].update(
                sizes=[{"as_int": 1}, {"as_int": 2**40}]
            ),
        ),
        "accepted: at most 134217728 elements",
    ),
    "half a graph": (cut, "is not an archive from torch.export of torch 2.8 or later"),
    "no graph": (without(MODEL), "has 0 models in the format of torch 2.8 and later"),
    "a missing weight": (without("data/weights/weight_0"), "has no data/weights/weight_0"),
    "a path out of the archive": (
        in_json(WEIGHTS, lambda c: c["config"]["scale"].update(path_name="../../../etc/passwd")),
        "weights 'scale' is not a plain tensor",
    ),
    "a deep nest": (deep, "(ValueError: it nests deeper than 200 brackets"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_changed_archive_is_refused_on_one_line(case: str, tmp_path: Path) -> None:
    edit, line = REFUSALS[case]
    path = tmp_path / "net.pt2"
    exported(path, Mixed(), (1, 8, 8))
    changed(path, edit, tmp_path / "marker")
    with pytest.raises(UserError) as refusal:
        open_model(str(path))
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_absurd_work_is_refused_before_it_is_done(tmp_path: Path) -> None:
    class Little(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            square = torch.full((64, 64), 0.5)
            return x @ square @ square @ square[:, :5]

    path = tmp_path / "net.pt2"
    exported(path, Little(), (64,))

    def grown(members: dict[str, bytes], marker: Path) -> None:
        members[MODEL] = members[MODEL].replace(b'{"as_ints": [64, 64]}', b'{"as_ints": [1048576, 1048576]}')

    assert open_model(str(path)).classes == 5
    changed(path, grown, tmp_path / "marker")
    with pytest.raises(UserError, match=r"a tensor of 1099511627776 elements"):
        open_model(str(path))


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is empty|cannot read|has 0 models"):
        open_model(str(path))


@pytest.mark.parametrize("name", ["net.pt2", "net.pt", "net.npz"])
def test_a_zip_bomb_is_not_unpacked(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"net/models/model{i}.json", bytes(2**26))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"unpacks to 201326592 bytes; refused as a zip bomb"):
        open_model(str(path), arch=None if name == "net.pt2" else "mnist-fc-3layer")
