"""Detection of the kind of a torch zip archive, and checks that it can be unpacked safely."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from certnas.errors import UserError

UNSAFE = "where you trust it, --unsafe-load (unsafe_load=True) runs it"
LARGEST = 2**33
"""Largest unpacked size of an archive, in bytes."""
RATIO = 20
"""Largest ratio of unpacked to packed size. Weights compress to little less than their size."""
SLACK = 2**26


def _check_size(members: list[zipfile.ZipInfo], stored: int, what: str) -> None:
    total = sum(member.file_size for member in members)
    if total > LARGEST or total > RATIO * stored + SLACK:
        raise UserError(f"{what} of {stored} bytes unpacks to {total} bytes; refused as a zip bomb")


def asks_for_bytes(file: Path | IO[bytes]) -> bool:
    """True if unpickling a torch.save archive would make a bytearray. torch allows one of any size."""
    with zipfile.ZipFile(file) as archive:
        pickles = (archive.read(item) for item in archive.infolist() if item.filename.endswith("data.pkl"))
        return any(b"bytearray" in content for content in pickles)


def checked_archive(file: IO[bytes], stored: int, what: str) -> IO[bytes]:
    """A nested archive of `stored` bytes, checked against zip bombs and bytearrays.

    Raises UserError, which names the archive, and zipfile.BadZipFile.
    """
    with zipfile.ZipFile(file) as archive:
        _check_size(archive.infolist(), stored, what)
    if asks_for_bytes(file):
        raise UserError(
            f"{what} asks for a bytearray, which no weights need; refused: it could be of any size"
        )
    file.seek(0)
    return file


def checked_members(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip archive; empty for a file that is not one.

    Raises UserError for a damaged archive, and for one that unpacks to far more than its size.
    """
    try:
        if not zipfile.is_zipfile(path):
            return []
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read '{path}': its zip archive is damaged; save the network again"
        ) from error
    _check_size(members, path.stat().st_size, f"'{path}'")
    return members


def archive_kind(path: Path) -> str:
    """The kind of the archive: "script" for TorchScript, "export" for torch.export, "" for anything else."""
    inner = {member.filename.partition("/")[2] for member in checked_members(path)}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "script"
    old = "serialized_exported_program.json"
    exported = {"archive_format", old} & inner or any(name.startswith("models/") for name in inner)
    return "export" if exported else ""
