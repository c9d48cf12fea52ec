"""Malformed files of every format.

Each must be opened, or refused on one line, within limits of time and memory, and without running code.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import select
import signal
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.fuzz_kinds import ANYTHING, DEEP, Kind, kinds
from bounds import BoundsError
from certnas.checker import Rejected
from certnas.errors import UserError
from certnas.proofs.files import _seal
from certnas.runs import write_atomically

SECONDS, BYTES = 10.0, 4 << 30
"""Limits for a file: seconds, and bytes of address space beyond those of the process."""
TOGETHER = 500
"""Number of files that a child process opens before the next child takes over."""
HOSTILE = 0.15
"""Share of files designed to do harm; all others are mutations of a valid file."""
WORDS = (b"-1", b"0", b"2", b"9" * 18, b"1e999", b"null", b"true", b"[]", b"{}", b'"x"', b'"aten.add.Tensor"')
"""Replacements of words in texts."""
JSON_WORD = re.compile(rb'-?\d+(\.\d+)?|true|false|null|"[\w.]*"')
PROPERTY_WORD = re.compile(rb"-?\d+(\.\d+)?|[A-Za-z][\w-]*|[<>!=]=?")
FINE = ("opened", "refused")
Outcome = dict[str, Any]


def contents(kind: Kind, random: Random) -> bytes:
    """The contents of a file: a mutation of the valid contents, or contents designed to do harm."""
    if kind.sealed:
        return resealed(kind.data, random)
    if random.random() < HOSTILE:
        return random.choice((*kind.hostile, *ANYTHING) if random.random() < 0.8 else ANYTHING)
    return mutated(kind.data, random)


def resealed(data: bytes, random: Random) -> bytes:
    """A certificate with a changed header or changed numbers, and a matching seal."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        text, numbers = file["header"].tobytes(), file["numbers"].copy()
    if random.random() < 0.7:
        text = _changed(text, random)
    else:
        at = random.sample(range(len(numbers)), min(3, len(numbers)))
        numbers[at] = random.choice((np.nan, np.inf, 1e308, -1e308, 0.0, 5e-324))
    stream = io.BytesIO()
    np.savez(stream, header=np.frombuffer(text, np.uint8), numbers=numbers, seal=_seal(text, numbers))
    return stream.getvalue()


def mutated(data: bytes, random: Random) -> bytes:
    """The file with some bytes changed; in half of the archives, the bytes of one member."""
    if not data.startswith(b"PK") or random.random() < 0.5:
        return _changed(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = random.choice([name for name, content in members.items() if content])
    deep = random.random() < 0.05
    members[chosen] = b"[" * DEEP if deep else _changed(members[chosen], random)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _changed(data: bytes, random: Random) -> bytes:
    """The bytes with some flipped, cut, doubled, moved, or replaced by numbers and words that programs
    often mishandle.
    """
    content = bytearray(data)
    if data.startswith((b"{", b"(")) and random.random() < 0.8:
        words = list((JSON_WORD if data.startswith(b"{") else PROPERTY_WORD).finditer(data))
        for word in sorted(
            random.sample(words, min(len(words), random.choice((1, 1, 2, 4)))), key=lambda w: -w.start()
        ):
            content[word.start() : word.end()] = random.choice((*WORDS, random.choice(words).group()))
        return bytes(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(content) or 1)
        length = min(random.choice((1, 2, 4, 8, 64)), len(content) - at)
        other = random.randrange(len(content) or 1)
        match random.randrange(7):
            case 0:
                content[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                content[at : at + length] = random.randbytes(length)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case 4:
                content[at : at + length] = random.choice((b"\xff" * length, bytes(length), b"\x7f" * length))
            case 5:
                content[at : at + length] = content[other : other + length]
            case _:
                del content[at if random.random() < 0.2 else len(content) :]
    return bytes(content)


def attempt(kind: Kind) -> Outcome:
    """The outcome of opening the file (opened, refused, or another exception), and its seconds."""
    started, where = time.perf_counter(), ""
    try:
        kind.open()
        ended = "opened"
    except (UserError, BoundsError, Rejected) as error:
        ended = "refused" if "\n" not in str(error) else f"refused on several lines: {error!r}"
    except Exception as error:
        ended = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
    return {"ended": ended, "where": where, "seconds": round(time.perf_counter() - started, 3)}


def one(number: int, seed: int, made: Mapping[str, Kind], folder: Path) -> Outcome:
    """Write file `number` and open it; afterwards restore the valid contents."""
    name = list(made)[number % len(made)]
    kind = made[name]
    path = folder / kind.file
    path.write_bytes(contents(kind, Random(f"{seed} {number}")))
    try:
        found = attempt(kind)
    finally:
        path.write_bytes(kind.data)
    return {"number": number, "kind": name, **found}


def _child(numbers: range, seed: int, made: Mapping[str, Kind], folder: Path, pipe: int) -> None:
    """Open files under the memory limit, and report each before and after."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    with os.fdopen(pipe, "w") as told, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            line = one(number, seed, made, folder)
            line["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            told.write(json.dumps(line) + "\n")
            told.flush()


def outcomes(count: int, seed: int, made: Mapping[str, Kind], folder: Path) -> Iterator[Outcome]:
    """The outcomes of `count` files, opened by child processes; a child that hangs or dies is replaced."""
    done = 0
    while done < count:
        near, far = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                os.close(near)
                _child(range(done, min(done + TOGETHER, count)), seed, made, folder, far)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        os.close(far)
        first, late = done, False
        with os.fdopen(near, "rb", buffering=0) as told:
            rest = b""
            while True:
                ready, _, _ = select.select([told], [], [], 3 * SECONDS)
                late = not ready
                part = told.read(1 << 16) if ready else b""
                if not part:
                    break
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    done += 1
                    yield json.loads(line)
        if late:
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if done < min(first + TOGETHER, count):
            name = list(made)[done % len(made)]
            (folder / made[name].file).write_bytes(made[name].data)
            how = (
                f"not done after {3 * SECONDS:g} s"
                if late
                else f"the process ended with {os.waitstatus_to_exitcode(status)}"
            )
            yield {
                "number": done,
                "kind": name,
                "ended": how,
                "where": "",
                "seconds": 3 * SECONDS if late else 0.0,
                "peak": 0,
            }
            done += 1


def fuzz(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Open `count` malformed files, in turn of all kinds; returns outcomes, the slowest file, and failures."""
    marker = folder / "marker"
    made = kinds(folder, marker)
    counted: dict[str, Counter[str]] = {name: Counter() for name in made}
    wrong: list[Outcome] = []
    slowest: Outcome = {"seconds": 0.0}
    peak = 0
    for found in outcomes(count, seed, made, folder):
        peak = max(peak, found.pop("peak"))
        slowest = max(slowest, found, key=lambda line: line["seconds"])
        fine = found["ended"] in FINE
        counted[found["kind"]][found["ended"] if fine else "other"] += 1
        if marker.exists():
            marker.rmdir()
            wrong.append({**found, "ended": "its code ran"})
        elif not fine or found["seconds"] > SECONDS:
            wrong.append(found)
    return {
        "files": count,
        "seed": seed,
        "outcomes": {name: dict(counts) for name, counts in counted.items()},
        "slowest": slowest,
        "peak_memory_mib": peak,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Folder for fuzz_formats.json.")
    parser.add_argument(
        "--only", type=int, help="Write the file of this number here, say how it ends, and stop."
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if asked.only is not None:
            made = kinds(Path(folder), Path(folder) / "marker")
            kind = list(made.values())[asked.only % len(made)]
            Path(Path(kind.file).name).write_bytes(contents(kind, Random(f"{asked.seed} {asked.only}")))
            print(json.dumps(one(asked.only, asked.seed, made, Path(folder))))
            return
        report = fuzz(asked.count, asked.seed, Path(folder))
    text = json.dumps(report, indent=1) + "\n"
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        write_atomically(asked.out / "fuzz_formats.json", text)
    print(text, end="")
    if report["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
