"""torch.export archives: read as they were written, and never run; each known way to hide code in one is refused."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bounds
from certnas.errors import UserError
from certnas.faithful import Faithful
from certnas.models import open_model
from certnas.models.formats import program
from certnas.nas.space import DiscreteNetwork, published_genotype

Edit = Callable[[dict[str, bytes], Path], None]


class Malice:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.marker),)


class Mixed(nn.Module):
    """Operators of several outputs, in-place ones, a buffer, a constant, a reshape by literal sizes."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("scale", torch.full((1, 1, 8, 8), 2.0))
        self.linear = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.norm(self.conv(x * self.scale - torch.tensor(0.3))))
        left, right = y.chunk(2, 1)
        y = torch.cat([nn.functional.max_pool2d(left, 2), right[:, :, ::2, 1::2]], 1)
        return self.linear(y.view(y.shape[0], 64))


def exported(path: Path, network: nn.Module, shape: tuple[int, ...], *, batch: int | None = None) -> None:
    free = None if batch else ({0: torch.export.Dim.DYNAMIC},)
    example = torch.rand(batch or 2, *shape)
    torch.export.save(
        torch.export.export(network.eval(), (example,), dynamic_shapes=free, strict=False), str(path)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "several kinds of operator": (Mixed, (1, 8, 8)),
    "cells": (lambda: DiscreteNetwork(published_genotype("DARTS_V2"), 2, 3, 5, in_channels=1), (1, 8, 8)),
}


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_read_as_it_was_and_its_batch_is_free(
    name: str, batch: int | None, tmp_path: Path
) -> None:
    make, shape = NETWORKS[name]
    network = make()
    exported(tmp_path / "net.pt2", network, shape, batch=batch)
    opened = open_model(str(tmp_path / "net.pt2"))
    x = torch.rand(4, *shape)
    assert (opened.input_shape, opened.classes) == (shape, 5)
    assert torch.equal(opened.module(x), network(x))
    graph = bounds.trace(opened.module, x)
    bounds.check(graph)
    assert torch.allclose(graph.bind()(x), network(x), atol=1e-6)


def test_the_name_of_the_file_does_not_matter(tmp_path: Path) -> None:
    exported(tmp_path / "net.pt2", Mixed(), (1, 8, 8))
    (tmp_path / "net.pt2").rename(tmp_path / "net.pt")
    assert open_model(str(tmp_path / "net.pt")).input_shape == (1, 8, 8)


def test_unsafe_load_reads_what_torch_reads(tmp_path: Path) -> None:
    network = Mixed()
    exported(tmp_path / "net.pt2", network, (1, 8, 8))
    opened = open_model(str(tmp_path / "net.pt2"), unsafe_load=True)
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(opened.module(x), network(x))
    assert not opened.module.training


def changed(path: Path, edit: Edit, marker: Path) -> None:
    """The archive with its members changed; names are those inside its folder."""
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    try:
        edit(members, marker)
    except KeyError as error:
        if torch.__version__ >= "2.9":
            raise
        pytest.skip(f"torch {torch.__version__} writes another layout, without {error}")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{folder}/{name}", data)


def pickled(marker: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(Malice(marker), stream)
    return stream.getvalue()


def in_json(name: str, change: Callable[[Any], object]) -> Edit:
    def edit(members: dict[str, bytes], marker: Path) -> None:
        content = json.loads(members[name])
        change(content)
        members[name] = json.dumps(content).encode()

    return edit


def weights_as_28(state: object) -> Edit:
    """The layout of torch 2.8: all weights in one torch.save file, and so the constants."""

    def edit(members: dict[str, bytes], marker: Path) -> None:
        for kind, content in (("weights", state), ("constants", {"lifted_tensor_0": torch.tensor(0.3)})):
            for name in [name for name in members if name.startswith(f"data/{kind}/")]:
                del members[name]
            stream = io.BytesIO()
            torch.save(content, stream)
            members[f"data/{kind}/model.pt"] = stream.getvalue()

    return edit


def test_the_layout_of_torch_28_is_read(tmp_path: Path) -> None:
    network, path = Mixed(), tmp_path / "net.pt2"
    exported(path, network, (1, 8, 8))
    changed(path, weights_as_28(dict(network.state_dict())), tmp_path / "marker")
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(open_model(str(path)).module(x), network(x))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (Malice, "weights in data/weights/model.pt are no plain tensors: reading them would run code"),
        (lambda marker: {"scale": 1.0}, "weights in data/weights/model.pt are no plain tensors"),
        (lambda marker: {"scale": bytearray(5)}, "data/weights/model.pt asks for a bytearray"),
    ],
)
def test_the_layout_of_torch_28_hides_no_code(
    make: Callable[[Path], object], line: str, tmp_path: Path
) -> None:
    path, marker = tmp_path / "net.pt2", tmp_path / "marker"
    exported(path, Mixed(), (1, 8, 8))
    changed(path, weights_as_28(make(marker)), marker)
    with pytest.raises(UserError) as refusal:
        open_model(str(path))
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
    assert not marker.exists()


def sample_inputs(members: dict[str, bytes], marker: Path) -> None:
    members["data/sample_inputs/model.pt"] = pickled(marker)


WEIGHTS, CONSTANTS, MODEL = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
    "models/model.json",
)


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
            UserError, match=r"is no plain tensor: reading it would run code; .*--unsafe-load"
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
    "half a graph": (cut, "is no archive that torch.export of torch 2.8 or later wrote"),
    "no graph": (without(MODEL), "holds 0 models in the format of torch 2.8 and later"),
    "a missing weight": (without("data/weights/weight_0"), "has no data/weights/weight_0"),
    "a path out of the archive": (
        in_json(WEIGHTS, lambda c: c["config"]["scale"].update(path_name="../../../etc/passwd")),
        "weights 'scale' is no plain tensor",
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
    with pytest.raises(UserError, match=r"is empty|cannot read|holds 0 models"):
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


class Alone(nn.Module):
    """A function of a linear layer's output h [N, 6], with a buffer."""

    seen: Tensor

    def __init__(self, function: Callable[["Alone", Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 5), function
        self.register_buffer("seen", torch.rand(6))
        self.requires_grad_(False)  # which lets it write to what `chunk` and `unbind` give

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.linear(x)))


def twin(m: Alone, h: Tensor) -> Tensor:
    a = torch.relu(h)
    a.mul_(-0.1)
    return a + torch.relu(h)


def detached(m: Alone, h: Tensor) -> Tensor:
    d = h.detach()
    h.mul_(-3.0)
    return d + 0 * h


def pieces(m: Alone, h: Tensor) -> Tensor:
    left, _ = h.chunk(2, 1)
    left.add_(h[:, 3:])
    h.view(h.shape[0], 2, 3)[:, 1] += 1
    return torch.relu_(h) + m.seen


def copied(m: Alone, h: Tensor) -> Tensor:
    kept = h.clone()
    h[:, ::2] = kept[:, 1::2] * 2
    h.clamp_(-0.5, 0.5)
    return h - kept


def rows(m: Alone, h: Tensor) -> Tensor:
    first = h.unbind(1)[0]
    h.select(1, 0).fill_(2.0)
    return h * first.unsqueeze(1)


ALIASES = {f.__name__: f for f in (twin, detached, pieces, copied, rows)}


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", ALIASES)
def test_an_archive_that_writes_in_place_is_read_as_torch_runs_it(
    name: str, batch: int | None, tmp_path: Path
) -> None:
    network = Alone(ALIASES[name])
    exported(tmp_path / "net.pt2", network, (4,), batch=batch)
    module = open_model(str(tmp_path / "net.pt2")).module
    x = torch.rand(5, 4)
    assert torch.equal(module(x.clone()), network(x.clone()))
    graph = bounds.trace(module, x)
    Faithful(module, graph).check(x)
    assert torch.allclose(graph.bind()(x), network(x.clone()), atol=1e-6)


def counted(m: Alone, h: Tensor) -> Tensor:
    m.seen.add_(1)
    return h + m.seen


def through_a_view(m: Alone, h: Tensor) -> Tensor:
    m.seen.view(2, 3)[0].mul_(1)  # writes, if only what was there
    return h + m.seen


@pytest.mark.parametrize("function", [counted, through_a_view])
def test_an_archive_that_changes_its_buffers_is_refused(
    function: Callable[[Alone, Tensor], Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "net.pt2"
    program = torch.export.export(Alone(function).eval(), (torch.rand(2, 4),), strict=False)
    torch.export.save(program, str(path))
    with pytest.raises(UserError, match=r"tensor 'b_seen' is changed at each call"):
        open_model(str(path))
    torch.export.save(program.run_decompositions({}), str(path))
    with pytest.raises(UserError, match=r"an output of kind 'buffer_mutation'"):
        open_model(str(path))


def test_what_is_read_otherwise_than_it_runs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(tmp_path / "net.pt2", Alone(detached), (4,))
    module = open_model(str(tmp_path / "net.pt2")).module
    x = torch.rand(3, 4)
    graph = bounds.trace(module, x)
    monkeypatch.setitem(program.TARGETS, "aten.mul_.Tensor", lambda a, b: a * b)
    with pytest.raises(UserError, match=r"it first differs at aten\.add\.Tensor at node 'add'"):
        open_model(str(tmp_path / "net.pt2"))
    with pytest.raises(UserError, match=r"so nothing is certified"):
        Faithful(module, graph).check(x)
