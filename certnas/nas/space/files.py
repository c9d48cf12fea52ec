"""Genotypes by name, in files, and as text."""

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
ASSIGNED = re.compile(r"\s*(\w{1,60})\s*=")
LONGEST_NAME = 60

PUBLISHED: Mapping[str, Genotype | RobNet] = {**GENOTYPES, **ROBNETS}
"""Published name -> genotype or edge codes."""

SOURCES: Mapping[str, str] = {
    name: record["source"]
    for file in ("genotypes.json", "robnets.json")
    for name, record in published_records(file).items()
}
"""Published name -> repository, commit and file that it was taken from."""


class GenotypeChosen(UserWarning):
    """Of several genotypes of a file the first was taken."""


def open_genotype(name: str | Path) -> Genotype | RobNet:
    """The published architecture of this name, the one in this file, or the one that this text itself is.

    A file, or text, is JSON or the Python of a paper's code, `NAME = Genotype(...)`, which is never run.  FILE:NAME is
    one of several in a file; without a name the first is taken, and a warning (GenotypeChosen) says so.
    Raises UserError for an unknown name, or a file or text that holds none.
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
    """What to call the architecture that `open_genotype` opens: its name, its file's, or one in the text."""
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
    """The architecture in a file of JSON or Python: the first, where there are several.

    JSON is an object of normal, normal_concat, reduce, reduce_concat, a list of these four, or an object of cells.
    Raises UserError, which names the file, for anything else.
    """
    return _parsed(_text(path), str(path), None)


def _text(path: Path) -> str:
    """The text of a file.  Raises UserError where there is none."""
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
        raise UserError(f"genotype {str(path)!r}: is no text: {error.reason} at byte {error.start}") from None


def _parsed(text: str, where: str, own: str | None) -> Genotype | RobNet:
    """The architecture that a text states, or the one of a name in it."""
    try:
        records = {"": parse_json(text)}
    except (ValueError, RecursionError):
        try:
            records = records_of(text)
        except UserError as error:
            raise UserError(f"genotype {where!r}: {error}") from None
    if own is not None and own not in records:
        raise UserError(
            f"genotype {where!r}: holds no {own[:40]!r}; it has {', '.join(filter(None, records)) or 'none'}"
        )
    name = next(iter(records)) if own is None else own
    if own is None and len(records) > 1:
        others = f"genotype {where!r} holds {', '.join(list(records)[:5])}{' …' if len(records) > 5 else ''}"
        warnings.warn(f"{others}; {name!r} is taken, FILE:NAME takes another", GenotypeChosen, stacklevel=3)
    return parse_architecture(records[name], where)


def _short(text: str) -> str:
    """A name, or the beginning of a text, as a message can hold it."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_NAME else f"{line[:LONGEST_NAME]} …"


def parse_architecture(record: Any, name: str) -> Genotype | RobNet:
    """The architecture of a JSON record, of either kind.  Raises UserError, which names it, for anything else."""
    if isinstance(record, list) and len(record) == len(FIELDS):
        record = dict(zip(FIELDS, record, strict=True))
    if not isinstance(record, dict):
        raise UserError(
            f"genotype {name!r}: got a JSON {type(record).__name__}; a genotype is an object of "
            f"{', '.join(FIELDS)}, or a list of these four"
        )
    return parse_robnet(record, name) if "cells" in record else parse_genotype(record, name)


def write_genotype(path: Path, genotype: Genotype | RobNet, **notes: Any) -> None:
    """Write the JSON file that `read_genotype` reads; `notes` are kept beside and ignored there."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in (genotype.record() | notes).items()]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
