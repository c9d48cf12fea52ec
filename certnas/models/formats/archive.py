"""What kind of zip archive a torch file is, and whether it is one that can be unpacked safely."""

from __future__ import annotations

import zipfile
from pathlib import Path

from certnas.errors import UserError

UNSAFE = "where you trust it, --unsafe-load (unsafe_load=True) runs it"
LARGEST = 2**33
"""Bytes that an archive may unpack to."""
RATIO = 20
"""How many times its own size an archive may unpack to; weights compress to little less than their size."""
SLACK = 2**26


def checked_members(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip archive; none for a file that is no zip archive.

    Raises UserError for an archive that unpacks to far more than it holds, or is damaged.
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
    total, stored = sum(member.file_size for member in members), path.stat().st_size
    if total > LARGEST or total > RATIO * stored + SLACK:
        raise UserError(f"'{path}' of {stored} bytes unpacks to {total} bytes; refused as a zip bomb")
    return members


def archive_kind(path: Path) -> str:
    """ "script" for TorchScript, "export" for torch.export, "" for anything else."""
    inner = {member.filename.partition("/")[2] for member in checked_members(path)}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "script"
    old = "serialized_exported_program.json"
    exported = {"archive_format", old} & inner or any(name.startswith("models/") for name in inner)
    return "export" if exported else ""
