"""Mutation testing: the mutants of the sources that the tests kill, and those that survive."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import accumulate
from pathlib import Path
from random import Random
from types import CodeType, ModuleType
from typing import Any

import pytest

from benchmarks.mutants import Mutant, mutants
from certnas.siblings import SIBLINGS

HERE = Path(__file__).parent
PATHS = (
    "bounds",
    *(f"certnas/{name}" for name in ("checker", "certifier", "proofs", "verifier", "nas/metrics")),
)
PRELOADED = (
    *("torch", "torch.export", "torch.fx.experimental.proxy_tensor", "torch._dynamo", "torchvision", "numpy"),
    *("scipy.optimize", "mpmath", "onnx", "onnxruntime", "h5py", "safetensors.torch", "matplotlib.pyplot"),
    *("networkx", "click", "rich.console", "rich.table", "foolbox", "sklearn.datasets", "cloudpickle"),
    *("tensorboardX", "pytest", "hypothesis", "hypothesis.strategies"),
)
"""Modules that the parent imports once for all mutants; none of them is a module under mutation."""
PYTEST = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
GIB = 6
KILLED, SURVIVED, TIMEOUT, NO_TESTS = "killed", "survived", "timeout", "no tests"
ALIVE = (SURVIVED, NO_TESTS)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a mutant's tests, and their seconds."""

    ended: str
    seconds: float


class _Quickest:
    """A pytest plugin that runs the fastest tests first, up to a budget, and writes down the time of each.

    `took` has the seconds of each test without a mutant; a test that is not in it comes first.
    """

    def __init__(self, took: dict[str, float], budget: float | None, path: Path) -> None:
        self.took, self.budget, self.path = took, budget, path
        self.found: Counter[str] = Counter()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.took.get(item.nodeid, 0.0))
        if self.budget is not None:
            totals = accumulate(self.took.get(item.nodeid, 0.0) for item in items)
            items[:] = items[: max(1, sum(total <= self.budget for total in totals))]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.found[report.nodeid] += report.duration  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps(self.found))


class _Loader(SourceFileLoader):
    """Loads one module from a changed source, without a cache."""

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self.changed = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.changed, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Finds the mutated module, and no other."""

    def __init__(self, root: Path, mutant: Mutant) -> None:
        parts = Path(mutant.file).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.name = f"certnas.{name}" if parts[0] in SIBLINGS else name
        self.path, self.source = root / mutant.file, mutant.source(root)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module from its changed source, if it is the requested one."""
        if fullname != self.name:
            return None
        loader = _Loader(fullname, str(self.path), self.source)
        folder = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return spec_from_file_location(fullname, self.path, loader=loader, submodule_search_locations=folder)


def _child(
    root: Path,
    tests: Sequence[str],
    mutant: Mutant | None,
    folder: Path,
    took: dict[str, float],
    budget: float | None,
) -> None:
    """Run the tests in this forked process, and end it with pytest's exit code."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (GIB * 2**30, GIB * 2**30))
    log = (folder / "log").open("w")
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    sys.stdout = sys.stderr = log
    code = 1
    try:
        os.chdir(root)
        for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "CERTNAS_NIGHTLY"):
            os.environ.pop(name, None)
        sys.path.insert(0, str(root))
        if mutant is not None:
            importlib.import_module("certnas")  # whose own finder then comes after this one
            sys.meta_path.insert(0, _Finder(root, mutant))
        plugin = _Quickest(took, budget, folder / "took")
        options = [*PYTEST, f"--rootdir={root}", f"--basetemp={folder / 'tmp'}", *tests]
        code = int(pytest.main(options, plugins=[plugin]))
    finally:
        log.flush()
        os._exit(code)


def attempt(
    root: Path,
    tests: Sequence[str],
    mutant: Mutant | None,
    limit: float,
    took: dict[str, float],
    budget: float | None = None,
) -> tuple[Outcome, dict[str, float], str]:
    """Run the tests in a forked process, with or without a mutant; returns the outcome, the time of each
    test, and the last lines of output.

    The process is killed after `limit` seconds. At the end of any run, the processes that it started are
    killed too.
    """
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    arguments = (root, tests, mutant, folder, took, budget)
    process = multiprocessing.get_context("fork").Process(target=_child, args=arguments)
    began = time.perf_counter()
    try:
        process.start()
        process.join(limit)
        late = process.exitcode is None
        seconds = time.perf_counter() - began
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        ended = {0: SURVIVED, 5: NO_TESTS}.get(process.exitcode or 0, KILLED)
        log, times = folder / "log", folder / "took"
        said = log.read_text(errors="replace") if log.exists() else ""
        found = json.loads(times.read_text()) if times.exists() else {}
        outcome = Outcome(TIMEOUT if late else ended, round(seconds, 2))
        return outcome, found, "\n".join(said.splitlines()[-12:])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Unmutated:
    """The tests without a mutant, run once for all mutants with the same tests and stored on disk for the next run.

    A stored result is valid as long as the sources and the test files do not change.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path = root, path
        self.kept: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        self.refused: set[str] = set()
        files = sorted(file for file in root.rglob("*.py") if "tests" not in file.relative_to(root).parts)
        self.sources = hashlib.sha256(b"".join(file.read_bytes() for file in files))

    def run(self, tests: Sequence[str], say: Callable[[str], None]) -> dict[str, Any] | None:
        """The total seconds and those of each test; None if the tests fail, with one message."""
        digest = self.sources.copy()
        for name in tests:
            digest.update((self.root / name).read_bytes() if (self.root / name).is_file() else name.encode())
        key = " ".join((*tests, digest.hexdigest()[:12]))
        if key not in self.kept and key not in self.refused:
            nothing = Outcome(NO_TESTS, 0.0), {}, ""
            outcome, took, said = attempt(self.root, tests, None, 900.0, {}) if tests else nothing
            if outcome.ended == SURVIVED:
                self.kept[key] = {"seconds": outcome.seconds, "took": took}
                self.path.write_text(json.dumps(self.kept))
            else:
                self.refused.add(key)
                say(f"refused: {' '.join(tests) or 'no entry in the table'}: {outcome.ended}\n{said}")
        return self.kept.get(key)


def mapped(file: str, table: dict[str, list[str]]) -> tuple[str, ...]:
    """The tests for a source file: the table's entry with the longest prefix of its path, or nothing."""
    prefix = max((prefix for prefix in table if file.startswith(prefix)), key=len, default=None)
    return () if prefix is None else tuple(table[prefix])


def sample(groups: Iterable[list[Mutant]], count: int | None, seed: int) -> list[Mutant]:
    """`count` mutants (None: all), drawn from the groups in turn, in an order determined by the seed."""
    random, left = Random(seed), [list(group) for group in groups]
    for group in left:
        random.shuffle(group)
    chosen: list[Mutant] = []
    while any(left) and (count is None or len(chosen) < count):
        chosen += [group.pop() for group in left if group]
    return chosen[:count]


def measure(
    root: Path,
    chosen: Sequence[Mutant],
    table: dict[str, list[str]],
    record: Path,
    *,
    limit: float | None = None,
    budget: float | None = None,
    again: bool = False,
    slack: float = 10.0,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Run the tests of every mutant that is not in the record, and append a line of JSON for each.

    `limit` is the number of seconds after which no new mutant starts. `budget` is the number of seconds
    that a mutant's tests may take without the mutant, fastest first (None: all tests). `again` runs the
    survivors of the record again. `slack` is the number of seconds that a mutant has in addition to four
    times the unmutated run. Tests that fail without a mutant are refused by name. Returns the record's
    entries of the chosen mutants, by key.
    """
    began = time.perf_counter()
    entries = dict(_read(record))
    record.parent.mkdir(parents=True, exist_ok=True)
    plain = _Unmutated(root, record.with_name("unmutated.json"))
    for mutant in chosen:
        if mutant.key in entries and not (again and entries[mutant.key]["ended"] in ALIVE):
            continue
        if limit is not None and time.perf_counter() - began > limit:
            say(f"stopped after {limit:g} s; run it again to go on")
            break
        tests = mapped(mutant.file, table)
        unmutated = plain.run(tests, say)
        if unmutated is None:
            continue
        took = unmutated["took"]
        spare = 0.0 if budget is None else max(0.0, sum(took.values()) - budget)  # of tests that are left out
        allowed = 4 * (unmutated["seconds"] - spare) + slack
        outcome, _, _ = attempt(root, tests, mutant, allowed, took, budget)
        line = (
            asdict(mutant) | asdict(outcome) | {"key": mutant.key, "tests": " ".join(tests), "budget": budget}
        )
        entries[mutant.key] = line
        with record.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        say(
            f"{outcome.ended:9}{outcome.seconds:6.1f} s  {mutant.file}:{mutant.line}: {mutant.before} → {mutant.after}"
        )
    keys = {mutant.key for mutant in chosen}
    return {key: entry for key, entry in entries.items() if key in keys}


def _read(record: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a record, the latest of each key; an incomplete last line is left out."""
    for line in record.read_text().splitlines() if record.exists() else []:
        with suppress(json.JSONDecodeError):
            entry = json.loads(line)
            yield entry["key"], entry


def report(
    entries: Iterable[dict[str, Any]], equivalent: Sequence[dict[str, str]], known: Iterable[Mutant]
) -> str:
    """The score by folder and in total, the survivors, and the entries of `equivalent` that match no mutant.

    `equivalent` lists mutants that no test can kill, with file, scope, before, after and the reason.
    `known` has all mutants of the files in that list. The score is the share of killed or timed-out mutants
    among those not in the list.
    """
    places = {(line["file"], line["scope"], line["before"], line["after"]) for line in equivalent}
    counts: dict[str, Counter[str]] = {}
    survivors: list[str] = []
    for entry in entries:
        place = (entry["file"], entry["scope"], entry["before"], entry["after"])
        ended = (
            entry["ended"] if entry["ended"] not in ALIVE else "equivalent" if place in places else SURVIVED
        )
        for name in (os.path.dirname(entry["file"]), "all"):
            counts.setdefault(name, Counter())[ended] += 1
        if ended == SURVIVED:
            survivors.append(
                f"{entry['file']}:{entry['line']} ({entry['scope']}): {entry['before']} → {entry['after']}"
            )
    lines = [
        f"{'folder':24}{'mutants':>8}{'killed':>8}{'timeout':>8}{'survived':>9}{'equivalent':>11}{'score':>7}"
    ]
    for name in sorted(counts, key=lambda name: (name == "all", name)):
        found = counts[name]
        judged = found.total() - found["equivalent"]
        score = f"{(found[KILLED] + found[TIMEOUT]) / judged:.1%}" if judged else "-"
        lines.append(
            f"{name:24}{found.total():8}{found[KILLED]:8}{found[TIMEOUT]:8}"
            f"{found[SURVIVED]:9}{found['equivalent']:11}{score:>7}"
        )
    there = {mutant.place for mutant in known}
    lines += ["", "survivors:", *sorted(survivors)]
    unknown = sorted(f"{place[0]} ({place[1]}): {place[2]} → {place[3]}" for place in places - there)
    return "\n".join(lines + (["", "named as equivalent, but no mutant:", *unknown] if unknown else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="Folder for mutation.jsonl, which a later run goes on with."
    )
    parser.add_argument(
        "--path",
        action="append",
        help=f"File or folder to mutate; several may be given. All: {', '.join(PATHS)}.",
    )
    parser.add_argument(
        "--sample", type=int, help="How many mutants, from the paths in turn; all where it is not given."
    )
    parser.add_argument("--seed", type=int, default=0, help="Decides which are drawn.")
    parser.add_argument("--limit", type=float, help="Seconds after which no other mutant is begun.")
    parser.add_argument(
        "--budget", type=float, help="Seconds of tests a mutant, the quickest first; all if not given."
    )
    parser.add_argument(
        "--again", action="store_true", help="Run recorded survivors anew, after tests were added."
    )
    asked = parser.parse_args()
    root, groups = HERE.parent, []
    for name in asked.path or PATHS:
        path = root / name
        if not path.exists():
            parser.error(
                f"--path: '{name}' does not exist in the project; give a Python file or a folder of them"
            )
        groups.append(
            [
                one
                for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))
                for one in mutants(root, file)
            ]
        )
    table = json.loads((HERE / "mutation_tests.json").read_text())
    equivalent = json.loads((HERE / "equivalent_mutants.json").read_text())
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    chosen = sample(groups, asked.sample, asked.seed)
    entries = measure(
        root,
        chosen,
        table,
        asked.out / "mutation.jsonl",
        limit=asked.limit,
        budget=asked.budget,
        again=asked.again,
    )
    known = [
        one
        for name in {line["file"] for line in equivalent}
        if (root / name).is_file()
        for one in mutants(root, root / name)
    ]
    print("\n" + report(entries.values(), equivalent, known))


if __name__ == "__main__":
    main()
