"""Limits on the size of a network from a file, checked on the meta device before any allocation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from certnas.errors import UserError

LARGEST = 2**27
"""Largest number of elements of a tensor: half a GiB in float32, like the widest layer of a VGG."""
LISTED = 2**16
"""Largest number of elements of a constant whose values are settings: sizes, axes, indices."""
ALTOGETHER = 2**28
"""Largest number of elements of all tensors in one evaluation, per image."""
WORK = 5e10
"""Largest number of floating-point operations per image. A VGG-19 needs 4e10, about a second on one core."""


class Limits(TorchDispatchMode):
    """Context manager that raises UserError as soon as tensors or operations exceed the limits."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images, self.elements = images, 0
        self.counter = FlopCounterMode(display=False)

    def __enter__(self) -> Limits:
        self.counter.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self.counter.__exit__(*failure)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for piece in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(piece, Tensor):
                self._count(piece.numel())
        return result

    def _count(self, elements: int) -> None:
        self.elements += elements
        if elements > LARGEST:
            raise UserError(f"a tensor of {elements} elements; accepted: at most {LARGEST}")
        if self.elements > ALTOGETHER * self.images:
            raise UserError(f"tensors of {self.elements} elements in all; accepted: {ALTOGETHER} an image")
        if self.counter.get_total_flops() > WORK * self.images:
            raise UserError(f"more than {WORK:.0e} floating-point operations an image")


def check_limits(module: torch.nn.Module, shape: tuple[int, ...], what: str) -> None:
    """Evaluate a module on meta tensors [2, *shape]. Raises UserError if that fails, or if the network is too large."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: value.to("meta") for name, value in tensors.items()}
    x = torch.empty((2, *shape), device="meta")
    try:
        with torch.no_grad(), torch.device("meta"), Limits(2):
            torch.func.functional_call(module, state, (x,))
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} cannot be evaluated: {reason}") from error
