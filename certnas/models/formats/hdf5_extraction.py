"""A separate program that writes the arrays of a Keras .h5 file to the standard output as an .npz file.

`hdf5` runs it in its own process, because the HDF5 library hangs or crashes on some damaged files. It does
not import certnas. Its arguments are the file, the largest number of elements of an array, and the largest
number of bytes of memory. For a file that it does not accept, it exits with REFUSED and one line on the
standard error.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from typing import Any

import h5py
import numpy as np

REFUSED = 3
DAMAGED = "its arrays are damaged or elsewhere"


class RefusedError(Exception):
    """The reason why a file is not accepted."""


def extracted(path: str, largest: int) -> bytes:
    """An .npz file: arr_0 is a JSON text {config, layers: {layer: [weight]}}, and arr_1, arr_2, … are the
    weights in order.
    """
    arrays: list[np.ndarray] = []
    layers: dict[str, list[str]] = {}
    with h5py.File(path, "r") as file:
        group = _own(file, "model_weights") if "model_weights" in file else file
        for layer in map(_text, group.attrs["layer_names"]):
            own = _own(group, layer)
            layers[layer] = [_text(name) for name in own.attrs["weight_names"]]
            arrays += [
                _array(_own(own, name), name, largest, os.path.getsize(path)) for name in layers[layer]
            ]
        config = file.attrs.get("model_config")
    contents = json.dumps({"config": None if config is None else _text(config), "layers": layers})
    stream = io.BytesIO()
    np.savez(stream, np.frombuffer(contents.encode(), np.uint8), *arrays)
    return stream.getvalue()


def _own(group: Any, name: str) -> Any:
    """The object with this name, if it is stored in the file itself."""
    here = group
    for part in name.split("/"):
        if not isinstance(here, h5py.Group) or not isinstance(here.get(part, getlink=True), h5py.HardLink):
            raise RefusedError(f"it has no {name[:100]!r} of its own")
        here = here[part]
    return here


def _array(array: Any, name: str, largest: int, size: int) -> np.ndarray:
    """The array, after a check that it is stored in the file and fits in memory."""
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual or array.size > largest:
        raise RefusedError(f"array {name[:100]!r} is too large or kept outside the file")
    if array.size * array.dtype.itemsize > 20 * size + 2**26:
        raise RefusedError(f"array {name[:100]!r} unpacks to far more than the file holds")
    if array.dtype.kind != "f":
        raise RefusedError(f"array {name[:100]!r} is of type {array.dtype}; accepted: floats")
    return np.asarray(array[()])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def main(path: str, largest: str, memory: str) -> int:
    """Run the program: write the .npz, or one line of refusal, and return the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        data = extracted(path, int(largest))
    except RefusedError as refusal:
        reason = str(refusal)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, MemoryError):
        reason = DAMAGED
    else:
        sys.stdout.buffer.write(data)
        return 0
    sys.stderr.write(reason)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
