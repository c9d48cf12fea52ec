"""Small jobs of `certnas certify`, `verify`, `search`, `train` and `check`, and functions to run one and
read its result.
"""

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
"""Modules that the commands import, imported once before all of them."""
PATIENCE = 120.0
"""Seconds that a command has to end after a signal, or to run undisturbed."""
POLL = 0.005
TIMES = frozenset({"time", "seconds", "seconds_per_image", "left", "log"})
"""Keys whose values are times, or, such as a log's number of bytes, depend on times."""
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
    """A command's arguments, with {out} for its folder.

    `resume` is true if --resume continues it, false if it starts again.
    """

    arguments: tuple[str, ...]
    resume: bool = True

    def line(self, out: Path, *, again: bool = False) -> list[str]:
        """The command's words for a folder; `again` is true after a kill."""
        words = [word.replace("{out}", str(out)) for word in self.arguments]
        return [*words, "--resume"] if again and self.resume else words


@dataclass(frozen=True)
class Ended:
    """The end of a process: its exit code (minus the number of a signal), seconds, and output."""

    code: int
    seconds: float
    out: str
    err: str


def jobs(inputs: Path) -> dict[str, Job]:
    """The jobs; their inputs are in the folder `inputs`."""
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
    """Run `certnas WORDS` in its own process; `after` is the number of seconds until the signal `by`.

    The process is a fork of this one, which has already imported the commands, so everything but the
    imports can be interrupted. `spare` is a folder for the output. This process must not have computed
    derivatives before, because torch's threads do not survive a fork.
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
    """The child: run the command with its output in files, and end the process."""
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
    """Every file of a folder without its times, except TensorBoard's events and hidden files left by a kill."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.name.startswith(".") and not name.startswith("tensorboard/"):
            found[name] = _without_times(path.name, path.read_bytes(), str(folder))
    return found


def _without_times(name: str, data: bytes, folder: str) -> object:
    """The contents of a file without its times."""
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
