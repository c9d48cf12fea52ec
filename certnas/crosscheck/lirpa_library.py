"""auto_LiRPA imported under a newer torch and numpy than it knows, with nothing left behind in this process."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import logging
import re
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certnas.errors import UserError

_NEEDS_SHIM_BELOW = (0, 4)


def lirpa_version() -> str:
    """The installed version of auto_LiRPA.  Raises UserError where there is none."""
    try:
        return importlib.metadata.version("auto_LiRPA")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "the cross-check needs auto_LiRPA, which is not installed; "
            "get it with `uv sync --group test` or `pip install --no-deps auto_LiRPA==0.3 appdirs tqdm`"
        ) from None


@contextlib.contextmanager
def auto_lirpa(dtype: torch.dtype) -> Iterator[tuple[types.ModuleType, str]]:
    """auto_LiRPA imported; everything that it or its shim changes in this process is put back at the end."""
    version = lirpa_version()
    root, default_dtype = logging.getLogger(), torch.get_default_dtype()
    handlers = list(root.handlers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("ignore")
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        for switch in (torch._C._jit_set_profiling_executor, torch._C._jit_set_profiling_mode):
            stack.callback(switch, switch(False))  # as its first import leaves them
        stack.callback(lambda: root.handlers.__setitem__(slice(None), handlers))
        stack.callback(torch.set_default_dtype, default_dtype)
        torch.set_default_dtype(dtype)
        if _release(version) < _NEEDS_SHIM_BELOW:
            stack.enter_context(_shim())
        try:
            library = importlib.import_module("auto_LiRPA")
            importlib.import_module("auto_LiRPA.perturbations")
        except ImportError as error:
            raise UserError(
                f"auto_LiRPA {version} cannot be imported ({one_line(error)}); get what it needs with "
                "`uv sync --group test` or `pip install appdirs tqdm setuptools`"
            ) from error
        if _release(version) < _NEEDS_SHIM_BELOW:
            stack.enter_context(_slopes_that_move())
        yield library, version


def bounded_module(library: Any) -> Any:
    """auto_LiRPA's BoundedModule, able to list its parameters under a torch newer than it knows."""
    original = library.BoundedModule
    if "remove_duplicate" in inspect.signature(original._named_members).parameters:
        return original

    class BoundedModule(original):  # type: ignore[misc, valid-type]
        def _named_members(
            self, get_members_fn: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
        ) -> Any:
            return super()._named_members(get_members_fn, prefix, recurse)

    return BoundedModule


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


@contextlib.contextmanager
def _shim() -> Iterator[None]:
    """What auto_LiRPA 0.3 expects of numpy 1 and torch 1.12, put where it looks for it, while inside."""
    node: Any = torch._C.Node
    symbolic: Any = importlib.import_module("torch.onnx.symbolic_helper")
    exporter: Any = importlib.import_module("torch.onnx.utils")._optimize_graph.__module__
    export_settings: Any = importlib.import_module(exporter).GLOBALS

    def set_opset(version: int) -> None:
        export_settings.export_onnx_opset_version = version

    with contextlib.ExitStack() as stack:
        stack.callback(set_opset, export_settings.export_onnx_opset_version)
        if importlib.util.find_spec("numpy.lib.arraysetops") is None:
            module: Any = types.ModuleType("numpy.lib.arraysetops")
            module.isin = np.isin
            sys.modules[module.__name__] = module
            stack.callback(sys.modules.pop, module.__name__)
        if not hasattr(symbolic, "_set_opset_version"):
            symbolic._set_opset_version = set_opset
            stack.callback(delattr, symbolic, "_set_opset_version")
        if not hasattr(node, "__getitem__"):
            node.__getitem__ = lambda self, name: getattr(self, self.kindOf(name))(name)
            stack.callback(delattr, node, "__getitem__")
        yield


@contextlib.contextmanager
def _slopes_that_move() -> Iterator[None]:
    """auto_LiRPA 0.3's ReLU with a gradient for slopes of 0 and 1, where all of them start.

    It clamps slopes that are in [0, 1] already, and torch's clamp no longer passes a gradient at its ends.
    """
    relu: Any = importlib.import_module("auto_LiRPA.operators.activation").BoundRelu
    original = relu.__dict__["_relu_mask_alpha"]
    relu._relu_mask_alpha = staticmethod(_lower_slopes)
    try:
        yield
    finally:
        relu._relu_mask_alpha = original


def _lower_slopes(
    lower: Tensor, upper: Tensor, *slopes: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Slopes below a ReLU on [lower, upper], 1 where it is active and 0 where not; whether no unit is ever active."""
    active, inactive = lower >= 0, upper <= 0
    free, one = (~active & ~inactive).to(lower), active.to(lower)
    of_lower, of_upper = (None if slope is None else slope * free + one for slope in slopes)
    return of_lower, of_upper, inactive.all()
