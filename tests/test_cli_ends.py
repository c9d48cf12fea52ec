"""How commands end: exit codes 0, 1, 2 and 130, one line on standard error, and never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli.failure import TRACEBACK, Ended
from cli.main import Commands, main


def ending(work: Callable[[], None]) -> Result:
    """A group of one command that does this."""
    group = Commands(commands={"go": click.Command("go", callback=work)})
    return CliRunner().invoke(group, ["go"])


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


class Odd(Exception):
    """An exception of a kind that nobody has heard of."""


ENDS: list[tuple[BaseException, int, str]] = [
    (Ended("done badly", 1), 1, "done badly"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (click.UsageError("no such thing"), 2, "error: no such thing"),
    (Odd("first\nsecond"), 2, "error: Odd: first second; this is a mistake in certnas: please report it"),
    (Odd(), 2, "error: Odd: it says nothing more; this is a mistake"),
    (AssertionError(), 2, "error: AssertionError: "),
    (RecursionError("maximum recursion depth exceeded"), 2, "error: RecursionError: maximum recursion depth"),
    (OverflowError("int too large to convert"), 2, "error: OverflowError: int too large to convert; "),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "error: UnicodeDecodeError: "),
    (ValueError("a \udcff surrogate \x1b[31m"), 2, "error: ValueError: a \\udcff surrogate [31m; "),
    (MemoryError(), 2, "error: memory ran out; give less"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "error: memory ran out; give less"),
    (PermissionError(13, "Permission denied", "/some\nwhere"), 2, "error: '/some where': Permission denied"),
    (OSError(28, "No space left on device"), 2, "error: No space left on device"),
    (BrokenPipeError(32, "Broken pipe"), 2, "error: the reader of the output has closed it"),
    (Odd("x" * 10_000), 2, "error: Odd: xxx"),
]


@pytest.mark.parametrize(("error", "code", "line"), ENDS, ids=[type(end[0]).__name__ for end in ENDS])
def test_whatever_is_raised_ends_in_one_line(error: BaseException, code: int, line: str) -> None:
    result = ending(raising(error))
    told = result.stderr.strip("\n")  # click ends the line of a ^C first
    assert (result.exit_code, result.stdout) == (code, "") and isinstance(result.exception, SystemExit)
    assert told.startswith(f"certnas: {line}") and "\n" not in told and len(told) < 700


def test_what_is_done_ends_with_0() -> None:
    assert (ending(lambda: None).exit_code, ending(lambda: None).stderr) == (0, "")


def test_a_traceback_is_told_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    result = ending(raising(Odd("why")))
    assert result.exit_code == 2 and "Traceback" in result.stderr and "in work" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("certnas: error: Odd: why; ")


def test_the_help_says_what_the_exit_codes_mean() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"]).stdout.split())
    assert "Exit codes: 0, done; 1, done, and the result is wrong" in text and "130, interrupted." in text


def started(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    here = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments], cwd=here, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("full", [False, True], ids=["closed", "full"])
def test_output_that_nobody_takes(full: bool) -> None:
    if full and not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
    read, write = os.pipe()
    os.close(read)
    target = os.open("/dev/full", os.O_WRONLY) if full else write
    process = started("genotypes", "--help", stdout=target)
    for descriptor in {target, write}:
        os.close(descriptor)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2 and b"Traceback" not in told and told.count(b"\n") <= 1, told


def test_a_terminal_of_ascii_and_arguments_that_are_no_text(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = started(os.fsdecode(b"show"), os.fsdecode(b"\xff\xe9"), stdout=subprocess.PIPE, env=environment)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2 and told.count(b"\n") == 1 and b"unknown name" in told
