"""torch.export archives: the networks that were exported, old layouts, and in-place writes."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pt2_archives import Edit, Malice, Mixed, changed, exported
from torch import Tensor, nn

import bounds
from certnas.errors import UserError
from certnas.faithful import Faithful
from certnas.models import open_model
from certnas.models.formats import program
from certnas.nas.space import DiscreteNetwork, published_genotype

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
        (Malice, "weights in data/weights/model.pt are not plain tensors: reading them would run code"),
        (lambda marker: {"scale": 1.0}, "weights in data/weights/model.pt are not plain tensors"),
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
