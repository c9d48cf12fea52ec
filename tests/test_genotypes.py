"""Genotypes: the published ones, and what is refused with which words."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared_dir

from certnas.errors import UserError
from certnas.nas.space import (
    GENOTYPES,
    OPS,
    PUBLISHED,
    SOURCES,
    DiscreteNetwork,
    Genotype,
    GenotypeChosen,
    genotype_name,
    open_genotype,
    parse_genotype,
    published_genotype,
    read_genotype,
    write_genotype,
)

VALID: dict[str, Any] = {
    "normal": [["skip_connect", 0], ["sep_conv_3x3", 1]],
    "normal_concat": [2],
    "reduce": [["max_pool_3x3", 0], ["avg_pool_3x3", 1]],
    "reduce_concat": [2],
}


def test_genotypes_are_the_collected_ones() -> None:
    packaged = (files("certnas.nas.space") / "genotypes.json").read_bytes()
    assert packaged == (shared_dir() / "data" / "genotypes.json").read_bytes()
    assert len(GENOTYPES) == 34


def with_(**changes: Any) -> dict[str, Any]:
    return VALID | changes


MISTAKES = [
    (
        with_(normal=[["conv_9x9", 0], ["skip_connect", 1]]),
        "genotype 'mine': normal, edge 0: unknown operator 'conv_9x9'; accepted: " + ", ".join(OPS),
    ),
    (
        with_(reduce=[["max_pool_3x3", 0], ["skip_connect", 2]]),
        "genotype 'mine': reduce, edge 1 (skip_connect): input state 2 does not come before node 2; "
        "accepted: 0 to 1",
    ),
    (
        with_(normal=[["skip_connect", -1], ["skip_connect", 1]]),
        "genotype 'mine': normal, edge 0 (skip_connect): input state -1 does not come before node 2; "
        "accepted: 0 to 1",
    ),
    (
        with_(normal=[["skip_connect", 0]] * 3),
        "genotype 'mine': normal: got 3 edges; a cell has two edges for each of its nodes, give 2, 4, 6, ...",
    ),
    (
        with_(reduce=[]),
        "genotype 'mine': reduce: got 0 edges; a cell has two edges for each of its nodes, give 2, 4, 6, ...",
    ),
    (
        with_(normal_concat=[]),
        "genotype 'mine': normal_concat: is empty; list at least one state from 0 to 2",
    ),
    (
        with_(normal_concat=[3]),
        "genotype 'mine': normal_concat: state 3 cannot be an output; accepted: 0 to 2",
    ),
    (
        with_(reduce_concat=[1]),
        "genotype 'mine': reduce_concat: state 1 cannot be an output; accepted: 2 to 2",
    ),
    (
        with_(normal=[["skip_connect", 0], ["skip_connect"]]),
        "genotype 'mine': normal, edge 1: got ['skip_connect']; an edge is a pair [operator, input state]",
    ),
    (
        with_(normal=[["skip_connect", 0], ["skip_connect", "1"]]),
        "genotype 'mine': normal, edge 1: got '1' for a state; a state is an integer, 0 or more",
    ),
    (
        {key: value for key, value in VALID.items() if key != "reduce_concat"},
        "genotype 'mine': key 'reduce_concat' is missing; a genotype has "
        "normal, normal_concat, reduce, reduce_concat",
    ),
    (with_(normal=None), "genotype 'mine': normal: got None; give a list"),
    (with_(reduce_concat=2), "genotype 'mine': reduce_concat: got 2; give a list"),
]


@pytest.mark.parametrize(("record", "message"), MISTAKES)
def test_a_wrong_genotype_is_refused_in_one_line(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_genotype(record, "mine")
    assert str(caught.value) == message


def test_a_valid_record_is_a_genotype() -> None:
    genotype = parse_genotype(VALID, "mine")
    assert genotype == Genotype(
        (("skip_connect", 0), ("sep_conv_3x3", 1)), (2,), (("max_pool_3x3", 0), ("avg_pool_3x3", 1)), (2,)
    )
    assert DiscreteNetwork(genotype, 4, 3, 10)(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_the_inputs_of_a_normal_cell_may_be_outputs() -> None:
    genotype = parse_genotype(with_(normal_concat=[0, 1, 2, 2]), "mine")
    network = DiscreteNetwork(genotype, 4, 3, 10, reductions=(1,)).eval()
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_an_unknown_genotype_names_the_nearest() -> None:
    with pytest.raises(
        UserError,
        match=r"^genotype: unknown name 'DARTS_V3' \(nearest: DARTS_V2, DARTS_V1.*accepted: .*NASNet",
    ):
        published_genotype("DARTS_V3")
    assert published_genotype("ADVRUSH") is GENOTYPES["ADVRUSH"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_written_genotype_reads_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    write_genotype(path, PUBLISHED[name], metric="cb", seed=3)
    assert read_genotype(path) == open_genotype(path) == open_genotype(str(path)) == PUBLISHED[name]
    assert json.loads(path.read_text())["metric"] == "cb"


FILES = [
    (b"", "has no genotype; expected NAME = Genotype("),
    (b"{'normal': []}", "key 'normal_concat' is missing"),
    (b"{normal: []}", "line 1: 'normal' cannot be part of a genotype"),
    (b"\xff\xfe", "is not a text file: invalid start byte at byte 0"),
    (b"[" * 100_000, "is neither JSON nor Python: "),
    (b"[]", "got a JSON list; a genotype is an object of normal"),
    (b"null", "got a JSON NoneType; a genotype is an object"),
    (b"{}", "key 'normal' is missing"),
    (b'{"cells": [["11"]]}', "cells, 0: got 1 edge codes"),
]


@pytest.mark.parametrize(("data", "message"), FILES, ids=range(len(FILES)))
def test_a_wrong_file_is_refused_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_genotype(path)
    assert str(caught.value).startswith(f"genotype {str(path)!r}: {message}")
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_genotype(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        open_genotype(tmp_path / "none.json")


def test_every_published_architecture_names_its_source() -> None:
    assert set(SOURCES) == set(PUBLISHED) and all(SOURCES.values())


CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 3), "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_5x5', 1)], reduce_concat=[2])"
)
SAME = Genotype(
    (("sep_conv_3x3", 0), ("skip_connect", 1)), (2,), (("max_pool_3x3", 0), ("dil_conv_5x5", 1)), (2,)
)
EDGES = "[('sep_conv_3x3', 0), ('skip_connect', 1)]"
POSITIONAL = f"({EDGES}, range(2, 3), [('max_pool_3x3', 0), ('dil_conv_5x5', 1)], [2])"
TEXTS = {
    "call": CELL,
    "assigned": f"found = {CELL}\n",
    "of a module": f"import gt\nX = gt.{CELL}",
    "by place": f"Genotype{POSITIONAL}",
    "tuple": POSITIONAL,
    "dictionary": f"dict_ = {json.dumps(SAME.record())}",
    "JSON object": json.dumps(SAME.record()),
    "JSON lists": json.dumps(list(SAME.record().values())),
    "code": f"from collections import namedtuple\nGenotype = namedtuple('Genotype', 'normal reduce')\n\nA = {CELL}\n"
    "if A:\n    raise SystemExit\nimport os; os.system('echo no')\n",
    "lists of tuples": CELL.replace("[2]", "list(range(2, 3))").replace("range(2, 3),", "tuple([2]),"),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_genotype_is_read_in_every_spelling(text: str, tmp_path: Path) -> None:
    for suffix in (".txt", ".py", ".json", ""):
        path = tmp_path / f"cell{suffix}"
        path.write_text(text)
        assert open_genotype(path) == SAME == read_genotype(path)
    assert open_genotype(text) == SAME
    assert open_genotype(text.replace(", ", ",\n" + " " * 300)) == SAME, "longer than a file's name may be"


def test_one_of_several_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "genotypes.py"
    path.write_text(f"A = {CELL}\nB = {CELL.replace('dil_conv_5x5', 'sep_conv_5x5')}\n")
    with pytest.warns(GenotypeChosen, match="has A, B; this uses 'A', FILE:NAME selects another"):
        assert open_genotype(path) == SAME
    other = open_genotype(f"{path}:B")
    assert isinstance(other, Genotype) and other.reduce[1] == ("sep_conv_5x5", 1)
    with pytest.raises(UserError, match="has no 'C'; it has A, B"):
        open_genotype(f"{path}:C")
    names = {
        f"{path}:B": "B",
        str(path): "genotypes",
        CELL: "genotype",
        f"mine = {CELL}": "mine",
        "NASNet": "NASNet",
    }
    assert {given: genotype_name(given) for given in names} == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Genotype(normal=print(1))", "'print.1.' cannot be part of a genotype"),
        ("Genotype(normal=__import__('os').system('true'))", "cannot be part of a genotype"),
        ("Genotype(normal=[x for x in 'ab'])", "cannot be part of a genotype"),
        ("Genotype(**{'normal': []})", "cannot be part of a genotype"),
        (f"Genotype{POSITIONAL[:-1]}, 5)", "cannot be part of a genotype"),
        ("Genotype(normal_concat=range(10**9))", "cannot be part of a genotype"),
        ("Genotype(normal_concat=range(999999999))", "cannot be part of a genotype"),
        ("Genotype(normal_concat=range(0, 9, 0))", "cannot be part of a genotype"),
        ("Genotype(normal=[('sep_conv_3x3', 0)]", "is neither JSON nor Python"),
        ("x = (1)", "has no genotype"),
        ("(" * 100_000, "is neither JSON nor Python"),
        ("[" * 100 + "]" * 100, "got a JSON list"),
        ("(" + "-" * 100_000 + "1)", "is neither JSON nor Python"),
        ("(" + "not " * 100_000 + "1)", "is neither JSON nor Python"),
        ("Genotype(" + "a." * 100_000 + "b)", "is neither|cannot be part of"),
        ("Genotype(" + "1+" * 100_000 + "1)", "is neither|cannot be part of"),
        ("(\0)", "is neither JSON nor Python"),
        ("(" + " " * 2**20 + ")", "is longer than"),
        ("{}", "key 'normal' is missing"),
        ("(\ud800)", "is neither JSON nor Python"),
    ],
)
def test_what_is_no_genotype_is_refused_in_one_line_and_never_run(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        open_genotype(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
