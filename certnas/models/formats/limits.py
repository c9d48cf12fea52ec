"""How large a network from a file may be, found on the meta device before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from certnas.errors import UserError

LARGEST = 2**27
"""Elements that one tensor may have: half a GiB in float32, what the widest layer of a VGG takes."""
LISTED = 2**16
"""Elements that a constant may have whose values are settings: sizes, axes, indices."""
ALTOGETHER = 2**28
"""Elements that all tensors of one evaluation may have, for each image."""
WORK = 5e10
"""Floating-point operations that one image may cost: a VGG-19 takes 4e10, a second on one core."""


class Limits(TorchDispatchMode):
    """While active, raises UserError as soon as tensors made or work done exceed what is accepted."""

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
    """Evaluates a module on meta tensors [2, *shape]; raises UserError where it cannot be, or is too large."""
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
