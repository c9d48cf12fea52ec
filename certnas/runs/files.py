"""Files that a kill cannot leave half written, and folders that are checked to be writable."""

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certnas.errors import UserError


def write_atomically(path: Path, data: str | bytes) -> None:
    """Replaces the file `path` by `data` as a whole: the data is written to a file beside it, flushed to disk, and
    renamed.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def open_folder(path: Path) -> None:
    """Creates the folder if it does not exist. Raises UserError if nothing can be written in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot write to {path}: {reason}; choose another folder with --out") from error


def refuse_changes(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UserError, with every difference, if a folder of one configuration is resumed with another."""
    before, now = _flat(before), _flat(now)
    differ = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differ:
        changes = ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in differ)
        raise UserError(f"cannot resume {path}: {changes}; repeat the options or choose another --out")


def finite(value: Any) -> Any:
    """The same value, with None for every NaN and infinity, and strings for mapping keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _flat(table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return flat
