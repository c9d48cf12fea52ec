"""What a reader finds in a file that holds weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StateDict:
    """Tensors by parameter name; `entry` says where in the file they were, empty for the file itself."""

    tensors: Mapping[str, Tensor]
    entry: str = ""
