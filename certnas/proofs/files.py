"""The file of certificates: an .npz with one array of numbers and a JSON header, without any code."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

from certnas.checker import (
    Certificate,
    CertificatePart,
    ClaimedPlane,
    IntervalClaim,
    Planes,
    Refutation,
    Split,
)
from certnas.json_text import parse_json

FORMAT = 3
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, KeyError, TypeError,
          AttributeError, IndexError, EOFError, OSError, MemoryError, ArithmeticError, SyntaxError,
          TokenError)  # fmt: skip
"""The errors that reading a damaged file, or another kind of file, may raise."""
MOST_BYTES = 1 << 32
"""The largest unpacked size of a file."""
ENTRIES = {"header": np.uint8, "numbers": np.float64, "seal": np.uint8}
"""The arrays of a file and their types."""


def encode(certificates: Sequence[Certificate]) -> bytes:
    """The bytes of a file of certificates, which together are one proof.

    Raises ValueError if the file would unpack to more than MOST_BYTES.
    """
    packing = _Packing()
    held = [packing.certificate(certificate) for certificate in certificates]
    text = _text({"format": FORMAT, "certificates": held, "digests": list(packing.digests)})
    size = sum(array.nbytes for array in packing.arrays) + len(text)
    if size > MOST_BYTES:
        raise ValueError(f"it takes {size} bytes, more than the {MOST_BYTES} of a file")
    numbers = np.concatenate(packing.arrays) if packing.arrays else np.zeros(0)
    buffer = io.BytesIO()
    named = {"header": np.frombuffer(text, np.uint8), "numbers": numbers, "seal": _seal(text, numbers)}
    np.savez_compressed(buffer, allow_pickle=False, **named)
    return buffer.getvalue()


def read(file: Path | BinaryIO) -> list[Certificate]:
    """Reads the certificates of a file. Raises ValueError, with the reason, for anything else.

    A file that `encode` would not write is refused, even if it had the same meaning. Every part of a file is
    therefore read, and in one way only.
    """
    try:
        _look_inside(file)
        with np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in ENTRIES}
        if any(arrays[name].ndim != 1 or arrays[name].dtype != kind for name, kind in ENTRIES.items()):
            raise ValueError("its entries are not rows of bytes and of float64 numbers")
        text, numbers = arrays["header"].tobytes(), arrays["numbers"]
        if not np.array_equal(arrays["seal"], _seal(text, numbers)):
            raise ValueError("its seal does not fit its contents: it was damaged or changed")
        if not np.isfinite(numbers).all():
            raise ValueError("it holds numbers that are not finite float64")
        return _certificates(text, numbers)
    except DAMAGE as error:
        raise ValueError(f"it is not a certificate ({type(error).__name__}: {error})") from error


def _look_inside(file: Path | BinaryIO) -> None:
    """Raises ValueError if an archive is too large, or does not hold exactly the three entries."""
    if isinstance(file, Path) and not file.is_file():
        raise ValueError("it is not a certificate (not a regular file)")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > MOST_BYTES + (1 << 16):
        raise ValueError(f"it unpacks to {size} bytes, more than a certificate may")
    if sorted(entry.filename for entry in entries) != [f"{name}.npy" for name in ENTRIES]:
        raise ValueError(f"it is not a certificate (it does not contain {', '.join(ENTRIES)}, each once)")


def _certificates(text: bytes, numbers: np.ndarray) -> list[Certificate]:
    header = parse_json(text)
    if header["format"] != FORMAT:
        raise ValueError(f"it has format {header['format']!r:.80}, this checker reads {FORMAT}")
    if _text(header) != text:
        raise ValueError("its header is not written as a certificate's is, such as with a key twice")
    unpacking = _Unpacking(numbers, header["digests"])
    found = [unpacking.certificate(held) for held in header["certificates"]]
    if unpacking.place != len(numbers):
        raise ValueError("it holds numbers that belong to nothing")
    return found


def _text(header: Mapping[str, Any]) -> bytes:
    """The canonical text of a header."""
    return json.dumps(header, sort_keys=True).encode()


def _seal(text: bytes, numbers: np.ndarray) -> np.ndarray:
    """A digest of the file's contents; it detects damage and proves nothing."""
    digest = hashlib.sha256(text)
    digest.update(np.ascontiguousarray(numbers).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


# The two classes are inverse: arrays are stored in one row of numbers, in order, and their shapes in the header.


class _Packing:
    """Converts certificates to JSON values; it collects their arrays, and numbers their digests in order of
    appearance.
    """

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.digests: dict[str, int] = {}

    def array(self, array: np.ndarray) -> list[int]:
        self.arrays.append(np.asarray(array, dtype="<f8").reshape(-1))
        return list(array.shape)

    def digest(self, digest: str) -> int:
        return self.digests.setdefault(digest, len(self.digests))

    def keys(self, planes: Mapping[str, str]) -> list[list[Any]]:
        return [[self.digest(digest), key] for digest, key in planes.items()]

    def step(self, step: IntervalClaim) -> list[Any]:
        target = self.digest(step.target)
        return [target, self.array(step.lower), self.array(step.upper), self.keys(step.planes)]

    def refutation(self, given: Refutation) -> list[Any]:
        mix, bounds = self.array(given.mix), self.array(given.bounds)
        return [list(given.clauses), mix, bounds, self.keys(given.planes), self.array(given.multipliers)]

    def split(self, split: Split) -> list[Any]:
        return [self.digest(split.tensor), split.unit, split.point.hex(), list(split.halves)]

    def part(self, part: CertificatePart) -> dict[str, Any]:
        return {
            "steps": [self.step(step) for step in part.steps],
            "refutations": [self.refutation(given) for given in part.refutations],
            "splits": [self.split(split) for split in part.splits],
        }

    def planes(self, planes: Planes) -> list[list[int]]:
        lower, upper = planes.lower, planes.upper
        return [self.array(array) for array in (lower.slope, lower.bias, upper.slope, upper.bias)]

    def certificate(self, of: Certificate) -> dict[str, Any]:
        return {
            "network": of.network,
            "norm": of.norm,
            "eps": float(of.eps).hex(),
            "arrays": [self.array(array) for array in (of.x, *of.box, of.rows, of.offsets)],
            "parts": [self.part(part) for part in of.parts],
            "planes": {key: self.planes(planes) for key, planes in sorted(of.planes.items())},
            "about": of.about,
        }


class _Unpacking:
    """Restores certificates from JSON values; `place` is the position of the next unread number."""

    def __init__(self, numbers: np.ndarray, digests: list[str]) -> None:
        if not all(type(digest) is str for digest in digests):
            raise ValueError("its digests are not texts")
        self.numbers, self.digests, self.place = numbers, digests, 0

    def array(self, shape: list[int]) -> np.ndarray:
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("an array's shape is not one of whole numbers from 0")
        first, self.place = self.place, self.place + prod(shape)
        return self.numbers[first : self.place].reshape(shape)

    def keys(self, planes: list[list[Any]]) -> dict[str, str]:
        return {self.digests[number]: key for number, key in planes}

    def step(self, held: list[Any]) -> IntervalClaim:
        target, lower, upper, planes = held
        return IntervalClaim(self.digests[target], self.array(lower), self.array(upper), self.keys(planes))

    def refutation(self, held: list[Any]) -> Refutation:
        clauses, mix, bounds, planes, multipliers = held
        shares, least = self.array(mix), self.array(bounds)
        return Refutation(tuple(clauses), shares, least, self.keys(planes), self.array(multipliers))

    def split(self, held: list[Any]) -> Split:
        tensor, unit, point, (below, above) = held
        return Split(self.digests[tensor], unit, float.fromhex(point), (below, above))

    def part(self, held: dict[str, Any]) -> CertificatePart:
        steps = tuple(self.step(step) for step in held["steps"])
        refutations = tuple(self.refutation(given) for given in held["refutations"])
        return CertificatePart(steps, refutations, tuple(self.split(split) for split in held["splits"]))

    def plane(self, slope: list[int], bias: list[int]) -> ClaimedPlane:
        return ClaimedPlane(self.array(slope), self.array(bias))

    def planes(self, held: list[list[int]]) -> Planes:
        slope, bias, upper_slope, upper_bias = held
        return Planes(self.plane(slope, bias), self.plane(upper_slope, upper_bias))

    def certificate(self, held: dict[str, Any]) -> Certificate:
        if not isinstance(held["about"], dict):
            raise ValueError("its field 'about' is not a list of names and values")
        x, low, high, rows, offsets = (self.array(shape) for shape in held["arrays"])
        parts = tuple(self.part(part) for part in held["parts"])
        _demand_tree(parts)
        return Certificate(
            network=held["network"],
            norm=held["norm"],
            x=x,
            eps=float.fromhex(held["eps"]),
            box=(low, high),
            rows=rows,
            offsets=offsets,
            parts=parts,
            planes={key: self.planes(shapes) for key, shapes in sorted(held["planes"].items())},
            about=held["about"],
        )


def _demand_tree(parts: Sequence[CertificatePart]) -> None:
    """Raises ValueError unless each part except the first is one half of exactly one split.

    A part of two splits could make a check take forever, and a part of no split would not be checked.
    """
    halves = [half for part in parts for split in part.splits for half in split.halves]
    if sorted(halves) != list(range(1, max(1, len(parts)))):
        raise ValueError("its parts do not form a tree")
