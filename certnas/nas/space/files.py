"""Genotypes by name, from files and from text."""

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.nas.space.genotypes import GENOTYPES, Genotype, nearest, parse_genotype, published_records
from certnas.nas.space.robnets import ROBNETS, RobNet, parse_robnet
from certnas.nas.space.source_text import FIELDS, LONGEST, records_of
from certnas.runs.files import write_atomically

SUFFIXES = (".json", ".py", ".txt")
"""Suffixes of genotype files."""
ASSIGNED = re.compile(r"\s*(\w{1,60})\s*=")
LONGEST_NAME = 60
"""Number of characters of a name that a message shows."""

PUBLISHED: Mapping[str, Genotype | RobNet] = {**GENOTYPES, **ROBNETS}
"""Published name -> genotype or RobNet."""

SOURCES: Mapping[str, str] = {
    name: record["source"]
    for file in ("genotypes.json", "robnets.json")
    for name, record in published_records(file).items()
}
"""Published name -> the repository, commit and file of its source."""


class GenotypeChosen(UserWarning):
    """A file has several genotypes, and the first one was opened."""


def open_genotype(name: str | Path) -> Genotype | RobNet:
    """Open an architecture by published name, from a file, or from a text that states it.

    A file or text is JSON, or Python code of the form `NAME = Genotype(...)`; Python code is parsed and
    never executed. FILE:NAME selects one genotype of a file with several. Without a name, the first one is
    opened with the warning GenotypeChosen. Raises UserError for an unknown name, and for a file or text
    without a genotype.

    >>> open_genotype("DARTS_V2").normal[0]
    ('sep_conv_3x3', 0)
    """
    given = str(name)
    if given in PUBLISHED:
        return PUBLISHED[given]
    if os.path.isfile(given) or given.endswith(SUFFIXES):
        return read_genotype(Path(given))
    file, colon, own = given.rpartition(":")
    if colon and os.path.isfile(file):
        return _parsed(_text(Path(file)), file, own)
    if set(given) & set("([{"):
        return _parsed(given, _short(given), None)
    raise UserError(
        f"genotype: unknown name {_short(given)!r}{nearest(given[:LONGEST_NAME], PUBLISHED)} and no such file; "
        "accepted: a name that certnas genotypes lists, a file of JSON or Python, or Genotype(normal=[...], ...) itself"
    )


def genotype_name(name: str) -> str:
    """A name for the architecture that `open_genotype` opens: the published one, the file's, or the text's."""
    if name in PUBLISHED:
        return name
    file, colon, own = name.rpartition(":")
    if colon and os.path.isfile(file):
        return own
    if os.path.isfile(name) or not set(name) & set("([{"):
        return Path(name).stem
    found = ASSIGNED.match(name)
    return found[1] if found else "genotype"


def read_genotype(path: Path) -> Genotype | RobNet:
    """Read the architecture in a JSON or Python file; the first one, if there are several.

    JSON is one of three forms: an object with normal, normal_concat, reduce and reduce_concat; a list of
    these four; an object with cells. Raises UserError, which names the file, for anything else.
    """
    return _parsed(_text(path), str(path), None)


def _text(path: Path) -> str:
    """The text of a file. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except FileNotFoundError:
        raise UserError(f"genotype {str(path)!r}: there is no such file") from None
    except OSError as error:
        raise UserError(f"genotype {str(path)!r}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"genotype {str(path)!r}: is not a text file: {error.reason} at byte {error.start}"
        ) from None


def _parsed(text: str, where: str, own: str | None) -> Genotype | RobNet:
    """The architecture that a text states, or the one called `own` in it."""
    try:
        records = {"": parse_json(text)}
    except (ValueError, RecursionError):
        try:
            records = records_of(text)
        except UserError as error:
            raise UserError(f"genotype {where!r}: {error}") from None
    if own is not None and own not in records:
        raise UserError(
            f"genotype {where!r}: has no {own[:40]!r}; it has {', '.join(filter(None, records)) or 'none'}"
        )
    name = next(iter(records)) if own is None else own
    if own is None and len(records) > 1:
        others = f"genotype {where!r} has {', '.join(list(records)[:5])}{' …' if len(records) > 5 else ''}"
        warnings.warn(
            f"{others}; this uses {name!r}, FILE:NAME selects another", GenotypeChosen, stacklevel=3
        )
    return parse_architecture(records[name], where)


def _short(text: str) -> str:
    """A name or text, shortened for a message."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_NAME else f"{line[:LONGEST_NAME]} …"


def parse_architecture(record: Any, name: str) -> Genotype | RobNet:
    """The architecture of a JSON record, a Genotype or a RobNet.

    Raises UserError, which names it, for any other record.
    """
    if isinstance(record, list) and len(record) == len(FIELDS):
        record = dict(zip(FIELDS, record, strict=True))
    if not isinstance(record, dict):
        raise UserError(
            f"genotype {name!r}: got a JSON {type(record).__name__}; a genotype is an object of "
            f"{', '.join(FIELDS)}, or a list of these four"
        )
    return parse_robnet(record, name) if "cells" in record else parse_genotype(record, name)


def write_genotype(path: Path, genotype: Genotype | RobNet, **notes: Any) -> None:
    """Write the JSON file that `read_genotype` reads. `notes` become further keys, which `read_genotype` ignores."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in (genotype.record() | notes).items()]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
