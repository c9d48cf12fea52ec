"""The file of a certificate: numpy arrays and a JSON header in one .npz, nothing that runs."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from certnas.checker import Certificate, Plane, Planes, Step
from certnas.json_text import parse_json

FORMAT = 1
SIDES = ("lower", "upper")
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, KeyError, TypeError,
          AttributeError, EOFError, OSError, MemoryError)  # fmt: skip
"""What reading a file that is no certificate, or a broken one, may raise."""
MOST_BYTES = 1 << 32


def encode(certificate: Certificate) -> bytes:
    """The bytes of a certificate's file."""
    arrays = {name: getattr(certificate, name) for name in ("x", "rows", "bounds")}
    for i, step in enumerate(certificate.steps):
        arrays |= {f"step{i}.lower": step.lower, f"step{i}.upper": step.upper}
    for key, both in certificate.planes.items():
        for side in SIDES:
            plane = getattr(both, side)
            arrays |= {f"{key}.{side}.slope": plane.slope, f"{key}.{side}.bias": plane.bias}
    header = {name: getattr(certificate, name) for name in ("network", "norm", "final", "about")} | {
        "format": FORMAT,
        "eps": float(certificate.eps).hex(),
        "box": None if certificate.box is None else [float(side).hex() for side in certificate.box],
        "steps": [{"target": step.target, "planes": step.planes} for step in certificate.steps],
        "planes": list(certificate.planes),
    }
    text = json.dumps(header, sort_keys=True).encode()
    arrays = {name: np.ascontiguousarray(a, dtype="<f8") for name, a in arrays.items()}
    buffer = io.BytesIO()
    named = arrays | {"header": np.frombuffer(text, np.uint8), "seal": _seal(text, arrays)}
    np.savez_compressed(buffer, allow_pickle=False, **named)
    return buffer.getvalue()


def _seal(text: bytes, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """A digest of all that the file holds: it shows damage, and proves nothing."""
    digest = hashlib.sha256(text)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def read(path: Path) -> Certificate:
    """The certificate in a file.  Raises ValueError, with what is wrong, for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, more than a certificate may")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text, seal = arrays.pop("header").tobytes(), arrays.pop("seal")
        if not np.array_equal(seal, _seal(text, arrays)):
            raise ValueError("its seal does not fit its contents: it was damaged or changed")
        header = parse_json(text)
        if header["format"] != FORMAT:
            raise ValueError(f"it has format {header['format']}, this checker reads {FORMAT}")
        if not all(a.dtype == np.float64 and np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("it holds numbers that are not finite float64")
        steps = [
            Step(step["target"], arrays[f"step{i}.lower"], arrays[f"step{i}.upper"], step["planes"])
            for i, step in enumerate(header["steps"])
        ]
        planes = {
            key: Planes(*(Plane(arrays[f"{key}.{s}.slope"], arrays[f"{key}.{s}.bias"]) for s in SIDES))
            for key in header["planes"]
        }
        low, high = map(float.fromhex, header["box"] or ("0", "0"))
        box = None if header["box"] is None else (low, high)
        return Certificate(
            header["network"], header["norm"], arrays["x"], float.fromhex(header["eps"]), box, arrays["rows"],
            arrays["bounds"], tuple(steps), header["final"], planes, header["about"],
        )  # fmt: skip
    except DAMAGE as error:
        raise ValueError(f"it is no certificate ({type(error).__name__}: {error})") from error
