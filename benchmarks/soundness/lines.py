"""The folder of a run: settings.json, and one line of JSON for each seed, appended as it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from certnas.errors import UserError
from certnas.runs import write_atomically

SETTINGS, LINES = "settings.json", "networks.jsonl"


class Lines:
    """The lines of a run, which a kill cannot spoil: a last line that was cut short is dropped when it goes on."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Raises UserError where the folder holds a run and is not to be resumed, or one of other settings."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path, kept = folder / LINES, folder / SETTINGS
        if kept.exists():
            if not resume:
                raise UserError(
                    f"{folder} already holds a run; continue it with --resume or choose another --out"
                )
            before = json.loads(kept.read_text())
            if before != settings:
                differ = [key for key in settings if before.get(key) != settings[key]]
                raise UserError(f"cannot resume {folder}: other {', '.join(differ)}; choose another --out")
        write_atomically(kept, json.dumps(settings, indent=1) + "\n")
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open() as file:
            for line in file:
                yield json.loads(line)

    def append(self, lines: list[dict[str, Any]]) -> None:
        """Adds lines, and has them on disk before it returns."""
        with self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
