"""The file of certificates: one array of numbers and a JSON header in an .npz, nothing that runs."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

from certnas.checker import Certificate, Part, Plane, Planes, Refutation, Split, Step
from certnas.json_text import parse_json

FORMAT = 3
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, KeyError, TypeError,
          AttributeError, IndexError, EOFError, OSError, MemoryError, ArithmeticError, SyntaxError,
          TokenError)  # fmt: skip
"""What reading a file that is no certificate, or a broken one, may raise."""
MOST_BYTES = 1 << 32
Put = Callable[[np.ndarray], list[int]]
Take = Callable[[list[int]], np.ndarray]


def encode(certificates: Sequence[Certificate]) -> bytes:
    """The bytes of a file of certificates, which together are one proof.

    Raises ValueError where it would unpack to more than MOST_BYTES.
    """
    arrays: list[np.ndarray] = []
    digests: dict[str, int] = {}

    def put(array: np.ndarray) -> list[int]:
        arrays.append(np.asarray(array, dtype="<f8").reshape(-1))
        return list(array.shape)

    def numbered(digest: str) -> int:
        return digests.setdefault(digest, len(digests))

    held = [_packed(certificate, put, numbered) for certificate in certificates]
    header = {"format": FORMAT, "certificates": held, "digests": list(digests)}
    text = json.dumps(header, sort_keys=True).encode()
    size = sum(array.nbytes for array in arrays) + len(text)
    if size > MOST_BYTES:
        raise ValueError(f"it takes {size} bytes, more than the {MOST_BYTES} of a file")
    numbers = np.concatenate(arrays) if arrays else np.zeros(0)
    buffer = io.BytesIO()
    named = {"header": np.frombuffer(text, np.uint8), "numbers": numbers, "seal": _seal(text, numbers)}
    np.savez_compressed(buffer, allow_pickle=False, **named)
    return buffer.getvalue()


def read(file: Path | BinaryIO) -> list[Certificate]:
    """The certificates in a file.  Raises ValueError, with what is wrong, for anything else."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST_BYTES + (1 << 16):
            raise ValueError(f"it unpacks to {size} bytes, more than a certificate may")
        with np.load(file, allow_pickle=False) as held:
            text, numbers, seal = held["header"].tobytes(), held["numbers"], held["seal"]
        if not np.array_equal(seal, _seal(text, numbers)):
            raise ValueError("its seal does not fit its contents: it was damaged or changed")
        header = parse_json(text)
        if header["format"] != FORMAT:
            raise ValueError(f"it has format {header['format']}, this checker reads {FORMAT}")
        if numbers.dtype != np.float64 or not np.isfinite(numbers).all():
            raise ValueError("it holds numbers that are not finite float64")
        place = 0

        def take(shape: list[int]) -> np.ndarray:
            nonlocal place
            first, place = place, place + prod(shape)
            return numbers[first:place].reshape(shape)

        found = [_unpacked(one, take, header["digests"]) for one in header["certificates"]]
        if place != len(numbers):
            raise ValueError("it holds numbers that belong to nothing")
        return found
    except DAMAGE as error:
        raise ValueError(f"it is no certificate ({type(error).__name__}: {error})") from error


def _seal(text: bytes, numbers: np.ndarray) -> np.ndarray:
    """A digest of all that the file holds: it shows damage, and proves nothing."""
    digest = hashlib.sha256(text)
    digest.update(np.ascontiguousarray(numbers).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


# A value in each direction: arrays go into the row of numbers and leave their shapes, in one order.


def _packed(of: Certificate, put: Put, numbered: Callable[[str], int]) -> dict[str, Any]:
    def keys(planes: Mapping[str, str]) -> list[list[Any]]:
        return [[numbered(digest), key] for digest, key in planes.items()]

    def part(given: Part) -> dict[str, Any]:
        return {
            "steps": [[numbered(s.target), put(s.lower), put(s.upper), keys(s.planes)] for s in given.steps],
            "refutations": [
                [list(r.clauses), put(r.mix), put(r.bounds), keys(r.planes), put(r.multipliers)]
                for r in given.refutations
            ],
            "splits": [[numbered(s.tensor), s.unit, s.point.hex(), list(s.halves)] for s in given.splits],
        }

    return {
        "network": of.network,
        "norm": of.norm,
        "eps": float(of.eps).hex(),
        "arrays": [put(array) for array in (of.x, *of.box, of.rows, of.offsets)],
        "parts": [part(given) for given in of.parts],
        "planes": {
            key: [put(a) for side in (both.lower, both.upper) for a in (side.slope, side.bias)]
            for key, both in sorted(of.planes.items())
        },
        "about": of.about,
    }


def _unpacked(held: dict[str, Any], take: Take, digests: list[str]) -> Certificate:
    def keys(planes: list[list[Any]]) -> dict[str, str]:
        return {digests[number]: key for number, key in planes}

    def part(given: dict[str, Any]) -> Part:
        steps = [
            Step(digests[target], take(lower), take(upper), keys(planes))
            for target, lower, upper, planes in given["steps"]
        ]
        refutations = [
            Refutation(tuple(clauses), take(mix), take(bounds), keys(planes), take(multipliers))
            for clauses, mix, bounds, planes, multipliers in given["refutations"]
        ]
        splits = [
            Split(digests[tensor], unit, float.fromhex(point), (halves[0], halves[1]))
            for tensor, unit, point, halves in given["splits"]
        ]
        return Part(tuple(steps), tuple(refutations), tuple(splits))

    x, low, high, rows, offsets = map(take, held["arrays"])
    parts = tuple(part(given) for given in held["parts"])
    children = [half for given in parts for split in given.splits for half in split.halves]
    if len(set(children)) < len(children):
        raise ValueError("its parts are no tree")
    planes = {}
    for key, shapes in sorted(held["planes"].items()):
        slope, bias, upper_slope, upper_bias = map(take, shapes)
        planes[key] = Planes(Plane(slope, bias), Plane(upper_slope, upper_bias))
    return Certificate(
        held["network"], held["norm"], x, float.fromhex(held["eps"]), (low, high), rows, offsets, parts,
        planes, held["about"],
    )  # fmt: skip
