"""Reads JSON from untrusted sources."""

import json
import re
from typing import Any

import numpy as np

DEEPEST = 200
"""The deepest accepted nesting."""
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, as `json.loads` gives it.

    Python's reader can overflow the stack, and so end the process, on thousands of nested brackets. Raises ValueError
    if a text nests deeper than `DEEPEST` or is invalid (json.JSONDecodeError, UnicodeDecodeError).
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    brackets = np.frombuffer(_TEXT.sub(b"", data), np.uint8)
    depth = np.isin(brackets, list(b"[{")).astype(np.int64) - np.isin(brackets, list(b"]}"))
    if len(depth) and int(depth.cumsum().max()) > DEEPEST:
        raise ValueError(f"it nests deeper than {DEEPEST} brackets")
    return json.loads(text)
