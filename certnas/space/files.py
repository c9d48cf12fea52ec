"""Genotypes by name, and as JSON files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certnas.errors import UserError
from certnas.json_text import parse_json
from certnas.runs.files import write_atomically
from certnas.space.genotypes import GENOTYPES, Genotype, nearest, parse_genotype, published_records
from certnas.space.robnets import ROBNETS, RobNet, parse_robnet

PUBLISHED: Mapping[str, Genotype | RobNet] = {**GENOTYPES, **ROBNETS}
"""Published name -> genotype or edge codes."""

SOURCES: Mapping[str, str] = {
    name: record["source"]
    for file in ("genotypes.json", "robnets.json")
    for name, record in published_records(file).items()
}
"""Published name -> repository, commit and file that it was taken from."""


def open_genotype(name: str | Path) -> Genotype | RobNet:
    """The published architecture of this name, or the one in this JSON file.

    Raises UserError for an unknown name, or a file that holds none.
    """
    if str(name) in PUBLISHED:
        return PUBLISHED[str(name)]
    path = Path(name)
    if path.suffix == ".json" or path.is_file():
        return read_genotype(path)
    raise UserError(
        f"genotype: unknown name {str(name)!r}{nearest(str(name), PUBLISHED)} and no such file; "
        "accepted: a name that certnas genotypes lists, or a JSON file"
    )


def read_genotype(path: Path) -> Genotype | RobNet:
    """The architecture in a JSON file: an object of normal, normal_concat, reduce, reduce_concat, or of cells.

    Raises UserError, which names the file, for anything else.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"genotype {str(path)!r}: there is no such file") from None
    except OSError as error:
        raise UserError(f"genotype {str(path)!r}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"genotype {str(path)!r}: is no JSON text: {error}") from None
    return parse_architecture(record, str(path))


def parse_architecture(record: Any, name: str) -> Genotype | RobNet:
    """The architecture of a JSON record, of either kind.  Raises UserError, which names it, for anything else."""
    if not isinstance(record, dict):
        raise UserError(f"genotype {name!r}: got a JSON {type(record).__name__}; a genotype is an object")
    return parse_robnet(record, name) if "cells" in record else parse_genotype(record, name)


def write_genotype(path: Path, genotype: Genotype | RobNet, **notes: Any) -> None:
    """Write the JSON file that `read_genotype` reads; `notes` are kept beside and ignored there."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in (genotype.record() | notes).items()]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
