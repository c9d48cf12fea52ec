"""Small jobs of `certnas certify`, `verify`, `search`, `train` and `check`, and how one of them is run and read."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from certnas.models.conversion import convert
from certnas.models.opened import OpenedModel
from cli.main import main

IMPORTED = (
    "certnas.certifier.plots", "certnas.jobs.certify", "certnas.jobs.verify", "certnas.nas.search",
    "certnas.training", "certnas.verifier", "certnas.proofs",
    "sklearn.datasets",
    "tensorboardX", "torch._dynamo", "torch.export", "onnxruntime",
)  # fmt: skip
"""What the commands import on their way, imported once before all of them."""
PATIENCE = 120.0
"""Seconds after which a command that was asked to end, or runs undisturbed, counts as one that does not end."""
POLL = 0.005
TIMES = frozenset({"time", "seconds", "seconds_per_image", "left", "log"})
"""Keys whose values are times, or (log: the bytes of a log) depend on how times are written."""
GENOTYPE = {
    "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]], "normal_concat": [2],
    "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]], "reduce_concat": [2],
}  # fmt: skip
SMALL = [
    "--channels",
    "4",
    "--layers",
    "2",
    "--threads",
    "1",
    "--data",
    "digits",
    "--images",
    "24",
    "--batch-size",
    "8",
]


@dataclass(frozen=True)
class Job:
    """arguments: of the command, {out} being its folder; resume: whether it is continued by --resume, or begun anew."""

    arguments: tuple[str, ...]
    resume: bool = True

    def line(self, out: Path, *, again: bool = False) -> list[str]:
        """The command's words for a folder; again: after it was killed."""
        words = [word.replace("{out}", str(out)) for word in self.arguments]
        return [*words, "--resume"] if again and self.resume else words


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus a signal's number), seconds, and what it said."""

    code: int
    seconds: float
    out: str
    err: str


def jobs(inputs: Path) -> dict[str, Job]:
    """The jobs, what they read having been made in the folder `inputs`."""
    for module in IMPORTED:
        import_module(module)
    inputs.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2)
    )
    convert(OpenedModel(network.eval(), "net", (1, 2, 3), 2, "here", ""), inputs / "net.onnx")
    listed = []
    for k in range(12):
        low, high = 0.1 * (k % 4), 0.1 * (k % 4) + 0.15 + 0.05 * k
        boxes = "".join(
            f"(declare-const X_{i} Real)(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i in range(6)
        )
        claim = f"(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (<= Y_{k % 2} {-0.25 + 0.02 * k}))"
        (inputs / f"p{k}.vnnlib").write_text(boxes + claim)
        listed.append(f"net.onnx,p{k}.vnnlib,20\n")
    (inputs / "instances.csv").write_text("".join(listed))
    (inputs / "genotype.json").write_text(json.dumps(GENOTYPE))
    certify = "certify digits-cnn --images 6 --batch-size 2 --threads 1 --memory 200M --norm l2 --no-attack"
    certify += " --method crown-ibp"
    proofs = inputs / "proofs"
    if not proofs.exists():
        words = [*certify.split(), "--certificates", str(proofs)]
        made = run(words, inputs)
        if made.code:
            raise RuntimeError(f"the certificates to check could not be made: {made.err}")
    return {
        "certify": Job((*certify.split(), "--out", "{out}", "--certificates", "{out}/proofs")),
        "verify": Job(
            ("verify", "--instances", str(inputs / "instances.csv"), "--threads", "1", "--memory", "200M",
             "--out", "{out}", "--certificates", "{out}/proofs")
        ),
        "search": Job(
            ("search", *SMALL, "--nodes", "1", "--epochs", "2", "--no-pictures", "--checkpoint-every", "1",
            "--out", "{out}")
        ),
        "train": Job(("train", str(inputs / "genotype.json"), *SMALL, "--epochs", "3", "--out", "{out}")),
        "check": Job(("check", str(proofs), "digits-cnn"), resume=False),
    }  # fmt: skip


def run(words: Sequence[str], spare: Path, *, after: float | None = None, by: int = signal.SIGKILL) -> Ended:
    """Runs `certnas WORDS` in a process of its own; after: seconds until it is sent the signal `by`.

    The process is forked from this one, which has imported the commands already: it has all moments of a command
    but its imports.  spare: a folder for what it says.  This process must not have computed derivatives before:
    torch's threads do not survive a fork.
    """
    said = [spare / f"{os.getpid()}.{name}" for name in ("out", "err")]
    began = time.perf_counter()
    process = os.fork()
    if process == 0:
        _command(words, said)
    code, sent, forced = None, False, False
    while code is None:
        ended, status = os.waitpid(process, os.WNOHANG)
        spent = time.perf_counter() - began
        if ended:
            code = os.waitstatus_to_exitcode(status)
        elif after is not None and spent >= after and not sent:
            os.kill(process, by)
            sent = True
        elif spent > PATIENCE + (after or 0.0) and not forced:
            os.kill(process, signal.SIGKILL)
            forced = True
        else:
            time.sleep(POLL)
    texts = [file.read_text(errors="replace") if file.exists() else "" for file in said]
    for file in said:
        file.unlink(missing_ok=True)
    late = "Traceback: it did not end\n" if forced else ""
    return Ended(code, time.perf_counter() - began, texts[0], texts[1] + late)


def _command(words: Sequence[str], said: Sequence[Path]) -> None:
    """The child: runs the command with its words in files, and ends the process."""
    code = 1
    try:
        for file, stream in zip(said, (1, 2), strict=True):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's children ignore it
        sys.stdin = io.StringIO()
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        torch.set_num_threads(1)
        main(list(words))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a folder without its times; TensorBoard's events and hidden files, left by a kill, apart."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.name.startswith(".") and not name.startswith("tensorboard/"):
            found[name] = _without_times(path.name, path.read_bytes(), str(folder))
    return found


def _without_times(name: str, data: bytes, folder: str) -> object:
    if name.endswith(".jsonl"):
        return [_timeless(json.loads(line)) for line in data.decode().splitlines()]
    if name.endswith(".json"):
        return _timeless(json.loads(data))
    if name == "results.csv":
        return re.sub(rb"\d+\.\d{3}(?=,|\r?\n|$)", b"T", data)
    if name.endswith(".pt"):
        return _timeless(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    if name.endswith(".toml"):
        return data.replace(folder.encode(), b"OUT")
    return data


def _timeless(value: Any) -> Any:
    """The value without the entries that are times."""
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, torch.Tensor):
        stream = io.BytesIO()
        np.save(stream, value.numpy())
        return stream.getvalue()
    return [_timeless(item) for item in value] if isinstance(value, list | tuple) else value
