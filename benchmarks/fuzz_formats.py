"""Mutated files of networks and properties: each is read or refused on one line, in ten seconds, running no code."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import resource
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from certnas.errors import UserError
from certnas.models import ARCHITECTURES, open_model
from certnas.models.conversion import convert
from certnas.models.opened import OpenedModel
from certnas.verify import read_vnnlib

SECONDS = 10.0
WORDS = (b"-1", b"0", b"2", b"9" * 18, b"1e999", b"null", b"true", b"[]", b"{}", b'"x"', b'"aten.add.Tensor"')
"""What a word of a text is replaced with."""
JSON_WORD = re.compile(rb'-?\d+(\.\d+)?|true|false|null|"[\w.]*"')
PROPERTY_WORD = re.compile(rb"-?\d+(\.\d+)?|[A-Za-z][\w-]*|[<>!=]=?")
PROPERTIES = {
    "property 1.0": b"""(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n
(assert (>= X_0 -1.0))(assert (<= X_0 0.1))(assert (>= X_1 0))(assert (<= X_1 1e-3))
(assert (or (and (<= Y_0 0.5) (> Y_0 -2)) (= (+ (* 2.0 Y_0) (- Y_0) 1) 4)))""",
    "property 2.0": b"""(vnnlib-version <2.0>)\n(declare-network N (declare-input X float32 [1, 2]) ; its batch is 1
(declare-output Y Real []))\n(assert (and (>= X[0,0] -1.0) (<= X[0,0] 0.1) (>= X[0,1] 0) (<= X[0,1] 0.001)))
(assert (or (and (<= Y 0.5) (!= Y -2)) (== (+ (* 2.0 Y) (- Y) 1) 4)))""",
}


class Marker:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def seeds(folder: Path, marker: Path) -> dict[str, tuple[str, bytes, dict[str, Any]]]:
    """A file of each format, and a malicious pickle: name -> its name on disk, its bytes, the options to open it."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
    ).eval()
    opened = OpenedModel(network, "net", (1, 8, 8), 3, "here", "")
    found: dict[str, tuple[str, bytes, dict[str, Any]]] = {}
    for suffix in (".onnx", ".pt2", ".safetensors"):
        convert(opened, folder / f"net{suffix}")
        found[suffix] = (f"net{suffix}", (folder / f"net{suffix}").read_bytes(), {})
    found[".json"] = ("net.json", (folder / "net.json").read_bytes(), {})
    weights = ARCHITECTURES["cnn-cert-relu"](layers=2, size=8, classes=3).module.state_dict()
    arch: dict[str, Any] = {"arch": "cnn-cert-relu", "arch_options": {"layers": 2, "size": 8, "classes": 3}}
    for name, contents in (
        ("state dict", {"state_dict": weights}),
        ("pickle", {"state_dict": weights, "a": Marker(marker)}),
    ):
        stream = io.BytesIO()
        torch.save(contents, stream)
        found[name] = ("net.pth", stream.getvalue(), arch)
    found[".h5"] = ("net.h5", keras_file(folder / "net.h5"), {})
    stream = io.BytesIO()
    torch.save(weights, stream, _use_new_zipfile_serialization=False)
    found["old state dict"] = ("net.pt", stream.getvalue(), arch)
    found["weights"] = ("weights.safetensors", save(weights), arch)
    found |= {name: ("net.vnnlib", text, {}) for name, text in PROPERTIES.items()}
    found["raw pickle"] = ("net.th", pickle.dumps({"a": Marker(marker)}), arch)
    return found


def keras_file(path: Path) -> bytes:
    """A Keras network of a convolution, batch normalisation and a dense layer."""
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


def mutated(data: bytes, random: Random) -> bytes:
    """The file with some bytes changed; of an archive, in half of the cases, those of one member."""
    if not data.startswith(b"PK") or random.random() < 0.5:
        return _changed(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = random.choice([name for name, content in members.items() if content])
    members[chosen] = _changed(members[chosen], random)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _changed(data: bytes, random: Random) -> bytes:
    """The bytes with some flipped, cut, doubled, moved, or replaced by numbers and words that are often mishandled."""
    content = bytearray(data)
    if data.startswith((b"{", b"(")) and random.random() < 0.8:
        words = list((JSON_WORD if data.startswith(b"{") else PROPERTY_WORD).finditer(data))
        for word in sorted(
            random.sample(words, min(len(words), random.choice((1, 1, 2, 4)))), key=lambda w: -w.start()
        ):
            content[word.start() : word.end()] = random.choice((*WORDS, random.choice(words).group()))
        return bytes(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(content) or 1)
        length = min(random.choice((1, 2, 4, 8, 64)), len(content) - at)
        other = random.randrange(len(content) or 1)
        match random.randrange(7):
            case 0:
                content[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                content[at : at + length] = random.randbytes(length)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case 4:
                content[at : at + length] = random.choice((b"\xff" * length, bytes(length), b"\x7f" * length))
            case 5:
                content[at : at + length] = content[other : other + length]
            case _:
                del content[at if random.random() < 0.2 else len(content) :]
    return bytes(content)


def attempt(path: Path, options: dict[str, Any]) -> tuple[str, float]:
    """How opening a file ended, and after how many seconds: opened, refused, or what else was raised."""
    started = time.perf_counter()
    try:
        if path.suffix == ".vnnlib":
            read_vnnlib(path)
        else:
            open_model(str(path), **options)
        ended = "opened"
    except UserError as error:
        ended = "refused" if "\n" not in str(error) else f"refused on several lines: {error!r}"
    except MemoryError:
        ended = "MemoryError"
    except Exception as error:
        ended = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ended, time.perf_counter() - started


def fuzz(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Opens `count` mutated files in turn of all kinds; returns outcomes, the slowest, and what went wrong."""
    marker = folder / "marker"
    made = seeds(folder, marker)
    random = Random(seed)
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in made}
    wrong: list[str] = []
    slowest = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            name = list(made)[number % len(made)]
            file, data, options = made[name]
            path = folder / file
            path.write_bytes(mutated(data, random))
            target = folder / "net.safetensors" if name == ".json" else path
            ended, seconds = attempt(target, options)
            path.write_bytes(data)
            slowest = max(slowest, seconds)
            outcomes[name][ended if ended in ("opened", "refused") else "other"] += 1
            if ended not in ("opened", "refused") or seconds > SECONDS or marker.exists():
                wrong.append(
                    f"{name} {number}: {ended} after {seconds:.1f} s{', code ran' if marker.exists() else ''}"
                )
    return {
        "files": count,
        "seed": seed,
        "outcomes": {name: dict(counted) for name, counted in outcomes.items()},
        "slowest_seconds": round(slowest, 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Folder for fuzz_formats.json.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(asked.count, asked.seed, Path(folder))
    text = json.dumps(report, indent=1) + "\n"
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "fuzz_formats.json").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
