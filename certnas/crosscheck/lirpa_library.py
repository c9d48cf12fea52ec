"""Import of auto_LiRPA, old or new, under the installed torch and numpy; all changes to the process are undone."""

import contextlib
import importlib
import importlib.util
import inspect
import io
import logging
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certnas.errors import UserError

_NAME = "auto_LiRPA"
_OLD, _NEW = (0, 3), (0, 7)
_HOW = (
    "get 0.3 with `uv sync --group test` or `pip install --no-deps auto_LiRPA==0.3 appdirs tqdm setuptools`, "
    "or put a checkout of 0.7 on PYTHONPATH"
)


def lirpa_version() -> str:
    """The version of auto_LiRPA that Python imports; PYTHONPATH comes first.

    Raises UserError if there is none, or if the adapter is not tested with it.
    """
    version = _version_found()
    if version is None:
        raise UserError(f"the cross-check needs auto_LiRPA 0.3 or 0.7, and none is installed; {_HOW}")
    if _release(version) not in (_OLD, _NEW):
        raise UserError(
            f"the cross-check works with auto_LiRPA 0.3 and 0.7, and {version or 'one without a version'} "
            f"is what Python finds; {_HOW}"
        )
    return version


def _version_found() -> str | None:
    """The version that the package states.

    The metadata of an installed copy may belong to another copy than Python imports.
    """
    loaded = sys.modules.get(_NAME)
    if loaded is not None:
        return str(getattr(loaded, "__version__", ""))
    spec = importlib.util.find_spec(_NAME)
    if spec is None or spec.origin is None:
        return None
    found = re.search(r"""^__version__ *= *['"]([^'"]+)['"]""", Path(spec.origin).read_text("utf-8"), re.M)
    return found[1] if found else ""


@contextlib.contextmanager
def auto_lirpa(dtype: torch.dtype) -> Iterator[tuple[types.ModuleType, str]]:
    """Context manager that yields (auto_LiRPA, its version); all changes to the process are undone on exit."""
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
            stack.callback(switch, switch(False))  # auto_LiRPA's first import switches both off
        stack.callback(lambda: root.handlers.__setitem__(slice(None), handlers))
        stack.callback(torch.set_default_dtype, default_dtype)
        torch.set_default_dtype(dtype)
        if _release(version) == _OLD:
            stack.enter_context(_shim())
        try:
            library = importlib.import_module(_NAME)
            importlib.import_module(f"{_NAME}.perturbations")
        except ImportError as error:
            raise UserError(
                f"auto_LiRPA {version} cannot be imported ({one_line(error)}); get what it needs with "
                "`uv sync --group test` or `pip install appdirs tqdm setuptools`, for 0.7 with graphviz and packaging"
            ) from error
        stack.enter_context(_slopes_that_move())
        yield library, version


def bounded_module(library: Any) -> Any:
    """auto_LiRPA's BoundedModule, made to list its parameters under a newer torch."""
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
    """The message of an error on one line, at most 300 characters."""
    return " ".join(str(error).split())[:300]


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


@contextlib.contextmanager
def _shim() -> Iterator[None]:
    """Context manager that adds the names of numpy 1 and torch 1.12 that auto_LiRPA 0.3 needs."""
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
    """Context manager in which auto_LiRPA's ReLU slopes have gradients at 0 and 1, where all slopes start.

    auto_LiRPA clamps slopes that are already in [0, 1], and newer versions of torch pass no gradient at the
    ends of a clamp.
    """
    relu = importlib.import_module(f"{_NAME}.bound_ops").BoundRelu
    owner: Any = next(kind for kind in relu.__mro__ if "_relu_mask_alpha" in vars(kind))
    original = vars(owner)["_relu_mask_alpha"]
    owner._relu_mask_alpha = staticmethod(_lower_slopes)
    try:
        yield
    finally:
        owner._relu_mask_alpha = original


def _lower_slopes(
    lower: Tensor, upper: Tensor, *slopes: Tensor | None, leaky_alpha: float = 0.0
) -> tuple[Tensor | None, Tensor | None, Tensor | bool]:
    """Lower slopes of a ReLU on [lower, upper]: free where unstable, 1 where active, `leaky_alpha` where inactive.

    The third result is True if every slope is zero, so that the rows end at this layer.
    """
    active, inactive = lower >= 0, upper <= 0
    free, fixed = (
        (~active & ~inactive).to(lower),
        active.to(lower) + leaky_alpha * (inactive & ~active).to(lower),
    )
    of_lower, of_upper = (None if slope is None else slope * free + fixed for slope in slopes)
    return of_lower, of_upper, leaky_alpha == 0 and inactive.all()
