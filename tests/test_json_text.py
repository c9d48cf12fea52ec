"""JSON of unknown origin: the same values as Python's reader, and no overflow of the stack."""

import json
import subprocess
import sys

import pytest

from certnas.json_text import DEEPEST, parse_json


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5, null, true], "b": "]]][[[\\"\\\\", "ü": {}}',
        "[]",
        '"[[["',
        "[" * DEEPEST + "]" * DEEPEST,
    ],
)
def test_values_are_those_of_json(text: str) -> None:
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"]":'])
def test_deep_nesting_is_refused_and_ends_no_process(opening: str) -> None:
    """In a process of its own: with a raised recursion limit Python's reader ends it."""
    code = (
        "import sys; sys.setrecursionlimit(10**7); from certnas.json_text import parse_json\n"
        f"try: parse_json({opening!r} * 1_000_000)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == f"it nests deeper than {DEEPEST} brackets\n"


@pytest.mark.parametrize("text", ["", "{", "[1,]", b"\xff\xfe", '"[', "nul"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
