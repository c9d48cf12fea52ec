"""auto_LiRPA as an oracle: the same bounds by other people's code, refused where it is known to be wrong."""

import contextlib
import copy
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import logging
import math
import re
import sys
import time
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from certnas.errors import UserError
from certnas.models.normalize import Normalize

Method = Literal["IBP", "CROWN-IBP", "CROWN"]
Norm = Literal["linf", "l2", "l1"]
ConvMode = Literal["matrix", "patches"]

_ORDERS: dict[str, float] = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
_METHODS = ("IBP", "CROWN-IBP", "CROWN")
_CLEAN_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
_NEEDS_SHIM_BELOW = (0, 4)
_ATEN_FALLBACK_OPSET = 12


class OracleUnusable(ValueError):
    """auto_LiRPA's answer for this case would be no evidence; `why` says what disqualifies it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"auto_LiRPA is no oracle here: {why}")
        self.why = why


@dataclass(frozen=True)
class LirpaBounds:
    """auto_LiRPA's bounds of the rows: lower ≤ rows·f(x') ≤ upper is its claim, not ours."""

    lower: Tensor
    """[N, S]"""
    upper: Tensor
    """[N, S]"""
    clean: Tensor
    """Its own evaluation of the network at the centre. [N, K]"""
    version: str
    seconds: float
    """Time of the bound computation alone, without the conversion of the model."""


def auto_lirpa_bounds(
    model: nn.Module,
    x: Tensor,
    eps: float,
    norm: Norm,
    *,
    method: Method,
    rows: Tensor | None = None,
    conv_mode: ConvMode = "matrix",
    allow_unsound: bool = False,
) -> LirpaBounds:
    """Bounds of rows·f over the ball of radius eps round x (not cut to a box), by auto_LiRPA, in x's dtype.

    x [N, *shape]; eps in input units of the model; rows [N, S, K], all logits when None. The model must map
    [N, *shape] to [N, K]; it is copied, never changed. Under CROWN a unit that intervals prove stable for
    every image keeps them and any other gets backward bounds: an image's bounds depend on its company.
    Its alpha-CROWN is not offered: version 0.3 leaves the slopes where they were under a current torch.

    Raises OracleUnusable when auto_LiRPA raises, or, unless allow_unsound, when its clean output is not the
    model's or the case is one where it is known to return wrong bounds; UserError when it is not installed
    or an argument is not accepted.

    Xu et al. 2020, "Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond".
    """
    if norm not in _ORDERS:
        raise UserError(f"norm {norm!r} of auto_lirpa_bounds is not one of {', '.join(_ORDERS)}")
    if method not in _METHODS:
        raise UserError(f"method {method!r} of auto_lirpa_bounds is not one of {', '.join(_METHODS)}")
    if x.dtype not in _CLEAN_TOLERANCE:
        raise UserError(f"auto_lirpa_bounds takes x in float32 or float64, got {x.dtype}")
    model = _with_batch_axis(copy.deepcopy(model).eval().to(x))
    x = x.detach()
    with torch.no_grad():
        expected = model(x)
    if rows is None:
        rows = torch.eye(expected.shape[1]).to(expected).expand(x.shape[0], -1, -1)
    with _auto_lirpa(x.dtype) as (library, version):
        try:
            bounded = _bounded_module(library)(model, x, bound_opts={"conv_mode": conv_mode})
            with torch.no_grad():
                clean = bounded(x).clone()
        except Exception as error:
            raise OracleUnusable(f"conversion failed: {type(error).__name__}: {_one_line(error)}") from error
        why = _known_wrong(bounded, norm, conv_mode) or _clean_differs(clean, expected)
        if why and not allow_unsound:
            raise OracleUnusable(why)
        ball = library.perturbations.PerturbationLpNorm(norm=_ORDERS[norm], eps=eps)
        start = time.perf_counter()
        try:
            with torch.no_grad():
                lower, upper = bounded.compute_bounds(
                    x=(library.BoundedTensor(x, ball),), C=rows.to(x).detach(), method=method
                )
        except Exception as error:
            raise OracleUnusable(f"{method} failed: {type(error).__name__}: {_one_line(error)}") from error
        seconds = time.perf_counter() - start
    return LirpaBounds(lower, upper, clean, version, seconds)


def _with_batch_axis(model: nn.Module) -> nn.Module:
    """The same map with constants [1, C, 1, 1] in its normalisation: auto_LiRPA fails on [C, 1, 1]."""
    for module in model.modules():
        if isinstance(module, Normalize):
            module.mean, module.std = module.mean.unsqueeze(0), module.std.unsqueeze(0)
    return model


def _bounded_module(library: Any) -> Any:
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


def _known_wrong(bounded: nn.Module, norm: Norm, conv_mode: ConvMode) -> str | None:
    """Why the converted graph holds a case whose bounds are known to be violated, or None."""
    nodes = dict(bounded.named_children())
    for name, node in nodes.items():
        kind, attributes = type(node).__name__, getattr(node, "attr", None) or {}
        if kind == "BoundAveragePool":
            kernel, stride = list(attributes["kernel_shape"]), list(attributes["strides"])
            if any(attributes.get("pads", [0])) and not attributes.get("count_include_pad", 0):
                return f"average pool {name} has count_include_pad=False, which it ignores"
            if stride != kernel or any(attributes.get("pads", [0])):
                return f"average pool {name} overlaps or is padded, which its backward pass ignores"
        if kind == "BoundConv" and conv_mode == "patches":
            if attributes["group"] > 1:
                return f"patches mode ignores the groups of convolution {name}; use conv_mode='matrix'"
            if any(d > 1 for d in attributes["dilations"]):
                return f"patches mode ignores the dilation of convolution {name}; use conv_mode='matrix'"
    if norm != "linf":
        reader = _reads_ball_as_box(bounded, nodes)
        if reader:
            return f"{reader} reads the input, where the {norm} ball gets width 0; feed normalised inputs"
    return None


def _reads_ball_as_box(bounded: Any, nodes: dict[str, nn.Module]) -> str | None:
    """The first node that reads the perturbed input and does not know an l2 or l1 ball."""
    pending = [name for name, node in nodes.items() if type(node).__name__ == "BoundInput"]
    while pending:
        for name in _readers(nodes, pending.pop()):
            kind = type(nodes[name]).__name__
            if kind in ("BoundReshape", "BoundFlatten"):
                pending.append(name)
            elif kind not in ("BoundConv", "BoundLinear"):
                return f"{kind.removeprefix('Bound')} {name}"
    return None


def _readers(nodes: dict[str, Any], name: str) -> list[str]:
    return [reader for reader, node in nodes.items() if any(i is nodes[name] for i in node.inputs)]


def _clean_differs(clean: Tensor, expected: Tensor) -> str | None:
    if clean.shape != expected.shape:
        return f"its clean output has shape {list(clean.shape)}, the model's {list(expected.shape)}"
    scale = expected.abs().amax().clamp(min=1.0).item()
    difference = (clean - expected).abs().amax().item()
    if not difference <= _CLEAN_TOLERANCE[expected.dtype] * scale:
        return f"its clean output differs from the model's by {difference:.3g}"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


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
def _auto_lirpa(dtype: torch.dtype) -> Iterator[tuple[types.ModuleType, str]]:
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
            stack.callback(switch, switch(True))
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
                f"auto_LiRPA {version} cannot be imported ({_one_line(error)}); get what it needs with "
                "`uv sync --group test` or `pip install appdirs tqdm setuptools`"
            ) from error
        yield library, version


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
