"""The contents of a file that has weights only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StateDict:
    """The tensors of a file."""

    tensors: Mapping[str, Tensor]
    """Parameter name -> tensor."""
    entry: str = ""
    """Location of the tensors in the file, for messages; empty for the file itself."""
