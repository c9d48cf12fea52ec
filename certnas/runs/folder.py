"""The folder of a long run, such as a search or a training."""

import io
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from certnas.errors import UserError
from certnas.runs.environment import versions
from certnas.runs.files import finite, open_folder, refuse_changes, write_atomically
from certnas.runs.tables import read_toml, to_toml

CONFIG, ENVIRONMENT, LOG, STATE = "config.toml", "environment.json", "log.jsonl", "last.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A saved state of a run."""

    step: int
    """The number of steps done."""
    log: int
    """The size of the log at that time, in bytes."""
    state: dict[str, Any]
    """The state that `save` was given."""


class RunFolder:
    """A run on disk: config.toml, environment.json, log.jsonl, tensorboard/, last.pt and further files.

    A killed run continues from `checkpoint`, the last state that `save` wrote. Log lines after it are removed, so
    that a resumed run has the same log as an uninterrupted one. A folder without a state starts anew (`checkpoint` is
    None).
    """

    def __init__(self, path: Path, config: Mapping[str, Any], checkpoint: Checkpoint | None) -> None:
        self.path, self.config, self.checkpoint = path, dict(config), checkpoint
        self._lines: BinaryIO | None = None
        self._events: Any = None

    @classmethod
    def open(
        cls, path: Path, config: Mapping[str, Any], *, resume: bool = False, environment: Mapping[str, Any]
    ) -> "RunFolder":
        """Opens the folder of a run for writing.

        path: the folder. config: a table of everything that determines the result (`to_table`).
        resume: whether to continue a run in the folder.
        environment: further facts, such as the device; they may differ when resuming.
        Raises UserError if the folder cannot be written, if it holds a run and `resume` is false, or if it holds a
        run with another configuration.
        """
        open_folder(path)
        checkpoint = _read(path / STATE)
        if checkpoint is not None:
            if not resume:
                raise UserError(
                    f"{path} already holds a run; continue it with --resume or choose another --out"
                )
            refuse_changes(path, read_toml(path / CONFIG), config)
        write_atomically(
            path / ENVIRONMENT, json.dumps(finite({**environment, "versions": versions()}), indent=1)
        )
        write_atomically(path / CONFIG, to_toml(config))
        return cls(path, config, checkpoint)

    def write(self, name: str, data: str | bytes) -> Path:
        """Replaces the file of this name, which may lie in a subfolder; returns its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        return path

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Saves the state after `step` steps: tensors, numbers, texts, and dictionaries and lists of them."""
        lines = self._log()
        lines.flush()
        os.fsync(lines.fileno())
        buffer = io.BytesIO()
        torch.save({"step": step, "log": lines.tell(), "state": dict(state)}, buffer)
        write_atomically(self.path / STATE, buffer.getvalue())

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line of log.jsonl, and one TensorBoard point "kind/name" for each numeric value."""
        lines = self._log()
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        lines.write(json.dumps(finite(record), allow_nan=False).encode() + b"\n")
        lines.flush()
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the log; logged and saved data is on disk even without this."""
        if self._lines is not None:
            self._lines.close()
            self._events.close()
            self._lines = self._events = None

    def _log(self) -> BinaryIO:
        if self._lines is None:
            from tensorboardX import SummaryWriter

            kept, step = (0, 0) if self.checkpoint is None else (self.checkpoint.log, self.checkpoint.step)
            self._lines = (self.path / LOG).open("ab")
            self._lines.truncate(min(kept, self._lines.tell()))
            self._lines.seek(0, os.SEEK_END)
            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        return self._lines


def _read(path: Path) -> Checkpoint | None:
    """Reads a checkpoint without running code; returns None if there is no file."""
    if not path.exists():
        return None
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except (
        Exception
    ) as error:  # torch's reader may raise any error on a damaged file, such as IndexError or ValueError
        raise UserError(
            f"cannot resume {path.parent}: {path.name} is damaged; choose another --out"
        ) from error
