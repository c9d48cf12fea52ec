"""Reading of Keras .h5 files as plain arrays, in a separate process that may crash, hang or run out of memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from certnas.errors import UserError
from certnas.models.formats.hdf5_extraction import REFUSED
from certnas.models.formats.limits import LARGEST

PROGRAM = Path(__file__).with_name("hdf5_extraction.py")
SECONDS, BYTES_A_SECOND = 8.0, 2**25
MEMORY = 2**32


@dataclass(frozen=True)
class KerasArrays:
    """The contents of a Keras .h5 file."""

    config: str | None
    """The text that describes the network; None if the file has none."""
    layers: dict[str, dict[str, np.ndarray]]
    """Layer -> weight -> array."""


def read_hdf5(path: Path) -> KerasArrays:
    """The contents of a Keras file, with layers and weights in the file's order.

    Links to other files are not followed.

    Raises UserError for a damaged file, and for one that needs more than SECONDS (plus one second per
    BYTES_A_SECOND) or more than MEMORY bytes (plus 8 times its size) to read.
    """
    size = path.stat().st_size
    command = [sys.executable, "-P", str(PROGRAM), str(path.resolve()), str(LARGEST), str(MEMORY + 8 * size)]
    seconds = SECONDS + size / BYTES_A_SECOND
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"cannot read '{path}' as .h5: it takes more than {seconds:.0f} s, so is damaged"
        ) from error
    if done.returncode == REFUSED:
        reason = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
        raise UserError(f"cannot read '{path}' as a Keras .h5: {reason}")
    if done.returncode:
        raise UserError(f"cannot read '{path}' as .h5: it is truncated or in another format")
    with np.load(io.BytesIO(done.stdout)) as archive:
        contents = json.loads(archive["arr_0"].tobytes())
        values = (archive[f"arr_{number}"] for number in range(1, len(archive.files)))
        layers = {
            layer: {name: next(values) for name in names} for layer, names in contents["layers"].items()
        }
    return KerasArrays(contents["config"], layers)
