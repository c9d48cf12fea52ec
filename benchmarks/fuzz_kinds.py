"""A file of each format, the function that opens it, and contents designed to do harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from certnas.certifier.certificates import csv_text
from certnas.certifier.results import CSV, JSON, Folder, read_json
from certnas.data import load
from certnas.models import ARCHITECTURES, open_model
from certnas.models.conversion import convert
from certnas.models.opened import OpenedModel
from certnas.models.trained import DESCRIPTION, WEIGHTS, Sizes, write_network
from certnas.nas.search import SearchConfig
from certnas.nas.space import DiscreteNetwork, parse_genotype
from certnas.nas.space.files import open_genotype
from certnas.pipeline import run_config
from certnas.proofs import check_file, write_proof
from certnas.runs import RunFolder, from_table, read_toml, to_table, to_toml
from certnas.training.recipe import recipe, recipe_table
from certnas.verifier import read_vnnlib, verify
from certnas.verifier.instances import read_instances, read_results
from certnas.verifier.subject import open_onnx

PROPERTIES = {
    "property 1.0": b"""(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n
(assert (>= X_0 -1.0))(assert (<= X_0 0.1))(assert (>= X_1 0))(assert (<= X_1 1e-3))
(assert (or (and (<= Y_0 0.5) (> Y_0 -2)) (= (+ (* 2.0 Y_0) (- Y_0) 1) 4)))""",
    "property 2.0": b"""(vnnlib-version <2.0>)\n(declare-network N (declare-input X float32 [1, 2]) ; its batch is 1
(declare-output Y Real []))\n(assert (and (>= X[0,0] -1.0) (<= X[0,0] 0.1) (>= X[0,1] 0) (<= X[0,1] 0.001)))
(assert (or (and (<= Y 0.5) (!= Y -2)) (== (+ (* 2.0 Y) (- Y) 1) 4)))""",
}


GENOTYPE = {
    "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]], "normal_concat": [2],
    "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]], "reduce_concat": [2],
}  # fmt: skip
DEEP = 100_000
LONG = b"9" * 5000
"""An integer with more digits than Python parses."""
ANYTHING = (
    b"",
    b"\0" * 4096,
    b"\xff" * 4096,
    b"PK\x03\x04",
    b"\x80\x02.",
    b"\xef\xbb\xbf{}",
    b"{}",
    b"[]",
    b"null",
    b"1e999",
    b"NaN",
)
TEXTS = (
    b"[" * DEEP, b"{\"a\":" * DEEP, b"(" * DEEP, b"[" * DEEP + b"]" * DEEP, b'"\\ud800"', b'{"normal": ' + LONG + b"}",
    b'{"x": 1e999, "y": NaN, "z": -Infinity}', LONG,
)  # fmt: skip
TOMLS = (
    b"a = " + b"[" * DEEP, b"a = " + b"{b = " * 5000, b".".join([b"a"] * 20_000) + b" = 1",
    b"[" + b".".join([b"a"] * 20_000) + b"]",
    b"epochs = " + LONG, b"epochs = 1e999", b"epochs = nan", b"epochs = 99999999999999999999999",
    b"[weights]\nlr = inf",
    b"[recipe]\nepochs = -1", b"\xff = 1", b"[data]\nname = 3", b"[metric]\ngamma = nan", b"data = 1",
    b"[search.data]\nname = []",
)  # fmt: skip
VNNLIBS = (
    b"(" * DEEP, b"(assert " * DEEP, b"(declare-const X_99999999999 Real)", b"(declare-const X_" + LONG + b" Real)",
    b"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1e999))(assert (>= X_0 -1e999))"
    b"(assert (<= Y_0 0))",
    b"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 nan))(assert (>= X_0 inf))(assert (<= Y_0 0))",
    b"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 0))(assert (>= X_0 1))"
    b"(assert (<= Y_0 " + LONG + b"))",
    b"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))(assert "
    + b"(or " * 2000 + b"(<= Y_0 0)" + b")" * 2000 + b")",
)  # fmt: skip
LISTS = (
    b"a.onnx,b.vnnlib,nan\n", b"a.onnx,b.vnnlib,1e999\n", b"a.onnx,b.vnnlib,-1\n", b"a\0b,c\n", b'"' + b"x" * 200_000,
    b"a,b,unsat,1,2\n", b"network,property\n", b",,,,,,\n", b"a,b,c,nan,unsat,inf\n", b"a,b,1," + LONG + b",unsat,1\n",
)  # fmt: skip
SAFETENSORS = (
    (1 << 62).to_bytes(8, "little") + b"{}", (DEEP).to_bytes(8, "little") + b"[" * DEEP,
    *((len(t)).to_bytes(8, "little") + t for t in (
        b'{"a":{"dtype":"F32","shape":[1125899906842624],"data_offsets":[0,4503599627370496]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A format under test.

    `file` is its path within the folder, `open` does what a command does with it, and `hostile` are whole
    contents designed to do harm.

    `sealed` is true for a certificate whose seal is to be recomputed after a change.
    """

    file: str
    data: bytes
    open: Callable[[], object]
    hostile: tuple[bytes, ...] = ()
    sealed: bool = False


class Marker:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def kinds(folder: Path, marker: Path) -> dict[str, Kind]:
    """A kind for every format, with a valid file in `folder`; two of them are malicious pickles."""
    torch.manual_seed(0)
    found = {**_networks(folder, marker), **_properties(folder), **_data(folder), **_runs(folder)}
    for kind in found.values():
        path = folder / kind.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kind.data)
    return found


def _networks(folder: Path, marker: Path) -> dict[str, Kind]:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
    ).eval()
    opened = OpenedModel(network, "net", (1, 8, 8), 3, "here", "")
    found: dict[str, Kind] = {}
    for suffix, hostile in ((".onnx", ()), (".pt2", ()), (".safetensors", SAFETENSORS)):
        path = folder / f"net{suffix}"
        convert(opened, path)
        found[suffix] = Kind(path.name, path.read_bytes(), partial(open_model, str(path)), hostile)
    weights_of = partial(open_model, str(folder / "net.safetensors"))
    found[".json"] = Kind("net.json", (folder / "net.json").read_bytes(), weights_of, TEXTS)
    weights = ARCHITECTURES["cnn-cert-relu"](layers=2, size=8, classes=3).module.state_dict()
    arch: dict[str, Any] = {"arch": "cnn-cert-relu", "arch_options": {"layers": 2, "size": 8, "classes": 3}}
    for name, file, contents, new in (
        ("state dict", "net.pth", {"state_dict": weights}, True),
        ("pickle", "evil.pth", {"state_dict": weights, "a": Marker(marker)}, True),
        ("old state dict", "net.pt", weights, False),
    ):
        stream = io.BytesIO()
        torch.save(contents, stream, _use_new_zipfile_serialization=new)
        found[name] = Kind(file, stream.getvalue(), partial(open_model, str(folder / file), **arch))
    raw = pickle.dumps({"a": Marker(marker)})
    found["raw pickle"] = Kind("net.th", raw, partial(open_model, str(folder / "net.th"), **arch))
    file = folder / "weights.safetensors"
    found["weights"] = Kind(file.name, save(weights), partial(open_model, str(file), **arch), SAFETENSORS)
    found[".h5"] = Kind("net.h5", keras_file(folder / "net.h5"), partial(open_model, str(folder / "net.h5")))
    return found


def _properties(folder: Path) -> dict[str, Kind]:
    found = {}
    for name, text in PROPERTIES.items():
        file = f"{name[-3:]}.vnnlib"
        found[name] = Kind(file, text, partial(read_vnnlib, folder / file), VNNLIBS)
    packed = folder / "net.vnnlib.gz"
    found["property, packed"] = Kind(
        packed.name, gzip.compress(PROPERTIES["property 1.0"], mtime=0), partial(read_vnnlib, packed),
        tuple(gzip.compress(text, mtime=0) for text in (*VNNLIBS, bytes(1 << 26))),
    )  # fmt: skip
    line = b"network,property,timeout\na.onnx,b.vnnlib,60\nc.onnx,d.vnnlib,\n"
    found["instances"] = Kind("instances.csv", line, partial(read_instances, folder / "instances.csv"), LISTS)
    answers = b"test,a.onnx,b.vnnlib,0.100,unsat,1.500\n"
    found["answers"] = Kind("answers/results.csv", answers, partial(read_results, folder / "answers"), LISTS)
    subject, path = open_onnx(folder / "net.onnx"), folder / "certificate.npz"
    inputs = "".join(
        f"(declare-const X_{i} Real)(assert (<= X_{i} 0.51))(assert (>= X_{i} 0.5))" for i in range(64)
    )
    outputs = "".join(f"(declare-const Y_{i} Real)" for i in range(3))
    (folder / "far.vnnlib").write_text(inputs + outputs + "(assert (<= Y_0 -1000))")
    prop = read_vnnlib(folder / "far.vnnlib")
    proof = verify(subject.network, prop, replay=subject.replay, timeout=60, proof=True).proof
    assert proof is not None
    write_proof(path, prop, proof)
    check = partial(check_file, path, subject.module, prop=prop)
    found["certificate"] = Kind(path.name, path.read_bytes(), check, ARCHIVES)
    found["certificate, sealed"] = Kind(path.name, path.read_bytes(), check, ARCHIVES, sealed=True)
    return found


def _archive(**arrays: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def _claims(shape: str, descr: str = "|u1", data: bytes = bytes(64)) -> bytes:
    """An .npy file whose header claims a shape."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


ARCHIVES = tuple(
    _archive(x=x, y=y, header=x, numbers=y, seal=y)
    for x, y in (
        (_claims(f"({1 << 50}, 1, 8, 8)"), _claims(f"({1 << 50},)", "<i8")),
        (_claims("(1, 1, 8, 8)"), _claims(f"({1 << 50},)", "<i8")),
        (_claims("(1, 1, 8, 8)"), _claims("(-1,)", "<i8")),
        (_claims("(1, 1, 8, 8)"), _claims("(1,)", "|O")),
        (_claims("(1, 0, 0, 8)"), _claims("(1,)", "<i8", (1 << 62).to_bytes(8, "little"))),
        (_claims("(1, 1, 2, 4)", "<f8", b"\xff" * 64), _claims("(1,)", "<i8", bytes(8))),
        (_claims("(" + "1," * 3000 + ")"), _claims("(1,)", "<i8", bytes(8))),
        (_claims("(" * 3000), _claims("(1,)", "<i8", bytes(8))),
        (_claims("(1048576, 1, 8, 8)", "|u1", bytes(1 << 26)), _claims("(1048576,)", "|i1", bytes(1 << 20))),
    )
)
"""Archives whose headers lie, claim more memory than a machine has, or unpack to a thousand times their
size.
"""


def _data(folder: Path) -> dict[str, Kind]:
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros((4, 1, 8, 8), np.uint8), y=np.arange(4))
    images, genotype = folder / "images.npz", folder / "genotype.json"
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    claimed = bytearray(picture.getvalue())
    claimed[16:24] = b"\x7f\xff\xff\xff" * 2  # width and height
    return {
        "images": Kind(images.name, stream.getvalue(), partial(load, str(images), count=2, seed=0), ARCHIVES),
        "picture": Kind(
            "images/a/0.png", picture.getvalue(), partial(load, str(folder / "images")), (bytes(claimed),)
        ),
        "genotype": Kind(
            genotype.name, json.dumps(GENOTYPE).encode(), partial(open_genotype, genotype), TEXTS
        ),
    }


def _runs(folder: Path) -> dict[str, Kind]:
    """Configurations, result folders and run folders."""
    search, whole, train = folder / "search.toml", folder / "run.toml", folder / "train.toml"
    config = to_toml(to_table(SearchConfig())).encode()
    used = to_toml({"recipe": recipe_table(recipe("standard"))}).encode()
    found = {
        "search.toml": Kind(search.name, config, lambda: from_table(SearchConfig, read_toml(search)), TOMLS),
        "run.toml": Kind(whole.name, b"[search]\nseed = 1\n", lambda: run_config(read_toml(whole)), TOMLS),
        "train.toml": Kind(
            train.name, used, lambda: recipe("standard", changes=read_toml(train).get("recipe", {})), TOMLS
        ),
    }
    results, run = folder / "results", folder / "run"
    Folder.open(results, {"norm": "l2"}, [0, 1], resume=False)
    kept = json.loads((results / JSON).read_text())
    image = {"index": 0, "label": 1, "prediction": 1, "radius_lower": 0.25, "radius_upper": None, "status": "certified",
             "proved_by": "crown", "seconds": 0.5, "evaluations": 7, "proof": "",
             "target": -1}  # fmt: skip
    kept |= {"norm": "l2", "method": "crown", "images": [image]}
    (results / JSON).write_text(json.dumps(kept))
    certificates = read_json(results / JSON)[1]
    assert certificates is not None
    resume = partial(Folder.open, results, {"norm": "l2"}, [0, 1], resume=True)
    found["results.json"] = Kind(f"results/{JSON}", (results / JSON).read_bytes(), resume, TEXTS)
    found["results.csv"] = Kind(f"results/{CSV}", csv_text(certificates).encode(), resume)
    state = RunFolder.open(run, {"seed": 1}, environment={})
    state.save(3, {"weights": torch.zeros(4), "names": ["a"]})
    state.close()
    again = partial(RunFolder.open, run, {"seed": 1}, resume=True, environment={})
    for file in ("last.pt", "config.toml"):
        found[f"run: {file}"] = Kind(
            f"run/{file}", (run / file).read_bytes(), again, TOMLS if "toml" in file else ()
        )
    best, genotype = folder / "best", parse_genotype(GENOTYPE, "genotype")
    sizes = Sizes(4, 2, 3, (1, 8, 8))
    write_network(best, DiscreteNetwork(genotype, 4, 2, 3, in_channels=1), genotype, sizes, {"figures": {}})
    for file, hostile in ((DESCRIPTION, TEXTS), (WEIGHTS, SAFETENSORS)):
        found[f"trained: {file}"] = Kind(
            f"best/{file}", (best / file).read_bytes(), partial(open_model, str(best)), hostile
        )
    return found


def keras_file(path: Path) -> bytes:
    """A Keras network with a convolution, a batch normalisation and a dense layer."""
    shapes = {"conv": {"kernel": (3, 3, 1, 2), "bias": (2,)}, "dense": {"kernel": (72, 3), "bias": (3,)}}
    norms = ("gamma", "beta", "moving_mean", "moving_variance")
    shapes["norm"] = dict.fromkeys(norms, (2,))
    kinds = {
        "conv": ("Conv2D", {"batch_input_shape": [None, 8, 8, 1], "filters": 2, "kernel_size": [3, 3]}),
        "norm": ("BatchNormalization", {"axis": [3]}),
        "flat": ("Flatten", {}),
        "dense": ("Dense", {"units": 3, "activation": "softmax"}),
    }
    layers = [{"class_name": kind, "config": {"name": name} | more} for name, (kind, more) in kinds.items()]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = list(shapes)
        for name, own in shapes.items():
            part = group.create_group(name)
            part.attrs["weight_names"] = [f"{name}/{key}:0" for key in own]
            for key, shape in own.items():
                part[f"{name}/{key}:0"] = np.ones(shape, np.float32)
    return path.read_bytes()
